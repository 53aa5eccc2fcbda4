"""The contract of the outputs, by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mrcnn.description import Deployment
from mrcnn.families import describe
from mrcnn.runtime.outputs import expected_outputs, keep_contract
from tests.runtime.conftest import DESCRIPTION, MASK_SIZE

DEPLOYMENT = Deployment(description=DESCRIPTION, height=None, width=None, batch=None, mask_size=MASK_SIZE)
BOXES_ONLY = replace(
    DEPLOYMENT, description=replace(DESCRIPTION, architecture="fasterrcnn_resnet50_fpn"), mask_size=None
)
PERSONS = replace(BOXES_ONLY, description=describe("keypointrcnn_resnet50_fpn", ("__background__", "person")))


def good(deployment: Deployment = DEPLOYMENT) -> dict[str, Any]:
    expected = expected_outputs(deployment, rows=2, slots=3)
    return {name: np.zeros(shape, dtype) for name, (dtype, shape) in expected.items()}


def test_names_types_and_shapes() -> None:
    expected = expected_outputs(DEPLOYMENT, rows=2, slots=3)
    assert {name: (dtype.name, shape) for name, (dtype, shape) in expected.items()} == {
        "num_detections": ("int32", (2,)),
        "boxes": ("float32", (2, 3, 4)),
        "scores": ("float32", (2, 3)),
        "labels": ("int32", (2, 3)),
        "masks": ("float32", (2, 3, 28, 28)),
    }
    assert set(expected_outputs(BOXES_ONLY, rows=1, slots=1)) == set(expected) - {"masks"}


def test_key_points_are_heatmaps() -> None:
    expected = expected_outputs(PERSONS, rows=2, slots=3)
    assert expected["keypoints"] == (np.dtype(np.float32), (2, 3, 17, 56, 56))
    assert set(expected) == {*expected_outputs(BOXES_ONLY, rows=2, slots=3), "keypoints"}
    fewer = good(PERSONS) | {"keypoints": np.zeros((2, 3, 16, 56, 56), np.float32)}
    assert not keep_contract(fewer, rows=2, deployment=PERSONS)


@pytest.mark.parametrize(
    "deployment", [DEPLOYMENT, BOXES_ONLY, PERSONS], ids=["masks", "boxes", "key points"]
)
def test_what_keeps_it(deployment: Deployment) -> None:
    outputs = good(deployment)
    assert keep_contract(outputs, rows=2, deployment=deployment)
    outputs["num_detections"][:] = 0, 3
    assert keep_contract(outputs, rows=2, deployment=deployment)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_detections", np.array([0, 4], np.int32)),
        ("num_detections", np.array([-1, 0], np.int32)),
        ("num_detections", np.zeros(2, np.int64)),
        ("num_detections", np.zeros((2, 1), np.int32)),
        ("scores", np.full((2, 3), np.nan, np.float32)),
        ("scores", np.zeros((2, 3, 1), np.float32)),
        ("scores", np.zeros((1, 3), np.float32)),
        ("scores", [[0.0] * 3] * 2),
        ("boxes", np.zeros((2, 3, 4), np.float64)),
        ("boxes", np.zeros((2, 4, 4), np.float32)),
        ("labels", np.zeros((2, 3), np.int64)),
        ("masks", np.zeros((2, 3, 14, 14), np.float32)),
    ],
)
def test_what_breaks_it(name: str, value: Any) -> None:
    assert not keep_contract(good() | {name: value}, rows=2, deployment=DEPLOYMENT)
