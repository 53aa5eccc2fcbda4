"""The dense part of graphs, cut out of them and timed."""

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mrcnn.benchmarks.contention import OtherWork
from mrcnn.benchmarks.timing import percentiles_ms, speedup, take_turns
from mrcnn.description import check_input
from mrcnn.errors import MrcnnError
from mrcnn.export.cut import cut, with_shapes
from mrcnn.runtime.backend_onnx import OnnxBackend
from mrcnn.runtime.ort import import_onnxruntime

_RESULT = re.compile(r"(features|logits|deltas)\.\d+")

Program = Callable[[NDArray[np.float32]], object]


def measure(models: Sequence[Path], *, shape: tuple[int, int], repeats: int, threads: int) -> dict[str, Any]:
    """Times each model's dense part on noise of `shape`, A B A B; JSON-able.

    Raises:
        MrcnnError: a file is no exported model, or of another fixed size.
    """
    if len({path.resolve() for path in models}) < len(models):
        raise MrcnnError("a model is given twice: name each once")
    programs: dict[str, Program] = {}
    for path in models:
        part = dense_part(path, shape=shape)
        programs[f"{path} on onnxruntime"] = _onnxruntime(part, threads)
        if importlib.util.find_spec("openvino") is not None:
            programs[f"{path} on openvino"] = _openvino(part, shape, threads)
    noise = np.random.default_rng(0).normal(0, 1, (1, 3, *shape)).astype(np.float32)
    with OtherWork() as other_work:
        seconds = take_turns(programs, [noise], repeats=repeats, warmup=2, progress="timing")
    first = next(iter(seconds.values()))
    return {
        "shape": list(shape),
        "repeats": repeats,
        "threads": threads,
        "programs": [
            {"name": name, **percentiles_ms(own), **speedup(own, first)} for name, own in seconds.items()
        ],
        "notes": other_work.doubts(),
    }


def dense_part(path: Path, *, shape: tuple[int, int]) -> onnx.ModelProto:
    """From the normalised pixels to features, objectness logits and box deltas of all levels.

    Raises:
        MrcnnError: the file is no exported model, or one that does not take one image of that shape.
    """
    backend = OnnxBackend(path, device="cpu", threads=None)
    backend.close()
    deployment = backend.deployment
    height, width = shape
    check_input(deployment.description.resize, height=height, width=width, batch=1)
    if (deployment.height or height, deployment.width or width, deployment.batch or 1) != (height, width, 1):
        size = f"{deployment.batch or 1} x {deployment.height}x{deployment.width}"
        raise MrcnnError(f"{path}: takes {size} alone, not 1 x {height}x{width}: choose another --shape")
    model = with_shapes(onnx.load(path))
    results = [name for node in model.graph.node for name in node.output if _RESULT.fullmatch(name)]
    part = cut(model, ["normalised"], results)
    del part.functions[:]  # none is called, and OpenVINO reads no model that has any
    return part


def _onnxruntime(part: onnx.ModelProto, threads: int) -> Program:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # as the runtime has it
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda pixels: session.run(None, {"normalised": pixels})


def _openvino(part: onnx.ModelProto, shape: tuple[int, int], threads: int) -> Program:
    import openvino

    core = openvino.Core()
    model = core.read_model(part.SerializeToString())
    model.reshape({"normalised": [1, 3, *shape]})
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda pixels: request.infer({"normalised": pixels})
