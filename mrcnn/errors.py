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


# Import name -> the extra of this project that installs it.
_EXTRAS = {
    "torch": "export",
    "torchvision": "export",
    "onnx": "export",
    "onnxscript": "export",
    "pycocotools": "export",
    "matplotlib": "export",
    "scipy": "export",
    "skimage": "bench",
    "supervision": "bench",
    "tensorrt": "tensorrt",
}


def missing_package(error: ModuleNotFoundError) -> Exception:
    """The line for a package that is not installed; `error` itself where it is not one of ours to name."""
    package = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(package)
    if extra is None:
        return error
    return MissingRequirementError(f"the package {package} is not installed: pip install 'mrcnn[{extra}]'")
