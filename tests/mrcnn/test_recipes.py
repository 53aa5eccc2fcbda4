"""The papers' recipes: their numbers, what of them reaches a model, and how they are fitted to a run."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from mrcnn import train as command
from mrcnn.checkpoint import load_checkpoint
from mrcnn.cli import main
from mrcnn.description import AnchorRule, ResizeRule, RoiRule
from mrcnn.errors import MrcnnError
from mrcnn.families import describe
from mrcnn.geometry import change_anchors, square_input
from mrcnn.models import architectures, build_model
from mrcnn.training import loop
from mrcnn.training.distributed import World
from mrcnn.training.options import TrainingOptions
from mrcnn.training.recipes import RECIPES, Recipe, find_recipe, misfit, recipe_for
from mrcnn.training.sampling import Sampling, apply_sampling

CLASSES = ("__background__", "disc")
TINY = [
    *("--data", "shapes", "--synthetic-images", "8", "--synthetic-size", "64x64", "--min-size", "64"),
    *("--width", "0.25", "--workers", "0", "--device", "cpu"),
]


def model_of(architecture: str, **fields: Any) -> GeneralizedRCNN:
    """With no memory for its weights."""
    with torch.device("meta"):
        return build_model(describe(architecture, CLASSES, **fields))


# What a reader of the papers would write down: images, rate, steps, falls, decay, RoIs.
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("fpn", (16, 0.02, 160_000, (120_000,), 1e-4, 512)),
        ("c4", (16, 0.02, 160_000, (120_000,), 1e-4, 64)),
        ("resnext", (8, 0.01, 160_000, (120_000,), 1e-4, 512)),
        ("keypoint", (16, 0.02, 90_000, (60_000, 80_000), 1e-4, 512)),
        ("vgg16", (1, 0.001, 80_000, (60_000,), 5e-4, 128)),
        ("mobilenet", (2, 0.005, 720_000, (480_000, 640_000), 5e-4, 512)),
        ("mobilenet-fpn", (8, 0.02, 180_000, (120_000, 160_000), 1e-4, 512)),
    ],
)
def test_the_numbers_of_the_papers(name: str, numbers: tuple[Any, ...]) -> None:
    recipe = find_recipe(name)
    schedule = (recipe.batch_size, recipe.learning_rate, recipe.iterations, recipe.steps)
    assert (*schedule, recipe.weight_decay, recipe.sampling.rois_per_image) == numbers
    assert recipe.momentum == 0.9
    assert recipe.source


def test_every_architecture_has_its_recipe() -> None:
    assert {name: recipe_for(name).name for name in architectures()} == {
        **dict.fromkeys(architectures(), "fpn"),
        **{name: "resnext" for name in architectures() if "resnext" in name},
        **{name: "c4" for name in architectures() if name.endswith("_c4")},
        "keypointrcnn_resnet50_fpn": "keypoint",
        "keypointrcnn_resnet101_fpn": "keypoint",
        "fasterrcnn_vgg16": "vgg16",
        "fasterrcnn_mobilenet_v2": "mobilenet",
        "maskrcnn_mobilenet_v2": "mobilenet",
        "maskrcnn_mobilenet_v2_fpn": "mobilenet-fpn",
    }


ARCHITECTURE_OF = {
    "keypoint": "keypointrcnn_resnet50_fpn",
    "resnext": "maskrcnn_resnext101_32x8d_fpn",
    "c4": "maskrcnn_resnet50_c4",
    "vgg16": "fasterrcnn_vgg16",
    "mobilenet": "maskrcnn_mobilenet_v2",
    "mobilenet-fpn": "maskrcnn_mobilenet_v2_fpn",
    "fpn": "maskrcnn_resnet50_fpn",
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_reaches_the_model(recipe: Recipe) -> None:
    model = model_of(ARCHITECTURE_OF[recipe.name])
    before = (model.rpn._pre_nms_top_n["testing"], model.rpn._post_nms_top_n["testing"])
    apply_sampling(model, recipe.sampling)
    rpn, heads = model.rpn, model.roi_heads
    assert (rpn.fg_bg_sampler.batch_size_per_image, rpn.fg_bg_sampler.positive_fraction) == (256, 0.5)
    assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold) == (0.7, 0.3)
    assert rpn.proposal_matcher.allow_low_quality_matches, "an object's best anchor is positive at any IoU"
    rois = {"c4": 64, "vgg16": 128}.get(recipe.name, 512)
    assert (heads.fg_bg_sampler.batch_size_per_image, heads.fg_bg_sampler.positive_fraction) == (rois, 0.25)
    assert (heads.proposal_matcher.high_threshold, heads.proposal_matcher.low_threshold) == (0.5, 0.5)
    best = {"c4": 12_000, "vgg16": 12_000}.get(recipe.name, 2000)
    model.train()
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (best, 2000)
    sizes = range(640, 801) if recipe.name == "keypoint" else (800,)
    assert model.transform.min_size == tuple(sizes)
    model.eval()
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == before


def test_every_number_of_the_sampling_reaches_the_model() -> None:
    """Not only those in which recipes differ."""
    model = model_of("maskrcnn_mobilenet_v2_fpn", resize=ResizeRule(min_size=100, max_size=200))
    odd = Sampling(
        anchors_per_image=11,
        anchor_positive_fraction=0.12,
        anchor_positive_iou=0.63,
        anchor_negative_iou=0.24,
        pre_nms_top_n=15,
        post_nms_top_n=16,
        rois_per_image=17,
        roi_positive_fraction=0.18,
        roi_positive_iou=0.59,
        smallest_scale=0.9,
    )
    apply_sampling(model, odd)
    rpn, heads = model.rpn, model.roi_heads
    assert vars(rpn.fg_bg_sampler) == {"batch_size_per_image": 11, "positive_fraction": 0.12}
    assert vars(heads.fg_bg_sampler) == {"batch_size_per_image": 17, "positive_fraction": 0.18}
    assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold) == (0.63, 0.24)
    assert (heads.proposal_matcher.high_threshold, heads.proposal_matcher.low_threshold) == (0.59, 0.59)
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (15, 16)
    assert model.transform.min_size == tuple(range(90, 101))


def test_sizes_are_drawn_in_training_alone() -> None:
    model = build_model(
        describe(
            "maskrcnn_mobilenet_v2_fpn", CLASSES, resize=ResizeRule(min_size=100, max_size=200), width=0.25
        )
    )
    apply_sampling(model, find_recipe("keypoint").sampling)
    images = [torch.rand(3, 50, 60) for _ in range(40)]

    def shorter_sides() -> set[int]:
        return {min(size) for size in model.transform(images)[0].image_sizes}

    drawn = shorter_sides()
    assert len(drawn) > 10
    assert 80 <= min(drawn) < 85
    assert 95 < max(drawn) <= 100
    model.eval()
    assert shorter_sides() == {100}


@pytest.mark.parametrize(
    "wrong",
    [
        {"rois_per_image": 0},
        {"anchors_per_image": -1},
        {"roi_positive_fraction": 1.1},
        {"anchor_positive_fraction": float("nan")},
        {"smallest_scale": 0.0},
        {"anchor_negative_iou": 0.8},
    ],
)
def test_senseless_sampling(wrong: dict[str, Any]) -> None:
    with pytest.raises(MrcnnError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_the_run_starts_with_the_options() -> None:
    options = TrainingOptions(
        iterations=1,
        batch_size=1,
        learning_rate=0.5,
        warmup=0,
        steps=(),
        snapshot_every=1,
        momentum=0.7,
        weight_decay=0.03,
        sampling=Sampling(rois_per_image=9),
    )
    model = build_model(describe("maskrcnn_mobilenet_v2_fpn", CLASSES, width=0.25))
    state = loop._start(model, options, World(device=torch.device("cpu")))
    (group,) = state.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.5, 0.7, 0.03)
    assert model.roi_heads.fg_bg_sampler.batch_size_per_image == 9


def options_of(*arguments: str, images: int = 100) -> TrainingOptions:
    """What the command makes of its arguments for the default of a Mask R-CNN on a ResNet's pyramid."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args([*arguments, "--data", "shapes", "--output", "x"])
    recipe = find_recipe(args.recipe) if args.recipe else recipe_for("maskrcnn_resnet50_fpn")
    return command._options(args, recipe, images=images)


