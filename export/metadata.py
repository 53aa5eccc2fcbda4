"""The description of a model inside its ONNX file."""

import onnx
from onnx import helper

from mrcnn.description import METADATA_KEY, Deployment


def read_deployment(model: onnx.ModelProto) -> Deployment | None:
    """What `write_deployment` has left in the model; None for a model of another program.

    Raises:
        MrcnnError: there is something, but not a `Deployment`.
    """
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return Deployment.from_json(entry.value)
    return None


def write_deployment(model: onnx.ModelProto, deployment: Deployment) -> None:
    """Replaces all metadata that the model has."""
    helper.set_model_props(model, {METADATA_KEY: deployment.to_json()})
