"""The errors that a user can cause, and the exit status that goes with each.

Everything that a user's file, argument or machine can make go wrong is raised as one of these, with a
message of one line that says what is wrong and what to do about it. The command line prints that line
without a traceback; any other exception is a bug of ours and keeps its traceback.
"""


class MrcnnError(Exception):
    """Wrong usage or unusable input."""

    exit_status = 2


class MissingRequirementError(MrcnnError):
    """The machine lacks something that was asked for: a package, a GPU, TensorRT."""

    exit_status = 3


# Extra of this project -> what it installs. Remedies name these packages rather than 'mrcnn[EXTRA]', since
# `mrcnn` on PyPI is another project. A test compares the table with pyproject.toml.
EXTRAS = {
    "export": (
        *("torch", "torchvision", "onnx", "onnxscript", "pycocotools", "scipy", "matplotlib", "pyyaml"),
    ),
    "gpu": ("onnxruntime-gpu",),
    "engine": ("onnx", "cuda-python", "scipy", "pycocotools"),
    "tensorrt": ("onnx", "cuda-python", "scipy", "pycocotools", "tensorrt"),
    "bench": (
        *("torch", "torchvision", "onnx", "onnxscript", "pycocotools", "scipy", "matplotlib", "pyyaml"),
        *("scikit-image", "supervision"),
    ),
}

# `onnxruntime` and `onnxruntime-gpu` install the same files, and the one that comes last wins.
FORCE_ONNXRUNTIME_GPU = "pip install --force-reinstall --no-deps onnxruntime-gpu"

# Import name -> the extra that installs it.
_EXTRA_OF = {
    "torch": "export",
    "torchvision": "export",
    "onnx": "export",
    "onnxscript": "export",
    "pycocotools": "export",
    "matplotlib": "export",
    "scipy": "export",
    "yaml": "export",
    "skimage": "bench",
    "tensorrt": "tensorrt",
}


def install_command(extra: str) -> str:
    """How to install what an extra of this project needs: "pip install onnx cuda-python …" of "engine"."""
    return f"pip install {' '.join(EXTRAS[extra])}"


def missing_package(error: ModuleNotFoundError) -> Exception:
    """The line for a package that is not installed; `error` itself where it is not one of ours to name."""
    package = (error.name or "").partition(".")[0]
    if package == "supervision":  # the one thing that its users lack
        remedy = "pip install supervision"
    elif package in _EXTRA_OF:
        remedy = install_command(_EXTRA_OF[package])
    else:
        return error
    return MissingRequirementError(f"the package {package} is not installed: {remedy}")
