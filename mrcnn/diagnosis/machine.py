"""What this machine has: the facts that `mrcnn doctor` judges.

Nothing here raises, whatever is broken, and nothing waits longer than `PATIENCE`: drivers and native
libraries are asked in processes of their own; torch and TensorRT are not imported.
"""

import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, util
from importlib.machinery import ModuleSpec
from pathlib import Path

from mrcnn.plugins import build, interface, toolchain
from mrcnn.plugins.toolchain import Tool, ToolError

# Seconds that a program may take to answer.
PATIENCE = 2.5

ROOT = Path("/")

# The module that a distribution installs; several may install the same one.
MODULES = {
    "numpy": "numpy",
    "opencv-python-headless": "cv2",
    "opencv-python": "cv2",
    "opencv-contrib-python": "cv2",
    "pillow": "PIL",
    "tqdm": "tqdm",
    "onnxruntime": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime",
    "torch": "torch",
    "torchvision": "torchvision",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "pycocotools": "pycocotools",
    **dict.fromkeys(("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "tensorrt"),
    "cuda-bindings": "cuda.bindings",
    **dict.fromkeys(("tensorrt-lean", "tensorrt-lean-cu13", "tensorrt-lean-cu12"), "tensorrt_lean"),
}

_FUNCTIONS = tuple(interface.FUNCTIONS)
# Without these TensorRT's registry finds no plugin in a library.
_PLUGIN_FUNCTIONS = ("getCreators", "setLoggerFinder")


@dataclass(frozen=True)
class Gpu:
    """A GPU; `capability` is its compute capability, (9, 0), or None where only nvidia-smi answers."""

    name: str
    capability: tuple[int, int] | None = None
    memory_gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Driver:
    """NVIDIA's driver.

    Args:
        installed: libcuda is there.
        version: "580.65.06". cuda: the newest CUDA that it supports. gpus: those that CUDA programs see.
        listed: those that nvidia-smi lists.
        error: what libcuda complains of. smi_error: what nvidia-smi complains of, where it is there.
    """

    installed: bool = False
    version: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    listed: tuple[Gpu, ...] = ()
    error: str | None = None
    smi_error: str | None = None


@dataclass(frozen=True)
class Found:
    """A tool, and what is wrong with it; neither where there is none."""

    tool: Tool | None = None
    error: str | None = None


@dataclass(frozen=True)
class Library:
    """A native library: its mrcnnBuildInfo, or what is wrong with it; neither where it was not built."""

    path: Path
    info: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime's providers, or why it cannot be imported."""

    providers: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """All that `mrcnn doctor` looks at.

    Args:
        jetson: the board's name, or None elsewhere.
        hardware: an NVIDIA display device is on the PCI bus, whether or not it has a driver.
        hidden_gpus: the variable CUDA_VISIBLE_DEVICES.
        packages: distribution -> version, of those that are installed.
        modules: import names that are found.
        torch_cuda: the CUDA that PyTorch was built for, None for none.
        left_out: what the last build of the native libraries left out, one line each.
    """

    python: str = platform.python_version()
    system: str = f"{platform.system()} {platform.machine()}"
    jetson: str | None = None
    container: bool = False
    hardware: bool = False
    hidden_gpus: str | None = None
    packages: Mapping[str, str]
    modules: frozenset[str]
    torch_cuda: str | None = None
    onnxruntime: OnnxRuntime
    driver: Driver
    compiler: Found
    cmake: Found
    nvcc: Found
    tensorrt_root: str | None = None
    headers: Tool | None = None
    kernels: Library
    plugins: Library
    left_out: tuple[str, ...] = ()


def survey() -> Machine:
    """Looks at everything; at what may be slow, at the same time."""
    folder = build.SOURCES / "lib"
    root = os.environ.get("TENSORRT_ROOT") or None
    with ThreadPoolExecutor(max_workers=6) as pool:
        driver = pool.submit(find_driver)
        tools = [pool.submit(find_tool, find) for find in _TOOLS]
        libraries = [pool.submit(find_library, folder / name, functions) for name, functions in _LIBRARIES]
        return Machine(
            jetson=find_jetson(ROOT),
            container=any((ROOT / name).exists() for name in (".dockerenv", "run/.containerenv")),
            hardware=has_nvidia_hardware(ROOT),
            hidden_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
            packages=installed_packages(MODULES),
            modules=importable(set(MODULES.values())),
            torch_cuda=find_torch_cuda(),
            onnxruntime=find_onnxruntime(),
            tensorrt_root=root,
            headers=toolchain.find_tensorrt(root),
            left_out=find_left_out(folder / build.REPORT),
            driver=driver.result(),
            compiler=tools[0].result(),
            cmake=tools[1].result(),
            nvcc=tools[2].result(),
            kernels=libraries[0].result(),
            plugins=libraries[1].result(),
        )


def find_tool(find: Callable[[float], Tool | None]) -> Found:
    """What one of toolchain's functions finds."""
    try:
        return Found(find(PATIENCE))
    except ToolError as error:
        return Found(error=str(error))


def find_library(path: Path, functions: Sequence[str]) -> Library:
    """Whether a native library is there, can be loaded and has its functions."""
    if not path.exists():
        return Library(path)
    try:
        return Library(path, info=build.library_info(path, functions=functions, timeout=PATIENCE))
    except ToolError as error:
        return Library(path, error=str(error).replace(f"{path.resolve()}: ", ""))


def find_driver() -> Driver:
    """What libcuda and nvidia-smi say, each of which may be missing or broken."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        smi = pool.submit(ask_nvidia_smi)
        try:
            cuda = toolchain.probe("gpus", timeout=PATIENCE)
        except ToolError as error:
            cuda = {"installed": True, "cuda": None, "gpus": [], "error": f"libcuda: {error}"}
        version, listed, smi_error = smi.result()
    return Driver(
        installed=cuda["installed"],
        version=version or kernel_module_version(ROOT),
        cuda=None if cuda["cuda"] is None else (cuda["cuda"][0], cuda["cuda"][1]),
        gpus=tuple(
            Gpu(gpu["name"], (major, minor), round(gpu["memory_bytes"] / 1e9, 1))
            for gpu in cuda["gpus"]
            for major, minor in [gpu["capability"]]
        ),
        listed=listed,
        error=cuda["error"] if cuda["installed"] else None,
        smi_error=smi_error,
    )


def ask_nvidia_smi() -> tuple[str | None, tuple[Gpu, ...], str | None]:
    """The driver's version, the GPUs that nvidia-smi lists, and what is wrong with it; Nones without it."""
    program = toolchain.find_program("nvidia-smi", folders=["/usr/lib/wsl/lib"])
    if program is None:
        return None, (), None
    query = ["--query-gpu=driver_version,compute_cap,memory.total,name", "--format=csv,noheader,nounits"]
    try:
        return *read_nvidia_smi(toolchain.answer([program, *query], timeout=PATIENCE)), None
    except ToolError as error:
        return None, (), str(error)


def read_nvidia_smi(text: str) -> tuple[str | None, tuple[Gpu, ...]]:
    """The driver's version and the GPUs in lines such as "580.65.06, 9.0, 81559, NVIDIA H100".

    Lines of another form are passed over; a value that is none, such as "[N/A]", is None.
    """
    version, gpus = None, []
    for line in text.splitlines():
        fields = [part.strip() for part in line.split(",", 3)]
        if len(fields) < 4:
            continue
        if re.fullmatch(r"\d+(\.\d+)+", fields[0]):
            version = fields[0]
        capability = re.fullmatch(r"(\d+)\.(\d+)", fields[1])
        memory = float(fields[2]) * 2**20 / 1e9 if fields[2].isdecimal() else None
        gpus.append(
            Gpu(
                fields[3],
                capability=(int(capability[1]), int(capability[2])) if capability else None,
                memory_gb=None if memory is None else round(memory, 1),
            )
        )
    return version, tuple(gpus)


def kernel_module_version(root: Path) -> str | None:
    """The driver's version as its kernel module tells it."""
    found = re.search(r"Module\b.*?\s(\d+\.\d+(?:\.\d+)?)\s", _read(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def find_jetson(root: Path) -> str | None:
    """The name of a Jetson board with its release of Jetson Linux; None on other machines."""
    model = _read(root / "proc/device-tree/model").strip("\0\n ")
    release = re.search(r"R(\d+).*?REVISION: ([\d.]+)", _read(root / "etc/nv_tegra_release"))
    compatible = _read(root / "proc/device-tree/compatible")
    if "nvidia,tegra" not in compatible and "Jetson" not in model and release is None:
        return None
    return (model or "NVIDIA Jetson") + (f", Jetson Linux {release[1]}.{release[2]}" if release else "")


def has_nvidia_hardware(root: Path) -> bool:
    """Whether a display device or 3D controller of NVIDIA is on the PCI bus."""
    return any(
        _read(device / "vendor").strip() == "0x10de" and _read(device / "class").startswith("0x03")
        for device in (root / "sys/bus/pci/devices").glob("*")
    )


def installed_packages(names: Iterable[str]) -> dict[str, str]:
    """Those distributions that are installed, with their versions."""
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            # A damaged installation has no version.
            found[name] = str(metadata.version(name) or "of unknown version")
    return found


def importable(names: Iterable[str]) -> frozenset[str]:
    """Those modules that are found; none is imported, but for the folder `cuda` around `cuda.bindings`."""
    return frozenset(name for name in names if _spec(name) is not None)


def find_torch_cuda() -> str | None:
    """The CUDA that PyTorch was built for, read from its file, since importing it takes seconds."""
    spec = _spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = _read(Path(spec.origin).with_name("version.py"))
    found = re.search(r"^cuda\b.*= '([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else None


def find_onnxruntime() -> OnnxRuntime:
    """ONNX Runtime's providers; it may be missing, or be damaged in a way of its own."""
    try:
        from mrcnn.runtime.ort import import_onnxruntime

        return OnnxRuntime(providers=tuple(import_onnxruntime().get_available_providers()))
    except Exception as error:  # whatever a broken installation raises
        return OnnxRuntime(error=" ".join(f"{type(error).__name__}: {error}".split())[:200])


def find_left_out(path: Path) -> tuple[str, ...]:
    """What the last build left out, as its report says; () without a readable one."""
    try:
        return tuple(str(line) for line in json.loads(_read(path))["left_out"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def _spec(name: str) -> ModuleSpec | None:
    try:
        return util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: something else has taken the name
        return None


def _read(path: Path) -> str:
    """A small file's text; "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


_TOOLS = (toolchain.find_compiler, toolchain.find_cmake, toolchain.find_nvcc)
_LIBRARIES = ((build.KERNELS, _FUNCTIONS), (build.PLUGINS, (*_FUNCTIONS, *_PLUGIN_FUNCTIONS)))