def test_without_a_name_the_recipe_is_fitted_to_the_run() -> None:
    options = options_of()
    assert (options.recipe, options.batch_size, options.iterations) == ("fpn", 4, 300)
    assert options.learning_rate == pytest.approx(0.005)
    assert (options.warmup, options.steps) == (30, (225,))
    assert options.sampling == Sampling()


def test_by_its_name_a_recipe_is_the_papers() -> None:
    options = options_of("--recipe", "keypoint")
    assert (options.recipe, options.batch_size, options.iterations) == ("keypoint", 16, 90_000)
    assert (options.learning_rate, options.warmup, options.steps) == (0.02, 500, (60_000, 80_000))
    assert options.sampling.smallest_scale == 0.8


def test_the_rate_is_proportional_to_the_batch_and_the_length_inversely() -> None:
    options = options_of("--recipe", "fpn", "--batch-size", "2")
    assert options.learning_rate == pytest.approx(0.0025)
    assert (options.iterations, options.steps) == (1_280_000, (960_000,))
    assert options_of("--batch-size", "2", "--lr", "0.3").learning_rate == 0.3


def test_a_given_length_keeps_the_schedules_shape() -> None:
    assert options_of("--recipe", "fpn", "--iterations", "500").steps == (375,)
    assert options_of("--recipe", "keypoint", "--epochs", "9", "--batch-size", "1").steps == (600, 800)
    assert options_of("--iterations", "500", "--steps", "100,200").steps == (100, 200)
    assert options_of("--iterations", "1").steps == ()


def test_options_override_the_recipe() -> None:
    options = options_of(
        *("--recipe", "vgg16", "--momentum", "0.5", "--weight-decay", "0", "--rois-per-image", "7"),
        *("--warmup", "3"),
    )
    assert (options.momentum, options.weight_decay, options.warmup) == (0.5, 0, 3)
    assert options.sampling == replace(find_recipe("vgg16").sampling, rois_per_image=7)


def test_the_recipe_is_shown_and_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_SYNTHETIC_VALIDATION", 1)
    run = tmp_path / "run"
    length = ["--batch-size", "2", "--iterations", "4", "--output", str(run)]
    assert main(["train", *TINY, *length, "--recipe", "c4"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("recipe c4 (Mask R-CNN (arXiv:1703.06870), section 3.1")
    assert first.endswith("4 steps of 2 images, learning rate 0.0025, a tenth from 3 on, 64 RoIs an image")
    training = load_checkpoint(run / "model.pth").training
    assert training["options"]["recipe"] == "c4"
    assert training["options"]["sampling"]["rois_per_image"] == 64
    assert json.loads((run / "metrics.json").read_text())["recipe"] == "c4"
    assert main(["train", *TINY, *length, "--recipe", "keypoint", "--resume"]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert "smallest_scale 1.0, not 0.8" in line
    assert line.count("--recipe c4") == 1, "which brings all that has no option of its own"
    assert "roi_positive_fraction" not in line, "in which the two are alike"


def test_a_recipe_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, "--recipe", "yolo", "--output", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--recipe yolo: no such recipe (known: keypoint, resnext, c4, " in line


def test_recipes_are_listed_without_other_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--list-recipes"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    for recipe in RECIPES:
        assert f"\n{recipe.name}\n" in f"\n{told}"
    assert "1 image;" in told


PYRAMID, ONE_LEVEL = AnchorRule(), AnchorRule(sizes=((8, 16),), aspect_ratios=((1.0,),), exact=True)


def test_anchors_of_a_pyramid_and_of_one_level() -> None:
    pyramid = change_anchors(PYRAMID, sizes=(16, 32, 64, 128, 256), ratios=(1.0, 2.0))
    assert pyramid.sizes == ((16,), (32,), (64,), (128,), (256,))
    assert pyramid.aspect_ratios == ((1.0, 2.0),) * 5
    single = change_anchors(ONE_LEVEL, sizes=(4, 5, 6))
    assert single == AnchorRule(sizes=((4, 5, 6),), aspect_ratios=((1.0,),), exact=True)
    assert change_anchors(PYRAMID) == PYRAMID
    model = model_of("maskrcnn_mobilenet_v2_fpn", anchors=pyramid)
    assert model.rpn.anchor_generator.num_anchors_per_location() == [2] * 5
    assert model.rpn.head.cls_logits.out_channels == 2


def test_a_recipe_of_another_family_is_told() -> None:
    assert misfit(find_recipe("c4"), "maskrcnn_resnet50_c4") is None
    assert misfit(find_recipe("fpn"), "maskrcnn_resnet50_c4") is None
    line = misfit(find_recipe("c4"), "maskrcnn_resnet50_fpn")
    assert line == "recipe c4 is made for *_c4; that of maskrcnn_resnet50_fpn is fpn"


def test_a_square_as_matterports() -> None:
    rule = square_input(ResizeRule(rounding="nearest"), 1024)
    assert rule == ResizeRule(min_size=800, max_size=1024, size_divisible=1024, rounding="nearest")
    assert square_input(ResizeRule(), 512) == ResizeRule(min_size=512, max_size=512, size_divisible=512)
    for size in ((480, 640), (300, 1500), (1500, 1500)):
        assert rule.padded_size(*rule.output_size(*size)) == (1024, 1024)
    assert rule.output_size(480, 640) == (768, 1024)


def test_square_images_and_own_anchors_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_SYNTHETIC_VALIDATION", 1)
    geometry = ["--square", "96", "--anchor-sizes", "8,16,32,64,96", "--anchor-ratios", "1,2"]
    length = ["--batch-size", "1", "--iterations", "1", "--output", str(tmp_path / "run")]
    assert main(["train", *TINY, *geometry, *length]) == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "model.pth")
    description = checkpoint.description
    assert description.resize == ResizeRule(min_size=64, max_size=96, size_divisible=96)
    assert description.anchors == change_anchors(PYRAMID, sizes=(8, 16, 32, 64, 96), ratios=(1.0, 2.0))
    model = checkpoint.build()
    assert model.transform([torch.rand(3, 50, 70)])[0].tensors.shape == (1, 3, 96, 96)


def test_how_regions_are_pooled_is_asked_for() -> None:
    def rois(*words: str) -> RoiRule:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        args = parser.parse_args(["--data", "coins", "--output", "out", *words])
        return command._start(args).description.rois

    assert rois("--architecture", "fasterrcnn_vgg16").mode == "avg"
    for mode in ("max", "pool"):
        assert rois("--architecture", "fasterrcnn_vgg16", "--roi-mode", mode).mode == mode
    assert rois("--architecture", "maskrcnn_resnet50_c4").head_stride == 2
    assert rois("--architecture", "maskrcnn_resnet50_c4", "--head-stride", "1").head_stride == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--anchor-sizes", "32,64"], "one size for each of the 5 feature levels, the finest first (got 2)"),
        (["--anchor-sizes", "1,2,3,4,0"], "anchors: a size must be in 1"),
        (["--anchor-ratios", "nan"], "anchors: an aspect ratio must be in"),
        (["--anchor-ratios", ""], "anchors: ratios per level, their number must be in 1"),
        (
            ["--architecture", "maskrcnn_resnet50_c4", "--anchor-sizes", ""],
            "anchors: sizes per level",
        ),
        (["--recipe", ""], "--recipe : no such recipe"),
        (["--head-stride", "1"], "--head-stride is for C4 models, and maskrcnn_"),
        (["--roi-mode", "pool"], "rois: mode 'pool' is for models with one map and no masks"),
        (["--square", "1000"], "--square must be a multiple of 32, as 992 (got 1000)"),
        (["--square", "0"], "--square must be a multiple of 32, as 32 (got 0)"),
        (["--square", "32"], "0 < min_size <= max_size must hold (got 64, 32)"),
        (["--square", "1024", "--max-size", "1333"], "leave out --max-size"),
        (["--square", "320000000"], "resize: max_size must be in 1"),
        (["--momentum", "-1"], "momentum must not be negative"),
        (["--weight-decay", "nan"], "--weight-decay must be at most 1000 (got nan)"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["train", *TINY, *arguments, "--output", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "value"), [("--anchor-sizes", "32,a"), ("--anchor-ratios", "1:2")])
def test_malformed_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", *TINY, "--output", str(tmp_path), option, value])
    assert caught.value.code == 2
    assert repr(value) in capsys.readouterr().err
