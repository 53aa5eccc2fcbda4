"""Verdict on the GPU and its driver."""

from mrcnn.diagnosis.machine import Driver, Gpu, Machine
from mrcnn.diagnosis.row import Row, State, dotted


def gpu(machine: Machine) -> Row:
    """The GPUs that CUDA programs see, or what stands between."""
    driver = machine.driver
    if not driver.gpus:
        return Row("NVIDIA GPU", *_no_gpu(machine))
    board = f" on {machine.jetson}" if machine.jetson else ""
    gpus = ", ".join(_gpu_text(found) for found in driver.gpus)
    return Row("NVIDIA GPU", "ok", f"{gpus}{board}; {_driver_text(driver)}")


def _gpu_text(found: Gpu) -> str:
    facts = [] if found.capability is None else ["sm_{}{}".format(*found.capability)]
    facts += [] if found.memory_gb is None else [f"{found.memory_gb:g} GB"]
    return found.name + (f" ({', '.join(facts)})" if facts else "")


def _driver_text(driver: Driver) -> str:
    supports = "" if driver.cuda is None else f" for CUDA up to {dotted(driver.cuda)}"
    return f"driver {driver.version or 'of unknown version'}{supports}"


def _no_gpu(machine: Machine) -> tuple[State, str, str]:
    """State, detail and what to do where CUDA programs see no GPU."""
    driver = machine.driver
    if driver.error is not None:
        return "problem", f"{_driver_text(driver)}: {driver.error}", _repair(machine)
    if driver.installed:
        if driver.listed and machine.hidden_gpus is not None:
            detail = f"{len(driver.listed)}, hidden by CUDA_VISIBLE_DEVICES={machine.hidden_gpus!r}"
            return "missing", detail, "unset CUDA_VISIBLE_DEVICES"
        if driver.smi_error is not None:
            return "problem", driver.smi_error, _repair(machine)
        if driver.listed:
            return "problem", "nvidia-smi lists GPUs, but CUDA sees none", _repair(machine)
        return "missing", f"none; {_driver_text(driver)}", "nothing: the CPU does without"
    if driver.listed:
        detail = "nvidia-smi lists GPUs, but the driver's libcuda.so.1 is not found"
        if machine.container:
            return "problem", detail, "start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        return "problem", detail, "install that library (Ubuntu: libnvidia-compute, Debian: libcuda1)"
    if machine.jetson:
        if machine.container:
            return "missing", "the driver is not in this container", "docker run --runtime nvidia …"
        return "problem", "the driver is not found", "it is part of Jetson Linux: flash the board again"
    if machine.hardware:
        if machine.container:
            return "missing", "there is one, but no driver in this container", "docker run --gpus all …"
        do = "install NVIDIA's driver (Ubuntu: ubuntu-drivers install, Debian: apt install nvidia-driver)"
        return "missing", "there is one, but no driver", do
    return "missing", "none", "nothing: the CPU does without"


def _repair(machine: Machine) -> str:
    if machine.container:
        return "run nvidia-smi on the host: if it works there, start the container again"
    return "reboot, which loads the driver that was installed last; if that does not help, install it again"
