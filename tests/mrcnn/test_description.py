"""The model description: JSON round trip, refusals by name, and torchvision's arithmetic of sizes."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mrcnn.description import Deployment, KeypointRule, ModelDescription, ResizeRule
from mrcnn.errors import MrcnnError
from mrcnn.families import describe

DESCRIPTION = ModelDescription(architecture="maskrcnn_resnet50_fpn", class_names=("__background__", "coin"))


def plain() -> dict[str, Any]:
    return json.loads(json.dumps(DESCRIPTION.to_dict()))


def test_description_survives_json() -> None:
    assert ModelDescription.from_dict(plain()) == DESCRIPTION


def test_key_points_survive_json() -> None:
    persons = describe("keypointrcnn_resnet50_fpn", ("__background__", "person"))
    assert persons.keypoints is not None
    assert ModelDescription.from_dict(json.loads(json.dumps(persons.to_dict()))) == persons


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ()}, "the number of names must be in 1…1000 (got 0)"),
        ({"names": ("nose", " ")}, "a name must be a line of text"),
        ({"names": ("nose", "nose")}, "two points have the same name"),
        ({"mirrored": ((0, 3),)}, "mirrored must hold pairs of 0…2 (got [0, 3])"),
        ({"mirrored": ((0, 1), (1, 2))}, "mirrored has a point twice"),
        ({"skeleton": ((1, 1),)}, "skeleton must hold pairs of 0…2 (got [1, 1])"),
        ({"skeleton": ((-1, 1),)}, "skeleton must hold pairs"),
    ],
)
def test_key_points_that_make_no_sense_are_refused(change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"names": ("nose", "left", "right"), "mirrored": ((1, 2),), "skeleton": ((0, 1),)}
    assert KeypointRule(**good).mirror_order == (0, 2, 1)
    with pytest.raises(MrcnnError) as error:
        KeypointRule(**good | change)
    assert words in str(error.value)


def test_key_points_belong_to_keypoint_models_alone() -> None:
    rule = KeypointRule(names=("tip",))
    with pytest.raises(MrcnnError, match="keypoints must be absent for the architecture 'maskrcnn_"):
        replace(DESCRIPTION, keypoints=rule)
    with pytest.raises(MrcnnError, match="keypoints must be named for the architecture 'keypointrcnn_"):
        replace(DESCRIPTION, architecture="keypointrcnn_resnet50_fpn")


def test_deployment_survives_json() -> None:
    deployment = Deployment(
        description=DESCRIPTION, height=64, width=320, batch=2, mask_size=28, built_with={"torch": "2"}
    )
    assert Deployment.from_json(deployment.to_json()) == deployment


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"width": "wide"}, "description.width: expected float (got 'wide')"),
        ({"class_names": "coin"}, "class_names: expected a list"),
        ({"class_names": ["coin"]}, "class_names must start with '__background__'"),
        ({"class_names": ["__background__", 3]}, "class_names[1]: expected str (got 3)"),
        ({"norm": "group"}, "norm must be one of batch, frozen"),
        ({"resize": {"min_size": 900, "max_size": 800}}, "0 < min_size <= max_size"),
        ({"resize": {"size_divisible": 20}}, "multiple of 32"),
        ({"resize": [800]}, "resize: expected an object"),
        ({"normalization": {"mean": [1, 2]}}, "mean: expected a list of 3"),
        ({"normalization": {"std": [1, 0, 1]}}, "std must be in"),
        ({"anchors": {"sizes": [[32]]}}, "one entry per feature level"),
        ({"normalization": {"std": [1, 1, 1e999]}}, "std must be in"),
        ({"proposals": {"pre_nms_top_n": 3840}}, "pre_nms_top_n must be in 1…3839 (got 3840)"),
        ({"proposals": {"nms_threshold": float("nan")}}, "nms_threshold must be in 0…1 (got nan)"),
        ({"proposals": {"min_size": -1.0}}, "proposals: min_size"),
        ({"rois": {"box_size": 0}}, "box_size must be in 1…64"),
        ({"rois": {"sampling_ratio": -1}}, "sampling_ratio"),
        ({"detections": {"score_threshold": 2.0}}, "detections: score_threshold must be in 0…1"),
        ({"detections": {"delta_weights": [0.0, 1.0, 1.0, 1.0]}}, "a delta weight"),
        ({"anchors": {"sizes": [[0]] * 5}}, "anchors: a size must be in 1…"),
        ({"anchors": {"sizes": [[]] * 5}}, "their number"),
        ({"anchors": {"aspect_ratios": [[float("nan")]] * 5}}, "an aspect ratio"),
        ({"width": 1e9}, "width must be in"),
        ({"norm_eps": -1.0}, "norm_eps must be in"),
        ({"resize": {"min_size": 10**9, "max_size": 10**9}}, "max_size must be in"),
        ({"class_names": ["__background__", "two\nlines"]}, "a name must be a line of text"),
        ({"class_names": ["__background__"] + ["x"] * 20_000}, "number of classes"),
        ({"detections": {"detections_per_image": 0}}, "detections_per_image"),
    ],
)
def test_wrong_descriptions_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MrcnnError) as error:
        ModelDescription.from_dict(plain() | change)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_key_is_named() -> None:
    with pytest.raises(MrcnnError, match="key 'architecture' is missing"):
        ModelDescription.from_dict({"class_names": ["__background__", "coin"]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"height": 33, "width": 64}, "for example 64x64"),
        ({"height": 0, "width": 64}, "multiples of 32"),
        ({"height": 64}, "both be fixed or both be dynamic"),
        ({"height": 32768, "width": 32768}, "more than 33,554,432 pixels"),
        ({"batch": -1}, "batch must be in 1…1024"),
        ({"batch": 10**9}, "batch must be in 1…1024"),
        ({"mask_size": None}, "mask_size must be 28"),
        ({"mask_size": 14}, "mask_size must be 28"),
        ({"precision": "zz"}, "precision must be one of fp32, fp16, int8"),
        ({"precision": "int8"}, "quantized_for must be one of tensorrt, cpu"),
        ({"precision": "fp16", "quantized_for": "cpu"}, "quantized_for must be one of None"),
        ({"plugin_version": "9"}, "plugin_version must be one of 1"),
        ({"input_dtype": "int8"}, "input_dtype must be one of"),
    ],
)
def test_wrong_deployments_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    good = Deployment(description=DESCRIPTION, height=None, width=None, batch=None, mask_size=28)
    with pytest.raises(MrcnnError) as error:
        Deployment.from_json(json.dumps(json.loads(good.to_json()) | change))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"format_version": 2}', "[" * 100_000])
def test_foreign_metadata_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(MrcnnError) as error:
        Deployment.from_json(text)
    assert "\n" not in str(error.value)


def test_output_size_equals_torchvision() -> None:
    rng = np.random.default_rng(0)
    sizes = [
        (480, 640),
        (427, 640),
        (640, 427),
        (1, 1),
        (303, 384),
        *rng.integers(20, 900, (200, 2)).tolist(),
    ]
    for rule in (ResizeRule(), ResizeRule(min_size=320, max_size=500)):
        transform = GeneralizedRCNNTransform(rule.min_size, rule.max_size, [0.0] * 3, [1.0] * 3).eval()
        for height, width in sizes:
            # One channel row is enough: only the shape is asked for.
            resized, _ = transform.resize(torch.zeros(1, height, width))
            assert rule.output_size(height, width) == tuple(resized.shape[-2:]), (height, width)


def test_output_size_stays_within_a_limit_and_is_never_zero() -> None:
    rule = ResizeRule()
    assert rule.output_size(1000, 500, limit=(800, 1344)) == (800, 400)
    assert rule.output_size(20000, 10) == (1333, 1)


def test_padded_size_rounds_up() -> None:
    assert ResizeRule().padded_size(800, 1066) == (800, 1088)
    assert ResizeRule().padded_size(1, 32) == (32, 32)


def test_labels_count_the_background() -> None:
    assert DESCRIPTION.num_classes == 2
    assert DESCRIPTION.has_masks
    assert not replace(DESCRIPTION, architecture="fasterrcnn_resnet50_fpn").has_masks


def test_a_number_that_no_float_can_hold_is_one_line() -> None:
    plain = ModelDescription(
        architecture="maskrcnn_resnet50_fpn", class_names=("__background__", "a")
    ).to_dict()
    with pytest.raises(MrcnnError, match="width: expected a number of sensible size"):
        ModelDescription.from_dict({**plain, "width": 10**400})
