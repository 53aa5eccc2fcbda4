"""Verdicts on the Python packages."""

from collections.abc import Sequence

from mrcnn.diagnosis.machine import MODULES, Machine
from mrcnn.diagnosis.row import NO_GPU, Row, dotted, numbers
from mrcnn.errors import FORCE_ONNXRUNTIME_GPU, install_command
from mrcnn.plugins.toolchain import MINIMUM_TENSORRT

REQUIRED = ("numpy", "opencv-python-headless", "pillow", "tqdm")
EXPORT = ("torchvision", "onnx", "onnxscript", "pycocotools")

# Wheels that PyPI does not have for this board.
JETSON_WHEELS = "https://pypi.jetson-ai-lab.io"

_TO_EXPORT = f"to train and export: {install_command('export')}"


def required(machine: Machine) -> Row:
    """What every command needs."""
    absent = _absent(machine, REQUIRED)
    if absent:
        return Row("packages", "problem", f"{', '.join(absent)} not found", f"pip install {' '.join(absent)}")
    return Row("packages", "ok", _versions(machine, REQUIRED))


def export(machine: Machine) -> Row:
    """What `mrcnn export` and `mrcnn train` need besides torch."""
    absent = _absent(machine, EXPORT)
    if absent:
        return Row("export packages", "missing", f"{', '.join(absent)} not installed", _TO_EXPORT)
    return Row("export packages", "ok", _versions(machine, EXPORT))


def onnxruntime(machine: Machine) -> Row:
    """ONNX Runtime, and whether it can use the GPU."""
    name, found = "ONNX Runtime", machine.onnxruntime
    if found.error is not None:
        again = "--force-reinstall " if "onnxruntime" in machine.modules else ""
        return Row(name, "problem", found.error, f"pip install {again}onnxruntime")
    providers = ", ".join(provider.removesuffix("ExecutionProvider") for provider in found.providers)
    detail = f"{_versions(machine, ['onnxruntime'])}; providers {providers}"
    if not machine.driver.gpus or "CUDAExecutionProvider" in found.providers:
        return Row(name, "ok", detail)
    jetson = f"onnxruntime-gpu for your JetPack from {JETSON_WHEELS}"
    return Row(name, "missing", f"{detail}, not CUDA", jetson if machine.jetson else FORCE_ONNXRUNTIME_GPU)


def torch(machine: Machine) -> Row:
    """PyTorch, and whether its CUDA suits the driver."""
    name, driver = "PyTorch", machine.driver
    if "torch" not in machine.modules:
        return Row(name, "missing", "not installed", _TO_EXPORT)
    version = machine.packages.get("torch", "of unknown version")
    if machine.torch_cuda is None:
        detail = f"{version}, built without CUDA"
        if not driver.gpus:
            return Row(name, "ok", detail)
        return Row(name, "missing", detail, f"to train on the GPU: {_torch_for(machine)}")
    detail = f"{version}, built for CUDA {machine.torch_cuda}"
    if driver.cuda is not None and numbers(machine.torch_cuda)[:1] > driver.cuda[:1]:
        detail += f", while the driver supports {dotted(driver.cuda)}: it sees no GPU"
        return Row(name, "problem", detail, f"update the driver, or {_torch_for(machine)}")
    return Row(name, "ok", detail)


def _torch_for(machine: Machine) -> str:
    """How to get a PyTorch that this machine's driver can run."""
    if machine.jetson:
        return f"torch and torchvision for your JetPack from {JETSON_WHEELS}"
    index = "cu126" if (machine.driver.cuda or (13, 0)) < (13, 0) else "cu130"
    packages = "--force-reinstall torch torchvision"
    return f"pip install {packages} --index-url https://download.pytorch.org/whl/{index}"


def tensorrt(machine: Machine) -> Row:
    """The full TensorRT, which builds engines; it is never imported, since that needs a driver."""
    name, found = "TensorRT", distribution(machine, "tensorrt")
    if found is not None and "tensorrt" not in machine.modules:
        again = f"pip install --force-reinstall {found[0]}"
        return Row(name, "problem", f"{found[1]} installed, but no module tensorrt", again)
    if "tensorrt" in machine.modules:
        if found is not None and numbers(found[1]) < MINIMUM_TENSORRT:
            do = "JetPack 6.1 or newer has it" if machine.jetson else "pip install --upgrade 'tensorrt>=10.3'"
            return Row(name, "missing", f"{found[1]}, older than {dotted(MINIMUM_TENSORRT)}", do)
        return Row(name, "ok", found[1] if found else "of unknown version")
    if machine.jetson:
        do = "sudo apt install nvidia-jetpack; a venv sees it with --system-site-packages"
        return Row(name, "missing", "not found by this Python", do)
    if not machine.driver.gpus:
        return Row(name, "missing", "not installed", NO_GPU)
    return Row(name, "missing", "not installed", _install_tensorrt(machine))


def tensorrt_lean(machine: Machine) -> Row:
    """The lean TensorRT, which only runs engines."""
    name, found = "TensorRT lean", distribution(machine, "tensorrt_lean")
    if "tensorrt_lean" in machine.modules:
        return Row(name, "ok", found[1] if found else "of unknown version")
    if not machine.driver.gpus:
        return Row(name, "missing", "not installed", NO_GPU)
    package = "tensorrt-lean-cu12" if _old_cuda(machine) else "tensorrt-lean"
    do = f"only to run version-compatible engines without the full TensorRT: pip install {package}"
    return Row(name, "missing", "not installed", do)


def cuda_python(machine: Machine) -> Row:
    """NVIDIA's cuda-python, by which the runtime reaches the GPU."""
    name, found, cuda = "cuda-python", distribution(machine, "cuda.bindings"), machine.driver.cuda
    do = f"pip install 'cuda-python>=12.9.1{',<13' if _old_cuda(machine) else ''}'"
    if found is None or "cuda.bindings" not in machine.modules:
        return Row(name, "missing", "not installed", do if machine.driver.gpus else NO_GPU)
    if cuda is not None and numbers(found[1])[:1] > cuda[:1]:
        detail = f"{found[1]}, for a newer CUDA than the driver's {dotted(cuda)}"
        return Row(name, "problem", detail, f"update the driver, or {do}")
    return Row(name, "ok", found[1])


def _install_tensorrt(machine: Machine) -> str:
    """For this machine's driver: a package without a suffix is for the newest CUDA."""
    if _old_cuda(machine):
        return "pip install 'tensorrt-cu12>=10.3' 'cuda-python>=12.9.1,<13'"
    return install_command("tensorrt")


def _old_cuda(machine: Machine) -> bool:
    return machine.driver.cuda is not None and machine.driver.cuda < (13, 0)


def _absent(machine: Machine, names: Sequence[str]) -> list[str]:
    return [name for name in names if MODULES[name] not in machine.modules]


def distribution(machine: Machine, module: str) -> tuple[str, str] | None:
    """Name and version of the first installed distribution of a module."""
    return next(((name, machine.packages[name]) for name in _candidates(machine, module)), None)


def _candidates(machine: Machine, module: str) -> list[str]:
    return [name for name, installs in MODULES.items() if installs == module and name in machine.packages]


def _versions(machine: Machine, names: Sequence[str]) -> str:
    """Names and versions of what is installed, or of what takes its place."""
    found = [_candidates(machine, MODULES[name]) or [name] for name in names]
    known = {name: f" {version}" for name, version in machine.packages.items()}
    return ", ".join(name + known.get(name, "") for group in found for name in group)
