"""The ctypes declarations are those of the C headers, and the headers are C."""

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from mrcnn.plugins import interface
from mrcnn.plugins.kernels import kernels_path
from tests.conftest import REPOSITORY

PLUGINS = REPOSITORY / "plugins"
HEADERS = ("common/status.h", "roi_align/roi_align.h", "roi_pool/roi_pool.h", "nms/nms.h", "resize/resize.h")

STRUCTS: dict[str, type[ctypes.Structure]] = {
    "MrcnnFeatureLevel": interface.FeatureLevel,
    "MrcnnRoIAlignParams": interface.RoIAlignParams,
    "MrcnnRoIPoolParams": interface.RoIPoolParams,
    "MrcnnNMSParams": interface.NMSParams,
    "MrcnnResizeParams": interface.ResizeParams,
}
CONSTANTS = {
    "MRCNN_OK": interface.OK,
    "MRCNN_INVALID_ARGUMENT": interface.INVALID_ARGUMENT,
    "MRCNN_CUDA_ERROR": interface.CUDA_ERROR,
    "MRCNN_NOT_BUILT": interface.NOT_BUILT,
    "MRCNN_OUT_OF_MEMORY": interface.OUT_OF_MEMORY,
    "MRCNN_FLOAT32": interface.FLOAT32,
    "MRCNN_FLOAT16": interface.FLOAT16,
    "MRCNN_UINT8": interface.UINT8,
    "MRCNN_LINEAR": interface.LINEAR,
    "MRCNN_CHANNELS_LAST": interface.CHANNELS_LAST,
    "MRCNN_AVG": interface.AVG,
    "MRCNN_MAX": interface.MAX,
    "MRCNN_MAX_LEVELS": interface.MAX_LEVELS,
    "MRCNN_MAX_BINS": interface.MAX_BINS,
}


@pytest.fixture(scope="module")
def told_by_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Offsets, sizes and constants, as a C program that includes the headers prints them."""
    expressions = {name: name for name in CONSTANTS}
    for struct, mirror in STRUCTS.items():
        expressions[f"sizeof {struct}"] = f"sizeof({struct})"
        for name, *_ in mirror._fields_:
            expressions[f"{struct}.{name}"] = f"offsetof({struct}, {name})"
    lines = [f'printf("%s=%d\\n", "{key}", (int)({value}));' for key, value in expressions.items()]
    includes = "".join(f'#include "{header}"\n' for header in HEADERS)
    folder = tmp_path_factory.mktemp("interface")
    source = folder / "tell.c"
    source.write_text(f"#include <stdio.h>\n{includes}int main(void) {{ {''.join(lines)} return 0; }}\n")
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    program = folder / "tell"
    subprocess.run(["cc", *strict, f"-I{PLUGINS}", source, "-o", program], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {key: int(value) for key, value in (line.split("=") for line in printed.splitlines())}


def test_constants(told_by_c: dict[str, int]) -> None:
    assert {name: told_by_c[name] for name in CONSTANTS} == CONSTANTS


@pytest.mark.parametrize("name", STRUCTS)
def test_structs(told_by_c: dict[str, int], name: str) -> None:
    mirror = STRUCTS[name]
    assert told_by_c[f"sizeof {name}"] == ctypes.sizeof(mirror)
    for field, *_ in mirror._fields_:
        assert told_by_c[f"{name}.{field}"] == getattr(mirror, field).offset, field


def test_every_function_of_the_headers_is_declared() -> None:
    text = "".join((PLUGINS / header).read_text(encoding="utf-8") for header in HEADERS)
    functions = re.findall(r"MRCNN_API [\w ]+[ *]+(mrcnn\w+)\(", text)
    assert sorted(functions) == sorted(interface.FUNCTIONS)


def test_no_kernel_knows_a_framework() -> None:
    """Only the adapters include TensorRT, and nothing includes PyTorch."""
    sources = [path for path in PLUGINS.rglob("*") if path.suffix in {".h", ".cpp", ".cu"}]
    wrong = [
        str(path.relative_to(PLUGINS))
        for path in sources
        for header in re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"))
        if re.match(r"(NvInfer|torch|ATen|c10)", header) and not re.search("_trt|trt_", path.name)
    ]
    assert len(sources) > 10
    assert not wrong


@pytest.mark.parametrize(
    ("op", "is_plugin"), [("roi_align", True), ("roi_pool", True), ("nms", True), ("resize", False)]
)
def test_every_op_has_the_same_files(op: str, is_plugin: bool) -> None:
    wanted = {"README.md", f"{op}.h", f"{op}.cu"}
    wanted |= {f"{op}_{part}" for part in ("math.h", "check.h", "check.cpp", "cpu.cpp")}
    wanted |= {f"{op}_trt.{kind}" for kind in ("h", "cpp") if is_plugin}
    assert {path.name for path in (PLUGINS / op).iterdir()} == wanted


def test_a_library_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    from mrcnn.errors import MissingRequirementError
    from mrcnn.plugins.kernels import Kernels

    with pytest.raises(MissingRequirementError, match=r"are not built .*nothing.so.* `mrcnn doctor`"):
        Kernels(tmp_path / "nothing.so")
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(MissingRequirementError, match=r"text.so cannot be loaded here: build it again \("):
        Kernels(text)
    source, other = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text("int something(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", other], check=True)
    with pytest.raises(MissingRequirementError, match="undefined symbol: mrcnnLastError"):
        Kernels(other)


def test_a_librarys_calls_stay_its_own() -> None:
    """Else another version of it in the same process would answer them."""
    told = subprocess.run(
        ["readelf", "-d", kernels_path()], check=True, capture_output=True, text=True
    ).stdout
    assert "SYMBOLIC" in told
