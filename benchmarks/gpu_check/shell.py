"""Programs with a time limit, whose children end with them."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn.benchmarks.gpu_check.deadline import Deadline


@dataclass(frozen=True)
class Ran:
    """What came of a program: its status (None: it was stopped at its limit), its output, seconds."""

    code: int | None
    lines: list[str]
    seconds: float

    @property
    def last_words(self) -> str:
        """The end of the output in one line."""
        said = [line.strip() for line in self.lines if line.strip()]
        end = "stopped at its time limit" if self.code is None else f"status {self.code}"
        return f"{end}: {' | '.join(said[-6:])[-600:]}" if said else end


def run(
    command: Sequence[str],
    *,
    deadline: Deadline,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Ran:
    """Runs a program, standard error among its output, until the deadline."""
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    except OSError as error:
        return Ran(127, [f"{command[0]}: {error.strerror}"], 0.0)
    try:
        output, _ = process.communicate(timeout=max(0.1, deadline.remaining))
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        code = None
    except BaseException:  # we are being stopped
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Ran(code, output.splitlines(), round(time.monotonic() - began, 1))
