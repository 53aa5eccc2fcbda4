"""The command line as a process: its streams, its signals, and errors that no command expects."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn import cli

COMMAND = [sys.executable, "-m", "mrcnn.cli"]


def shell(line: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = f"{' '.join(COMMAND)} {line}"
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=os.environ | environment, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    program = "import sys; from mrcnn import cli; cli.run_command = print; sys.exit(cli.main(['infer']))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "mrcnn infer: error: cannot write the output: No space left on device\n"
    assert shell("infer missing.onnx a.png --output missing 2> /dev/full").returncode == 2


def test_closed_streams() -> None:
    done = shell("infer --help >&-")
    assert (done.returncode, done.stderr) == (0, "")
    missing = "infer missing.onnx missing.png --output missing"
    assert shell(f"{missing} 2>&-").returncode == 2
    assert shell(f"{missing} >&- 2>&-").returncode == 2


def test_a_stream_without_unicode() -> None:
    done = shell("infer modèle.onnx a.png --output missing", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert done.stderr.startswith("mrcnn infer: error: mod\\xe8le.onnx: ")


@pytest.mark.parametrize(
    ("error", "message"),
    [(MemoryError(), "not enough memory"), (RecursionError("deep"), "nested too deeply")],
)
def test_errors_of_the_machine_are_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "run_command", fail)
    assert cli.main(["infer"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("mrcnn infer: error: ")
    assert message in printed
    assert printed.count("\n") == 1


def test_termination_removes_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mrcnn.files import atomic_path

    def work(*_: object) -> int:
        with atomic_path(tmp_path / "result.json"):
            assert len(list(tmp_path.iterdir())) == 1
            os.kill(os.getpid(), signal.SIGTERM)

        return 0

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # without a handler, the test would die
    try:
        monkeypatch.setattr(cli, "run_command", work)
        assert cli.main(["infer"]) == 143
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == "mrcnn infer: terminated\n"


def test_an_error_stays_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(tmp_path / "a\nb\x1b[2J.onnx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "a\\nb\\x1b[2J.onnx" in line
