"""The one entry, on graphs of a few nodes; on a real graph at the end."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn.checkpoint import Checkpoint
from mrcnn.description import DetectionRule, ModelDescription, ProposalRule, ResizeRule
from mrcnn.errors import MrcnnError
from mrcnn.export.to_onnx import InputRule, export_onnx
from mrcnn.families import COCO_PERSON
from mrcnn.models import build_model
from mrcnn.runtime import Detections, Runtime
from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.sizes import graph_range
from tests.runtime.conftest import BOX_SHARES, LABELS, disc_masks

TinyModel = Callable[..., Path]

# Boxes of some hundred pixels go through one float32 product more than the expected values here.
BOX_TOLERANCE = 1e-4
SCORE_TOLERANCE = 1e-6
# On the real graph: what the issue of equality asks of each match.
REAL_BOX_TOLERANCE = 0.1
REAL_SCORE_TOLERANCE = 1e-3


def flat(height: int, width: int, value: int = 255) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def assert_same(actual: Detections, expected: Detections) -> None:
    assert actual.image_size == expected.image_size
    assert (actual.boxes == expected.boxes).all()
    assert (actual.scores == expected.scores).all()
    assert (actual.labels == expected.labels).all()
    assert actual.rles == expected.rles


def test_one_image(tiny_model: TinyModel) -> None:
    with Runtime(tiny_model(count=3)) as runtime:
        found = runtime.infer(flat(100, 200, 102))
    assert len(found) == 3
    assert found.image_size == (100, 200)
    assert found.class_names == ("__background__", "coin", "dog")
    np.testing.assert_allclose(found.boxes, BOX_SHARES[:3] * [200, 100, 200, 100], rtol=0, atol=BOX_TOLERANCE)
    np.testing.assert_allclose(found.scores, [0.4, 0.2, 0.1], rtol=0, atol=SCORE_TOLERANCE)
    assert found.labels.tolist() == LABELS[:3].tolist()
    assert found.labels.dtype == np.int64
    assert found.mask_probs is not None
    assert (found.mask_probs == disc_masks()[:3]).all()
    assert found.masks.shape == (3, 100, 200)


def test_every_kind_of_image_gives_the_same(tiny_model: TinyModel, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    pixels[10, 20] = 10, 20, 250
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    with Runtime(tiny_model()) as runtime:
        expected = runtime.infer(pixels, color="rgb")
        kinds: list[Any] = [path, str(path), path.read_bytes(), Image.open(path), pixels[..., ::-1]]
        for image in kinds:
            assert_same(runtime.infer(image), expected)


def test_nothing_found(tiny_model: TinyModel) -> None:
    with Runtime(tiny_model(count=0)) as runtime:
        found = runtime.infer(flat(30, 40))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.masks.shape == (0, 30, 40)
    assert found.rles == []


def test_every_slot_used(tiny_model: TinyModel) -> None:
    with Runtime(tiny_model(count=4)) as runtime:
        assert len(runtime.infer(flat(30, 40))) == 4


def test_model_without_masks(tiny_model: TinyModel) -> None:
    with Runtime(tiny_model(masks=False)) as runtime:
        assert runtime.infer(flat(30, 40)).mask_probs is None


def test_model_with_key_points(tiny_model: TinyModel) -> None:
    """By hand: each point lies in the middle of its cell, of which there are 56x56 in the box."""
    with Runtime(tiny_model(keypoints=True, count=3)) as runtime:
        found = runtime.infer(flat(100, 200))
        again = runtime.infer(flat(100, 200))
    assert found.mask_probs is None
    assert found.keypoints is not None
    assert found.keypoint_scores is not None
    assert found.keypoint_rule == COCO_PERSON
    corner, side = found.boxes[:, None, :2], (found.boxes[:, None, 2:] - found.boxes[:, None, :2])
    point = np.arange(17)
    expected = corner + side * (np.stack([3 * point, 2 * point], axis=1) + 0.5) / 56
    # A point is the middle of the network's pixel that is nearest to the cell; at the border, where cells are
    # repeated, that of its neighbour.
    pixel = np.array([200 / 128, 100 / 64])
    assert (np.abs(found.keypoints[..., :2] - expected) <= 0.7 * pixel).all()
    assert (found.keypoints[..., 2] == 1).all()
    # A pixel of the flattest box is 3.5 cells high, so that its middle is 1.75 from a cell at most.
    np.testing.assert_allclose(found.keypoint_scores, 5, rtol=0, atol=0.2)
    assert (again.keypoints == found.keypoints).all()


def test_min_score(tiny_model: TinyModel) -> None:
    with Runtime(tiny_model(count=4), min_score=0.3) as runtime:
        found = runtime.infer(flat(30, 40))
    assert found.scores.tolist() == pytest.approx([1.0, 0.5])
    assert len(found.masks) == 2


MODELS: dict[str, dict[str, object]] = {
    "dynamic": {},
    "batch of two": {"batch": 2},
    "fixed size": {"height": 96, "width": 128},
    "fixed size, batch of three": {"height": 96, "width": 128, "batch": 3},
    "uint8": {"dtype": "uint8"},
}


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("model", MODELS)
def test_a_list_gives_what_one_at_a_time_gives(tiny_model: TinyModel, model: str, count: int) -> None:
    sizes = [(40, 60), (60, 40), (41, 60), (500, 20), (40, 60)]
    images = [flat(*size, value=250 - 20 * i) for i, size in enumerate(sizes)][:count]
    with Runtime(tiny_model(**MODELS[model])) as runtime:
        together = runtime.infer(images)
        assert [found.image_size for found in together] == sizes[:count]
        for found, image in zip(together, images, strict=True):
            assert_same(found, runtime.infer(image))
        assert isinstance(runtime.infer(tuple(images)), list)


def test_a_gpu_gets_images_of_one_network_size_together(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a backend on a GPU says of a graph of any size and batch.
    runtime = Runtime(tiny_model())
    backend = runtime._backend
    assert isinstance(backend, OnnxBackend)
    backend.ranges = (graph_range(runtime.deployment, most_images=8),)
    shapes = []
    run = backend.run
    monkeypatch.setattr(
        backend, "run", lambda images, sizes: (shapes.append(images.shape), run(images, sizes))[1]
    )
    images = [flat(40, 60, value) for value in range(100, 110)] + [flat(60, 40)]
    found = runtime.infer([images[0], images[10], *images[1:10]])
    assert sorted(shapes) == [(1, 96, 64, 3), (2, 64, 96, 3), (8, 64, 96, 3)]
    brightest = [100, 255, *range(101, 110)]
    assert [one.scores[0] for one in found] == pytest.approx([value / 255 for value in brightest])


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000)])
def test_extreme_images(tiny_model: TinyModel, size: tuple[int, int]) -> None:
    for model in (tiny_model(), tiny_model(height=96, width=128)):
        with Runtime(model) as runtime:
            found = runtime.infer(flat(*size))
        np.testing.assert_allclose(found.boxes[1], [0, 0, size[1], size[0]], rtol=1e-6)
        assert found.rles[0]["size"] == list(size)


def test_an_unreadable_image_of_a_list_is_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    with Runtime(tiny_model()) as runtime:
        with pytest.raises(MrcnnError, match=r"^image 1 of the list: .*missing\.jpg: No such file"):
            runtime.infer([flat(3, 3), tmp_path / "missing.jpg"])
        with pytest.raises(MrcnnError, match=r"^an image must be .* \(got list\)"):
            runtime.infer([[flat(3, 3)]])  # type: ignore[list-item]
        with pytest.raises(MrcnnError, match="color must be"):
            runtime.infer(flat(3, 3), color="gray")


def test_threads_get_their_own_results(tiny_model: TinyModel) -> None:
    images = [flat(40 + 7 * i, 90 - 5 * i, value=100 + 10 * i) for i in range(8)]
    wrong: list[int] = []
    with Runtime(tiny_model(), threads=1) as runtime:
        expected = [runtime.infer(image) for image in images]

        def work(index: int) -> None:
            for _ in range(20):
                found = runtime.infer(images[index])
                same = found.image_size == expected[index].image_size
                if (
                    not same
                    or (found.scores != expected[index].scores).any()
                    or found.rles != expected[index].rles
                ):
                    wrong.append(index)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_results_do_not_share_memory(tiny_model: TinyModel) -> None:
    with Runtime(tiny_model()) as runtime:
        first = runtime.infer(flat(30, 40))
        boxes = first.boxes.copy()
        runtime.infer(flat(90, 90, 10))
        assert (first.boxes == boxes).all()
        assert first.boxes.flags.owndata
        assert first.mask_probs is not None
        assert first.mask_probs.base is None


def test_closed_runtime_is_refused(tiny_model: TinyModel) -> None:
    runtime = Runtime(tiny_model())
    runtime.warm_up()
    runtime.close()
    runtime.close()
    with pytest.raises(MrcnnError, match="this Runtime is closed"):
        runtime.infer(flat(3, 3))
    assert runtime.class_names[1] == "coin"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, r"device must be auto, cpu or cuda \(got 'gpu'\)"),
        ({"threads": 0}, r"threads must be at least 1 and at most 1024 \(got 0\)"),
        ({"threads": 100_000}, r"threads must be at least 1 and at most 1024 \(got 100000\)"),
        ({"threads": "2"}, r"threads must be .* \(got '2'\)"),
        ({"min_score": "0.5"}, r"min_score must be between 0 and 1 \(got '0.5'\)"),
        ({"min_score": float("nan")}, r"min_score must be between 0 and 1 \(got nan\)"),
        ({"contexts": 0}, r"contexts must be at least 1 and at most 16 \(got 0\)"),
        ({"contexts": 2.0}, r"contexts must be at least 1 and at most 16 \(got 2.0\)"),
        ({"min_score": 1.5}, r"min_score must be between 0 and 1 \(got 1.5\)"),
    ],
)
def test_arguments_out_of_range(tiny_model: TinyModel, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MrcnnError, match=message):
        Runtime(tiny_model(), **arguments)


def test_other_kinds_of_model(tmp_path: Path) -> None:
    with pytest.raises(MrcnnError, match=r"model\.engine: No such file"):
        Runtime(tmp_path / "model.engine")
    with pytest.raises(MrcnnError, match=r"must be exported before it runs here: mrcnn export .*ckpt\.pth"):
        Runtime(tmp_path / "ckpt.pth")
    with pytest.raises(MrcnnError, match=r"not an exported model, whose name ends in \.onnx"):
        Runtime(tmp_path / "model.bin")


@pytest.mark.parametrize("path", [None, 5, b"model.onnx"])
def test_a_path_must_be_one(path: Any) -> None:
    with pytest.raises(MrcnnError, match="a model is given by its path"):
        Runtime(path)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small network with random weights: its ONNX file and its PyTorch model."""
    description = ModelDescription(
        architecture="maskrcnn_mobilenet_v2_fpn",
        class_names=("__background__", "disc", "square"),
        width=0.25,
        resize=ResizeRule(min_size=128, max_size=224),
        proposals=ProposalRule(pre_nms_top_n=100, post_nms_top_n=50),
        detections=DetectionRule(detections_per_image=10),
    )
    torch.manual_seed(3)
    checkpoint = Checkpoint(
        description=description, state_dict=build_model(description).state_dict(), training={}
    )
    path = tmp_path_factory.mktemp("real") / "model.onnx"
    export_onnx(checkpoint, path, inputs=InputRule(), on_step=lambda _: None)
    return SimpleNamespace(path=path, model=checkpoint.build())


def coarse_image(height: int, width: int, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


REAL_SIZES = [(150, 200), (97, 61), (64, 300), (240, 320)]


def test_real_graph_finds_what_torchvision_finds(real: SimpleNamespace) -> None:
    for seed, size in enumerate(REAL_SIZES):
        image = coarse_image(*size, seed)
        with torch.no_grad():
            (expected,) = real.model([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
        with Runtime(real.path) as runtime:
            found = runtime.infer(image, color="rgb")
        assert len(found) == len(expected["boxes"]) > 0
        assert (found.labels == expected["labels"].numpy()).all()
        np.testing.assert_allclose(found.boxes, expected["boxes"], rtol=0, atol=REAL_BOX_TOLERANCE)
        np.testing.assert_allclose(found.scores, expected["scores"], rtol=0, atol=REAL_SCORE_TOLERANCE)


def test_real_graph_treats_images_of_a_list_apart(real: SimpleNamespace) -> None:
    images = [coarse_image(*size, seed) for seed, size in enumerate([*REAL_SIZES, REAL_SIZES[0]])]
    with Runtime(real.path) as runtime:
        for found, image in zip(runtime.infer(images), images, strict=True):
            assert_same(found, runtime.infer(image))
