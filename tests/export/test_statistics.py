"""Statistics of values, the ranges that are chosen by them, and the file that holds them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mrcnn.errors import MrcnnError
from mrcnn.export.precision.calibrate import observe
from mrcnn.export.precision.images import open_images
from mrcnn.export.precision.layers import GraphView, view
from mrcnn.export.precision.observers import OBSERVERS
from mrcnn.export.precision.options import OBSERVER_NAMES
from mrcnn.export.precision.statistics import BINS, Collector, Statistics, observed
from mrcnn.runtime import Runtime
from tests.export.photographs import make_photographs


def test_the_command_knows_the_observers_by_name() -> None:
    assert tuple(OBSERVERS) == OBSERVER_NAMES


def small_view(weight: float = 2.0, bias: float = -1.0) -> GraphView:
    """x (1, 1, 2, 2) → conv: y = weight · x + bias → relu."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["y"], name="a"),
            helper.make_node("Relu", ["y"], ["z"], name="r"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 1, 2, 2])],
        [
            numpy_helper.from_array(np.full((1, 1, 1, 1), weight, np.float32), "a.weight"),
            numpy_helper.from_array(np.full(1, bias, np.float32), "a.bias"),
        ],
    )
    return view(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def feed(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.float32).reshape(1, 1, 2, 2)}


def collect(view: GraphView, feeds: list[dict[str, np.ndarray]]) -> dict[str, Statistics]:
    collector = Collector(view)
    model = collector.model.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for feed in feeds:
        collector.add(dict(zip(names, session.run(None, feed), strict=True)))
    return collector.result()


def of_samples(samples: np.ndarray) -> Statistics:
    limit = float(np.abs(samples).max())
    counts, _ = np.histogram(samples, BINS, (-limit, limit))
    return Statistics(
        low=float(samples.min()), high=float(samples.max()), counts=counts, elements=float(samples.size)
    )


def test_extremes_are_those_of_all_runs_and_means_those_of_channels() -> None:
    found = collect(small_view(), [feed(0, 1, 2, 3), feed(-4, 0, 0, 0)])
    assert found.keys() == {"x", "z"}  # y is fused with its ReLU
    assert (found["x"].low, found["x"].high, found["z"].low, found["z"].high) == (-4, 3, 0, 5)
    assert found["x"].means == pytest.approx([0.25])  # (1.5 - 1) / 2
    assert found["z"].means is None
    assert found["x"].counts.sum() == 8
    assert found["x"].elements == 4


def test_of_large_values_a_part_is_kept_but_the_extremes_are_exact() -> None:
    made = small_view()
    made.model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 300
    made.model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 400
    del made.model.graph.output[0].type.tensor_type.shape.dim[:]
    values = np.zeros((1, 1, 300, 400), np.float32)
    values[0, 0, 123, 321] = 77
    found = collect(made, [{"x": values}])
    assert found["x"].high == 77
    assert 4096 <= found["x"].counts.sum() < 2.2 * 4096


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_and_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(MrcnnError, match=r"weights 'a.weight' hold values that are not finite"):
        collect(small_view(weight=bad), [feed(0, 1, 2, 3)])
    with pytest.raises(MrcnnError, match=r"'x' is not finite on the calibration images"):
        collect(small_view(), [feed(0, 1, 2, 3), feed(0, bad, 0, 0)])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", OBSERVERS)
def test_an_observer_stays_within_what_was_seen(name: str, symmetric: bool) -> None:
    samples = np.random.default_rng(0).normal(1, 2, 100_000)
    low, high = OBSERVERS[name](of_samples(samples), symmetric=symmetric)
    step = 2 * np.abs(samples).max() / BINS
    assert samples.min() - step <= low < 0 < high <= samples.max() + step


@pytest.mark.parametrize(("name", "most"), [("percentile", 5), ("entropy", 30), ("mse", 45)])
def test_a_lone_outlier_does_not_stretch_the_range(name: str, most: float) -> None:
    samples = np.abs(np.random.default_rng(0).normal(0, 1, 100_000))
    samples[0] = 60
    _, high = OBSERVERS[name](of_samples(samples), symmetric=True)
    assert 2 < high < most
    assert OBSERVERS["minmax"](of_samples(samples), symmetric=True)[1] == 60


def test_mse_has_the_least_error_of_all() -> None:
    samples = np.random.default_rng(1).laplace(0, 1, 100_000)
    errors = {}
    for name, observer in OBSERVERS.items():
        limit = max(map(abs, observer(of_samples(samples), symmetric=True)))
        rounded = np.clip(np.rint(samples / (limit / 127)), -127, 127) * limit / 127
        errors[name] = ((samples - rounded) ** 2).mean()
    assert min(errors, key=lambda name: errors[name]) == "mse"
    assert errors["mse"] < 0.8 * errors["minmax"]


def test_every_value_of_a_whole_model_is_seen(compact_onnx: Path, tmp_path: Path) -> None:
    """The heads, too, on regions that were really pooled."""
    images = open_images(make_photographs(tmp_path, 3), folder=None, limit=2)
    seen = view(onnx.load(compact_onnx))
    found, _ = observe(seen, images, on_progress=lambda *_: None)
    assert list(found) == observed(seen)
    assert found["normalised"].low < -1 < 1 < found["normalised"].high
    for layer in seen.layers:
        means = found[layer.source].means
        assert means is not None
        assert len(means) == seen.channels(layer)


def test_the_detections_are_the_models_own(compact_onnx: Path, tmp_path: Path) -> None:
    """They come of the same runs as the statistics, in which ONNX Runtime fuses other operators."""
    images = open_images(make_photographs(tmp_path, 3), folder=None, limit=3)
    _, found = observe(view(onnx.load(compact_onnx)), images, on_progress=lambda *_: None)
    with Runtime(compact_onnx, device="cpu") as runtime:
        for place, detections in enumerate(found):
            own = runtime.infer(images.read(place), color="rgb")
            assert len(own) > 0
            assert np.array_equal(detections.labels, own.labels)
            assert detections.scores == pytest.approx(own.scores, abs=1e-5)
            assert detections.boxes == pytest.approx(own.boxes, abs=1e-2)
