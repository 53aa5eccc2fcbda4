"""Every kernel compiles for every architecture, without a warning and without a spilled register."""

import subprocess
from pathlib import Path

import pytest

from mrcnn.plugins.resources import PLUGINS, SOURCES, compile_resources, known_architectures, parse, table

REPORT = """\
ptxas info    : Compiling entry function '_ZN5mrcnn4pickEi' for 'sm_90'
ptxas info    : Function properties for _ZN5mrcnn4pickEi
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 16 bytes cumulative stack size, 4096 bytes smem
ptxas info    : Compile time = 9.1 ms
ptxas info    : Compiling entry function 'plain' for 'sm_90'
ptxas info    : Function properties for plain
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 14 registers, used 0 barriers
"""


def test_the_report_of_ptxas_is_read() -> None:
    spilling, plain = parse(REPORT, "x.cu", 90)
    assert (spilling.registers, spilling.shared_bytes, spilling.spill_bytes) == (80, 4096, 20)
    assert (plain.kernel, plain.registers, plain.shared_bytes, plain.spill_bytes) == ("plain", 14, 0, 0)
    lines = table([spilling, plain]).splitlines()
    assert lines[0] == "| kernel | sm_90 | shared bytes | spills |"
    assert lines[-1] == "| `plain` | 14 | 0 | 0 |"


def architectures() -> list[object]:
    try:
        return list(known_architectures())
    except FileNotFoundError:
        return [pytest.param(0, marks=pytest.mark.skip("nvcc is not on PATH: install the CUDA toolkit"))]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("architecture", architectures())
def test_it_compiles_without_spills(architecture: int, source: str) -> None:
    kernels = compile_resources(source, architecture)
    assert kernels
    # CUB's are NVIDIA's to tune.
    ours = [kernel for kernel in kernels if not kernel.kernel.startswith("cub::")]
    assert [kernel for kernel in ours if kernel.spill_bytes] == []


def test_the_resize_stores_whole_vectors(tmp_path: Path) -> None:
    """Which nvcc makes four stores of where it loses sight of their alignment."""
    source, ptx = PLUGINS / "resize" / "resize.cu", tmp_path / "resize.ptx"
    try:
        subprocess.run(["nvcc", "-std=c++17", f"-I{PLUGINS}", "-ptx", source, "-o", ptx], check=True)
    except FileNotFoundError:
        pytest.skip("nvcc is not on PATH: install the CUDA toolkit")
    code = ptx.read_text(encoding="utf-8")
    assert code.count("st.global.v4.f32") == 1
    assert code.count("st.global.u32") == 1
