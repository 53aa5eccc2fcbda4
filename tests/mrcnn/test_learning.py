"""Each loss falls, small models reach a stated precision, and masks of classes do not compete."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from mrcnn.data.synthetic import SyntheticDataset
from mrcnn.description import AnchorRule, DetectionRule, ModelDescription, ResizeRule, RoiRule
from mrcnn.families import describe
from mrcnn.models import build_model
from mrcnn.training.distributed import World
from mrcnn.training.loop import Run, train
from mrcnn.training.options import TrainingOptions
from mrcnn.training.sampling import Sampling
from tests.mrcnn.persons import Persons, small_keypoint_rcnn

SIDE = (64, 64)
SMALL: dict[str, Any] = {
    "width": 0.25,
    "resize": ResizeRule(min_size=64, max_size=64),
    "anchors": AnchorRule(sizes=((8,), (16,), (32,), (64,), (128,))),
}
MASK_MODEL = describe("maskrcnn_mobilenet_v2_fpn", ("__background__", "coin"), **SMALL)
KEYPOINT_MODEL = describe(
    "keypointrcnn_resnet50_fpn",
    ("__background__", "person"),
    rois=RoiRule(keypoint_size=7),
    detections=DetectionRule(detections_per_image=10),
    **SMALL,
)
COMMON = ("classifier", "box_reg", "objectness", "rpn_box_reg")
WINDOW = 10  # iterations whose mean is compared
FALLEN = 0.9  # of the first iterations' loss
STATED_AP = 12


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For tensors this small threads do nothing but wait for each other, on a busy machine for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learn(
    output: Path,
    description: ModelDescription,
    *,
    data: SyntheticDataset,
    validation: SyntheticDataset | None = None,
    build: Callable[[ModelDescription], GeneralizedRCNN] = build_model,
    **options: Any,
) -> dict[str, Any]:
    """Trains and returns the metrics."""
    torch.manual_seed(7)
    settings = TrainingOptions(
        warmup=10, steps=(options["iterations"] * 3 // 4,), snapshot_every=options["iterations"], **options
    )
    run = Run(
        description=description,
        options=settings,
        world=World(device=torch.device("cpu")),
        output=output,
        facts={},
    )
    return train(build(description), run, data=data, validation=validation)


def ratios(output: Path) -> dict[str, float]:
    """By each loss's name, its mean over the last iterations as a fraction of that over the first."""
    records = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    losses = [record["losses"] for record in records if "losses" in record]

    def mean(name: str, part: slice) -> float:
        return sum(step[name] for step in losses[part]) / WINDOW

    return {name: mean(name, slice(-WINDOW, None)) / mean(name, slice(WINDOW)) for name in losses[0]}


@pytest.mark.parametrize(
    ("rate", "iterations", "falls"), [(0.02, 120, {*COMMON, "mask"}), (1e-9, 20, set())], ids=["on", "off"]
)
def test_every_loss_falls(tmp_path: Path, rate: float, iterations: int, falls: set[str]) -> None:
    """On two images, over and over. Without learning none does, so that the comparison can fail."""
    learn(
        tmp_path,
        MASK_MODEL,
        data=SyntheticDataset("coins", length=2, size=SIDE),
        iterations=iterations,
        batch_size=2,
        learning_rate=rate,
        sampling=Sampling(rois_per_image=32, anchors_per_image=64),
    )
    found = ratios(tmp_path)
    assert found.keys() == {*COMMON, "mask"}
    assert {name for name, ratio in found.items() if ratio < FALLEN} == falls, found


def test_boxes_and_masks_are_learnt(tmp_path: Path) -> None:
    """After 600 images of coins, AP on others: 19 to 31 by the seed; before, 0."""
    metrics = learn(
        tmp_path,
        MASK_MODEL,
        data=SyntheticDataset("coins", length=600, size=SIDE),
        validation=SyntheticDataset("coins", length=20, size=SIDE, split="val"),
        iterations=150,
        batch_size=4,
        learning_rate=0.02,
        sampling=Sampling(rois_per_image=32),
    )
    assert metrics["box"]["AP"] > STATED_AP
    assert metrics["mask"]["AP"] > STATED_AP


def test_key_points_are_learnt(tmp_path: Path) -> None:
    metrics = learn(
        tmp_path,
        KEYPOINT_MODEL,
        data=Persons(length=800, size=SIDE),
        validation=Persons(length=20, size=SIDE, split="val"),
        build=small_keypoint_rcnn,
        iterations=200,
        batch_size=4,
        learning_rate=0.02,
        sampling=Sampling(rois_per_image=16),
    )
    assert metrics["box"]["AP"] > STATED_AP
    assert metrics["keypoint"]["AP"] > STATED_AP
    found = ratios(tmp_path)
    assert found.keys() == {*COMMON, "keypoint"}
    assert found["keypoint"] < FALLEN


CLASSES = ("__background__", "disc", "square")


@pytest.fixture(scope="module")
def of_two_classes() -> GeneralizedRCNN:
    torch.manual_seed(0)
    return build_model(describe("maskrcnn_mobilenet_v2_fpn", CLASSES, **SMALL)).train()


def mask_loss(model: GeneralizedRCNN, change: Callable[[Tensor], Tensor]) -> float:
    """The loss of a disc that covers all of its box, with the mask branch's logits (R, 3, 28, 28) changed."""
    torch.manual_seed(1)  # the same proposals each time
    target = {
        "boxes": torch.tensor([[8.0, 8, 56, 48]]),
        "labels": torch.tensor([CLASSES.index("disc")]),
        "masks": torch.ones(1, *SIDE, dtype=torch.uint8),
    }
    hook = model.roi_heads.mask_predictor.register_forward_hook(lambda _, __, logits: change(logits))
    try:
        losses = model([torch.rand(3, *SIDE)], [target])
    finally:
        hook.remove()
    return float(losses["loss_mask"].detach())


def test_the_mask_loss_is_that_of_the_true_class_alone(of_two_classes: GeneralizedRCNN) -> None:
    """Masks of classes do not compete (Mask R-CNN, section 3)."""

    def shift(channel: int) -> float:
        steps = torch.zeros(1, len(CLASSES), 1, 1)
        steps[0, channel] = 3
        return mask_loss(of_two_classes, lambda logits: logits + steps)

    plain = mask_loss(of_two_classes, lambda logits: logits)
    assert shift(CLASSES.index("square")) == plain
    assert shift(0) == plain
    assert shift(CLASSES.index("disc")) < plain


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_the_mask_loss_is_a_sigmoid_per_pixel(of_two_classes: GeneralizedRCNN, logit: float) -> None:
    """-log sigmoid(z) where all is foreground; a softmax over three equal classes would be log 3 at any z."""
    found = mask_loss(of_two_classes, lambda logits: torch.full_like(logits, logit))
    assert found == pytest.approx(math.log1p(math.exp(-logit)), rel=1e-5)
