"""NVIDIA's package as the runtime needs it: found, kept quiet, and with our plugins in its registry."""

import importlib
import threading
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

from mrcnn.errors import MissingRequirementError, install_command
from mrcnn.plugins.toolchain import AGAIN

# The ops of the domain `mrcnn` that a plan may hold as plugins, in the registry's namespace of the same name.
PLUGINS = ("MrcnnRoIAlign", "MrcnnRoIPool", "MrcnnNMS")
NAMESPACE = "mrcnn"

_INSTALL = f"{install_command('tensorrt')}, on a Jetson: sudo apt install python3-libnvinfer"
_MOST_LINES = 64
_MOST_CHARACTERS = 300  # of TensorRT's message that become part of ours

_once = threading.Lock()
_logs: "dict[Any, ErrorLog]" = {}


def import_tensorrt(*, version: str, version_compatible: bool) -> Any:
    """The module `tensorrt`, or for a version-compatible engine `tensorrt_lean` where only that is installed.

    Args:
        version: of TensorRT that built the engine.

    Raises:
        MissingRequirementError: none is installed, or it does not load.
    """
    try:
        return importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise _broken(error) from error
    except Exception as error:  # its libraries are missing, or are those of another CUDA
        raise _broken(error) from error
    try:
        lean = importlib.import_module("tensorrt_lean")
    except Exception:  # whatever is wrong with it: the full package is what we ask for
        raise MissingRequirementError(f"TensorRT is not installed: {_INSTALL}") from None
    if not version_compatible:
        raise MissingRequirementError(
            f"only TensorRT's lean runtime is installed, which runs no engine but version-compatible ones: "
            f"pip install 'tensorrt=={version}'"
        )
    return lean


def _broken(error: Exception) -> MissingRequirementError:
    return MissingRequirementError(
        f"the package tensorrt does not load ({_one_line(str(error))}): {_INSTALL}"
    )


class _Line(NamedTuple):
    number: int
    thread: int
    text: str


class ErrorLog:
    """What TensorRT says about errors, for messages of ours; nothing is printed.

    TensorRT keeps the first logger that it is given for the life of the process, so there is one for all
    engines, which can tell whose errors they are: those of the asking thread, since a given moment.
    """

    def __init__(self) -> None:
        self._lines: deque[_Line] = deque(maxlen=_MOST_LINES)
        self._count = 0
        self._lock = threading.Lock()
        self.logger: Any = None  # the object that TensorRT calls; it must live as long as TensorRT

    def add(self, text: str) -> None:
        """Keeps an error."""
        with self._lock:
            self._count += 1
            self._lines.append(_Line(self._count, threading.get_ident(), text))

    def now(self) -> int:
        """The moment to ask `reason` about later."""
        return self._count

    def reason(self, since: int) -> str:
        """The first error of this thread since then, or of TensorRT's own threads; in one line."""
        with self._lock:
            lines = [line for line in self._lines if line.number > since]
        own = [line for line in lines if line.thread == threading.get_ident()]
        # The first is the cause, what follows are its consequences.
        return next((_one_line(line.text) for line in own or lines), "it gives no reason")


def error_log(trt: Any) -> ErrorLog:
    """The log of a TensorRT module, made at the first call; `.logger` is for `trt.Runtime`."""
    with _once:
        if trt not in _logs:
            _logs[trt] = _make_log(trt)
        return _logs[trt]


def _make_log(trt: Any) -> ErrorLog:
    log = ErrorLog()
    severities = trt.ILogger.Severity
    errors = (severities.INTERNAL_ERROR, severities.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants it by name, not by super()

        def log(self, severity: Any, msg: str) -> None:
            if severity in errors:
                log.add(msg)

    log.logger = Logger()
    return log


def load_plugins(trt: Any, library: Path, *, version: str) -> Any:
    """Puts our plugins into TensorRT's registry, unless this process did so before.

    Args:
        version: of the plugins' interface, as the graph's nodes name it.

    Returns:
        what `unload_plugins` takes; None where they were there before.

    Raises:
        MissingRequirementError: they are not there afterwards.
    """
    with _once:
        registry = trt.get_plugin_registry()
        if not _absent(registry, version):
            return None
        # It gives None for what is missing or broken, but also for what is registered already.
        handle = registry.load_library(str(library))
        absent = _absent(registry, version)
    if absent:
        raise MissingRequirementError(
            f"{library}: TensorRT {trt.__version__} does not find {_listed(absent)} in it: run {AGAIN}"
        )
    return handle


def unload_plugins(trt: Any, handle: Any) -> None:
    """Takes out what `load_plugins` put in; no engine of this process may use it any more.

    An engine that carries the library brings the same plugins, which the registry does not take twice.
    """
    if handle is not None:
        with _once:
            trt.get_plugin_registry().deregister_library(handle)


def _listed(names: list[str]) -> str:
    """ "A, B and C" """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _absent(registry: Any, version: str) -> list[str]:
    return [name for name in PLUGINS if registry.get_creator(name, version, NAMESPACE) is None]


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"
