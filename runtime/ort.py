"""ONNX Runtime, as every part of this project imports it."""

import os
from typing import Any


def import_onnxruntime() -> Any:
    """The package onnxruntime, kept from sending its usage over the network."""
    # The variable counts when the package is imported for the first time, the call for where somebody did
    # that before.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime
