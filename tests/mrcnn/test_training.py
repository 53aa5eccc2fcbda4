"""The parts of training, and a tiny run: recorded, resumable, stopped when it diverges."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from mrcnn.checkpoint import load_checkpoint
from mrcnn.data.coco import CocoDataset
from mrcnn.data.synthetic import SyntheticDataset
from mrcnn.description import ModelDescription, ResizeRule
from mrcnn.errors import MrcnnError
from mrcnn.models import build_model
from mrcnn.training import loop
from mrcnn.training.batches import BatchSampler, TrainingImages, load_batches, mix_seed
from mrcnn.training.distributed import World
from mrcnn.training.initialize import initialize
from mrcnn.training.loop import Run, train
from mrcnn.training.options import TrainingOptions
from mrcnn.training.report import write_report
from mrcnn.training.sampling import Sampling
from mrcnn.training.state import RunState

CPU = World(device=torch.device("cpu"))
DATA = SyntheticDataset("coins", length=6, size=(64, 64))
DESCRIPTION = ModelDescription(
    architecture="maskrcnn_mobilenet_v2_fpn",
    class_names=DATA.class_names,
    width=0.25,
    resize=ResizeRule(min_size=64, max_size=64),
)
LOSSES = {"classifier", "box_reg", "mask", "objectness", "rpn_box_reg"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For tensors this small threads do nothing but wait for each other, on a busy machine for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def options(**changes: Any) -> TrainingOptions:
    values: dict[str, Any] = {
        "iterations": 4,
        "batch_size": 2,
        "learning_rate": 0.01,
        "warmup": 2,
        "steps": (3,),
        "snapshot_every": 2,
        "sampling": Sampling(rois_per_image=16),
        "seed": 3,
    }
    return TrainingOptions(**{**values, **changes})


def run_training(
    output: Path, *, resume: bool = False, validation: SyntheticDataset | None = None, **changes: Any
) -> dict[str, Any]:
    torch.manual_seed(7)
    run = Run(
        description=DESCRIPTION,
        options=options(**changes),
        world=CPU,
        output=output,
        facts={"data": "coins"},
    )
    return train(build_model(DESCRIPTION), run, data=DATA, validation=validation, resume=resume)


def records(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def test_the_learning_rate_rises_then_falls() -> None:
    rule = options(learning_rate=2.0, warmup=4, steps=(10, 20))
    rates = [rule.learning_rate_at(iteration) for iteration in (0, 2, 4, 9, 10, 19, 20, 99)]
    assert rates == pytest.approx([0.002, 1.001, 2, 2, 0.2, 0.2, 0.02, 0.02])
    assert options(warmup=0).learning_rate_at(0) == 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"warmup": -1},
        {"steps": (5, 5)},
        {"steps": (0,)},
        {"momentum": -0.1},
        {"weight_decay": math.nan},
    ],
)
def test_senseless_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(MrcnnError, match=next(iter(wrong))):
        options(**wrong)


def batches(start: int, stop: int, **changes: Any) -> list[list[int]]:
    settings: dict[str, Any] = {"images": 5, "batch_size": 2, "seed": 1, **changes}
    return list(BatchSampler(start=start, stop=stop, **settings))


def test_each_epoch_shows_each_image_once() -> None:
    drawn = [number // 2 for batch in batches(0, 10) for number in batch]
    assert [sorted(drawn[first : first + 5]) for first in (0, 5, 10, 15)] == [[0, 1, 2, 3, 4]] * 4
    assert drawn[:5] != drawn[5:10]


def test_mirroring_is_drawn_anew() -> None:
    numbers = [number for batch in batches(0, 100) for number in batch]
    assert 0.35 < sum(number % 2 for number in numbers) / len(numbers) < 0.65


def test_batches_are_a_function_of_seed_and_iteration() -> None:
    assert batches(0, 4) + batches(4, 9) == batches(0, 9)
    assert batches(0, 9) != batches(0, 9, seed=2)


def test_processes_share_each_batch() -> None:
    whole = batches(0, 6, batch_size=4)
    parts = [batches(0, 6, batch_size=4, rank=rank, processes=2) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in whole]
    assert all(len(batch) == 2 for part in parts for batch in part)


def test_mixed_seeds_differ() -> None:
    seeds = {mix_seed(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    assert len(seeds) == 512
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_training_images_come_in_pairs_with_their_mirror_images() -> None:
    images = TrainingImages(DATA)
    assert len(images) == 12
    plain, mirrored = images[4], images[5]
    assert isinstance(plain, tuple)
    assert isinstance(mirrored, tuple)
    assert (plain[0].flip(-1) == mirrored[0]).all()
    assert (plain[1]["masks"].flip(-1) == mirrored[1]["masks"]).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_line(tmp_path: Path, workers: int) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [],
    }
    (tmp_path / "x.json").write_text(json.dumps(document))
    loading = load_batches(
        CocoDataset(tmp_path / "x.json"), batch_size=1, seed=0, start=0, stop=1, workers=workers, world=CPU
    )
    with pytest.raises(MrcnnError, match=r"a\.png") as caught:
        next(loading)
    assert "\n" not in str(caught.value)


def test_a_run_leaves_its_records(tmp_path: Path) -> None:
    held_out = SyntheticDataset("coins", length=2, size=(64, 64), split="val")
    metrics = run_training(tmp_path, validation=held_out)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "model.pth",
        "resume.pth",
        "log.jsonl",
        "metrics.json",
        "curves.png",
    }
    log = records(tmp_path)
    steps = [record for record in log if "losses" in record]
    assert [record["iteration"] for record in steps] == [1, 2, 3, 4]
    assert all(set(record["losses"]) == LOSSES for record in steps)
    assert [record["learning_rate"] for record in steps] == pytest.approx([1e-5, 0.005005, 0.01, 0.001])
    assert [record["iteration"] for record in log if "box" in record] == [2, 4]
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["iteration"] == 4
    assert metrics["mask"]["AP"] >= 0
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 600
    checkpoint = load_checkpoint(tmp_path / "model.pth")
    assert checkpoint.description == DESCRIPTION
    assert checkpoint.training["data"] == "coins"
    assert checkpoint.training["options"]["seed"] == 3
    assert checkpoint.training["metrics"] == metrics


def test_each_loss_has_its_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []

    def save(figure: Figure, path: Path, **_: Any) -> None:
        path.touch()
        drawn.append(figure)

    monkeypatch.setattr(Figure, "savefig", save)
    losses = dict.fromkeys(LOSSES, 0.5)
    history = [{"iteration": i, "learning_rate": 0.1, "losses": losses} for i in range(1, 41)]
    write_report(tmp_path, history=history, metrics={})
    curves = {line.get_label() for line in drawn[0].axes[0].get_lines()}
    assert curves == LOSSES


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    run_training(tmp_path / "whole")
    run_training(tmp_path / "parts", iterations=2)
    torch.rand(11)  # whatever happened to the generator in between
    run_training(tmp_path / "parts", resume=True, workers=1)
    whole = load_checkpoint(tmp_path / "whole" / "model.pth")
    parts = load_checkpoint(tmp_path / "parts" / "model.pth")
    assert parts.weights_sha256 == whole.weights_sha256
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    for seed in (3, 4):
        run_training(tmp_path / str(seed), iterations=1, seed=seed)
    assert records(tmp_path / "3") != records(tmp_path / "4")


def test_training_reduces_the_loss(tmp_path: Path) -> None:
    run_training(tmp_path, iterations=24, warmup=4, steps=(), snapshot_every=24, learning_rate=0.02)
    totals = [sum(record["losses"].values()) for record in records(tmp_path)]
    assert sum(totals[-4:]) < 0.7 * sum(totals[:4])


def test_mixed_precision_on_a_cpu(tmp_path: Path) -> None:
    run_training(tmp_path, iterations=2, amp=True)
    assert all(math.isfinite(sum(record["losses"].values())) for record in records(tmp_path))


def test_divergence_is_one_line_and_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(MrcnnError, match=r"training diverged at iteration \d: .*lower --lr") as caught:
        run_training(tmp_path, learning_rate=1e30, warmup=0, iterations=9, snapshot_every=9)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(MrcnnError, match="there is nothing to resume"):
        run_training(tmp_path, resume=True)
    run_training(tmp_path, iterations=2)
    with pytest.raises(MrcnnError, match=r"learning_rate 0\.01, not 0\.5: give --lr 0\.01,"):
        run_training(tmp_path, resume=True, learning_rate=0.5)
    with pytest.raises(MrcnnError, match=r"steps 3, not 6: give --warmup 2 --steps 3, or start anew"):
        run_training(tmp_path, resume=True, iterations=9, warmup=4, steps=(6,))
    with pytest.raises(MrcnnError, match="amp False, not True: give no --amp, or"):
        run_training(tmp_path, resume=True, amp=True)
    with pytest.raises(MrcnnError, match="the run has its 2 iterations"):
        run_training(tmp_path, resume=True, iterations=2)
    (tmp_path / "resume.pth").write_bytes((tmp_path / "resume.pth").read_bytes()[:1000])
    with pytest.raises(MrcnnError, match="not a training state, or is damaged"):
        run_training(tmp_path, resume=True)
    torch.save({"model": {}}, tmp_path / "resume.pth")
    with pytest.raises(MrcnnError, match="is not a training state of `mrcnn train`"):
        run_training(tmp_path, resume=True)


def test_a_run_from_before_there_were_recipes_goes_on(tmp_path: Path) -> None:
    run_training(tmp_path, iterations=2)
    document = torch.load(tmp_path / "resume.pth", weights_only=True)
    options = document["options"]
    options["rois_per_image"] = options.pop("sampling")["rois_per_image"]
    del options["recipe"]
    torch.save(document, tmp_path / "resume.pth")
    with pytest.raises(MrcnnError, match="rois_per_image 16, not 512: give --rois-per-image 16, or"):
        run_training(tmp_path, resume=True, sampling=Sampling())
    assert run_training(tmp_path, resume=True, iterations=3)["iteration"] == 3


def test_a_finished_run_goes_on_with_its_own_steps(tmp_path: Path) -> None:
    run_training(tmp_path, iterations=2)
    assert run_training(tmp_path, resume=True, iterations=3)["iteration"] == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, None) for key in ("description", "options", "model", "optimizer", "scaler", "iteration")),
        *(("history", 3), ("seconds", "1"), ("best_ap", "high")),
        *(("options", {}), ("options", dataclasses.asdict(options()) | {"sampling": 3})),
        *(("model", {}), ("optimizer", {}), ("optimizer", {"state": {}, "param_groups": [3]})),
    ],
)
def test_damaged_states(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "resume.pth"
    model = build_model(DESCRIPTION)
    state = RunState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    state.save(path, description=DESCRIPTION, options=options())
    state.restore(path, description=DESCRIPTION, options=options())
    document = torch.load(path, weights_only=True)
    torch.save({**document, key: value}, path)
    with pytest.raises(MrcnnError, match=r"resume\.pth: is damaged: ") as caught:
        state.restore(path, description=DESCRIPTION, options=options())
    assert "\n" not in str(caught.value)


def test_weights_that_overflow_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = loop._step

    def overflow(parallel: torch.nn.Module, *rest: Any) -> dict[str, float]:
        losses = step(parallel, *rest)
        next(parallel.parameters()).data.fill_(math.inf)
        return losses

    monkeypatch.setattr(loop, "_step", overflow)
    with pytest.raises(MrcnnError, match=r"diverged by iteration 1: .* is not finite; lower --lr"):
        run_training(tmp_path, snapshot_every=1)
    assert list(tmp_path.iterdir()) == []


def test_start_weights_of_another_number_of_classes() -> None:
    source = build_model(DESCRIPTION).state_dict()
    names = ("__background__", "a", "b", "c")
    target = build_model(
        ModelDescription(architecture=DESCRIPTION.architecture, class_names=names, width=0.25)
    )
    fresh = initialize(target, source)
    assert fresh == (
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.mask_fcn_logits",
    )
    for name, value in target.state_dict().items():
        if name.rpartition(".")[0] not in fresh:
            assert torch.equal(value, source[name])
    assert initialize(build_model(DESCRIPTION), source) == ()


def test_start_weights_of_another_architecture() -> None:
    with pytest.raises(MrcnnError, match="another trunk"):
        initialize(build_model(DESCRIPTION), {"backbone.body.conv1.weight": torch.zeros(64, 3, 7, 7)})
