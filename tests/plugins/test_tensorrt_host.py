"""The TensorRT contract of libmrcnn_plugins.so, checked by a host of our own (tests/plugins/host).

Each check of the program is a test here, once over the library as it is installed and once under sanitizers.
The checks for a GPU run on one where there is one, and everywhere on emulated kernels.
"""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mrcnn.plugins import interface
from tests.plugins.host.build import HERE, Build

SKIPPED = 77

# Read from the sources, so that collecting the tests builds nothing; test_list holds it against the program.
_CHECK = re.compile(r"^(GPU_)?CHECK\((\w+),", re.MULTILINE)
_FOUND = [match for path in sorted(HERE.glob("*.cpp")) for match in _CHECK.findall(path.read_text("utf-8"))]
CHECKS = [name for gpu, name in _FOUND if not gpu]
GPU_CHECKS = [name for gpu, name in _FOUND if gpu]

_SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:protect_shadow_gap=0",  # the latter for CUDA's driver
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def run_host(build: Build, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs the program over the library of its build."""
    return subprocess.run(
        [str(build.host), str(build.library), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        env={**os.environ, **_SANITIZERS},
    )


def expect_ok(build: Build, name: str) -> None:
    """Fails, or skips, as the check of that name does."""
    ran = run_host(build, name)
    if ran.returncode == SKIPPED:
        pytest.skip(ran.stdout.strip())
    assert (ran.returncode, ran.stdout) == (0, f"ok {name}\n"), f"{ran.stdout}\n{ran.stderr[-4000:]}"


@pytest.mark.parametrize("name", CHECKS)
def test_plain(plain_build: Build, name: str) -> None:
    expect_ok(plain_build, name)


@pytest.mark.parametrize("name", CHECKS)
def test_sanitized(sanitized_build: Build, name: str) -> None:
    expect_ok(sanitized_build, name)


@pytest.mark.parametrize("name", GPU_CHECKS)
def test_gpu(plain_build: Build, name: str) -> None:
    expect_ok(plain_build, name)


@pytest.mark.parametrize("name", [name for name in GPU_CHECKS if not name.endswith("_graph")])
def test_emulated(emulated_build: Build, name: str) -> None:
    """enqueue passes on what the descriptions say, in every type and format; the kernels run on the CPU."""
    expect_ok(emulated_build, name)


def test_list(plain_build: Build) -> None:
    for option, names in ((["--list"], CHECKS), (["--list", "--gpu"], GPU_CHECKS)):
        listed = run_host(plain_build, *option).stdout.splitlines()
        assert sorted(line.split(":")[0] for line in listed) == sorted(names)
        assert all(re.fullmatch(r"\w+: \S.+", line) for line in listed)


def test_all_in_one_process(plain_build: Build) -> None:
    """No check depends on being the first."""
    ran = run_host(plain_build)
    assert ran.returncode == 0, ran.stdout
    assert len(ran.stdout.splitlines()) == len(CHECKS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["no_such_check"], "no check no_such_check"), (["--what"], "unknown option --what")],
)
def test_wrong_arguments(plain_build: Build, arguments: list[str], message: str) -> None:
    ran = run_host(plain_build, *arguments)
    assert ran.returncode == 2
    assert message in ran.stderr


def test_a_library_without_entry_points(
    plain_build: Build, tmp_path: Path, compile_library: Callable[[Path, str], Path]
) -> None:
    """The host refuses what TensorRT's registry would refuse."""
    other = compile_library(tmp_path, "int nothing;")
    ran = run_host(Build(library=other, host=plain_build.host))
    assert ran.returncode == 2
    assert "setLoggerFinder" in ran.stderr


def test_leaks_are_seen(sanitized_build: Build) -> None:
    ran = run_host(sanitized_build, "--leak", "library_creators")
    assert ran.returncode not in (0, SKIPPED)
    assert "12345 byte(s) leaked" in ran.stderr


def test_exports(plain_build: Build) -> None:
    """The C interface and TensorRT's two entry points; nothing else can collide with another library's."""
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", "-C", str(plain_build.library)],
        check=True,
        capture_output=True,
        text=True,
    )
    exported = {line.split(maxsplit=2)[2] for line in listed.stdout.splitlines()}
    assert exported == {*interface.FUNCTIONS, "setLoggerFinder", "getCreators"}


def test_needs_neither_tensorrt_nor_cuda(plain_build: Build) -> None:
    """So it loads on any machine, and next to any version of TensorRT."""
    listed = subprocess.run(
        ["readelf", "-d", str(plain_build.library)], check=True, capture_output=True, text=True
    )
    needed = set(re.findall(r"\(NEEDED\).*\[(.+?)\.so", listed.stdout))
    assert needed <= {
        "libc",
        "libm",
        "libdl",
        "librt",
        "libpthread",
        "libstdc++",
        "libgcc_s",
        "ld-linux-x86-64",
    } | {"ld-linux-aarch64"}
