"""The facts about a machine, where its drivers, libraries and packages are broken."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mrcnn.diagnosis import machine
from mrcnn.diagnosis.machine import Driver, Gpu, Library, OnnxRuntime
from mrcnn.plugins import build, toolchain
from tests.plugins.programs import program


@pytest.mark.parametrize(
    ("text", "version", "gpus"),
    [
        (
            "580.65.06, 9.0, 81559, NVIDIA H100 80GB HBM3\n",
            "580.65.06",
            (Gpu("NVIDIA H100 80GB HBM3", (9, 0), 85.5),),
        ),
        ("540.4.0, [N/A], [N/A], Orin (nvgpu)\n", "540.4.0", (Gpu("Orin (nvgpu)"),)),
        ("N/A, 12.0, 1, A, with a comma\nwarning: x\n\n", None, (Gpu("A, with a comma", (12, 0), 0.0),)),
        ("No devices were found\n", None, ()),
        ("\x00\xff,,,\n", None, (Gpu(""),)),
        ("", None, ()),
    ],
)
def test_what_nvidia_smi_prints(text: str, version: str | None, gpus: tuple[Gpu, ...]) -> None:
    assert machine.read_nvidia_smi(text) == (version, gpus)


def test_nvidia_smi_that_fails_or_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "PATIENCE", 0.3)
    smi = tmp_path / "nvidia-smi"
    program(smi, "echo Failed to initialize NVML: Driver/library version mismatch", "exit 18")
    error = "nvidia-smi: ended with status 18: Failed to initialize NVML: Driver/library version mismatch"
    assert machine.ask_nvidia_smi() == (None, (), error)
    program(smi, "sleep 3600")
    assert machine.ask_nvidia_smi() == (None, (), "nvidia-smi: no answer within 0.3 s")
    smi.write_bytes(b"\x7fELF")
    assert machine.ask_nvidia_smi()[2] == "nvidia-smi: Exec format error"
    program(smi, 'echo "580.65.06, 9.0, 81559, NVIDIA H100"')
    assert machine.ask_nvidia_smi() == ("580.65.06", (Gpu("NVIDIA H100", (9, 0), 85.5),), None)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            {"installed": True, "cuda": [13, 0], "gpus": [], "error": None},
            Driver(installed=True, cuda=(13, 0)),
        ),
        ({"installed": False, "cuda": None, "gpus": [], "error": "not found"}, Driver()),
        (
            {
                "installed": True,
                "cuda": [12, 6],
                "gpus": [{"name": "Orin", "capability": [8, 7], "memory_bytes": 7_900_000_000}],
                "error": None,
            },
            Driver(installed=True, cuda=(12, 6), gpus=(Gpu("Orin", (8, 7), 7.9),)),
        ),
        (
            toolchain.ToolError("probe.py: killed by SIGSEGV: without a word"),
            Driver(installed=True, error="libcuda: probe.py: killed by SIGSEGV: without a word"),
        ),
    ],
)
def test_what_libcuda_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: Any, expected: Driver
) -> None:
    def probe(*_: object, **__: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(toolchain, "probe", probe)
    monkeypatch.setattr(machine, "ask_nvidia_smi", lambda: (None, (), None))
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.find_driver() == expected


def test_a_driver_of_c(tmp_path: Path) -> None:
    """The probe against a libcuda that is compiled for it, since this machine need not have one."""
    source = tmp_path / "cuda.c"
    source.write_text(
        """
        #include <string.h>
        int status = 0;
        int cuDriverGetVersion(int* v) { *v = 12060; return 0; }
        int cuInit(unsigned flags) { return INIT; }
        int cuDeviceGetCount(int* n) { *n = 1; return 0; }
        int cuDeviceGet(int* device, int i) { *device = 7 + i; return 0; }
        int cuDeviceGetName(char* name, int size, int device) {
            strcpy(name, device == 7 ? "Orin" : "?");
            return 0;
        }
        int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = 7900000000; return 0; }
        int cuDeviceGetAttribute(int* value, int attribute, int device) {
            *value = attribute == 75 ? 8 : 7;
            return 0;
        }
        int cuGetErrorName(int error, const char** text) { *text = "CUDA_ERROR_UNKNOWN"; return 0; }
        """
    )
    compiler = toolchain.find_compiler()
    if compiler is None:
        pytest.skip("this machine has no compiler")
    answers = {}
    for status in (0, 100, 999):
        library = tmp_path / f"cuda{status}.so"
        command = [compiler.path, "-x", "c", "-shared", "-fPIC", f"-DINIT={status}", source, "-o", library]
        subprocess.run(command, check=True)
        code = f"import json, probe; print(json.dumps(probe.gpus({str(library)!r})))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=build.SOURCES, capture_output=True, text=True, check=True
        )
        answers[status] = json.loads(done.stdout)
    orin = {"name": "Orin", "capability": [8, 7], "memory_bytes": 7_900_000_000}
    assert answers[0] == {"installed": True, "cuda": [12, 6], "gpus": [orin], "error": None}
    assert answers[100] == {"installed": True, "cuda": [12, 6], "gpus": [], "error": None}
    assert answers[999]["error"] == "cuInit answers CUDA_ERROR_UNKNOWN"


def test_libraries(tmp_path: Path) -> None:
    path = tmp_path / build.KERNELS
    assert machine.find_library(path, ()) == Library(path)
    path.write_text("")
    assert machine.find_library(path, ()) == Library(path, error="file too short")
    path.write_text("text" * 1000)
    assert machine.find_library(path, ()) == Library(path, error="invalid ELF header")
    path.write_bytes(Path(sys.executable).resolve().read_bytes()[:2000])
    assert machine.find_library(path, ()).error is not None


def test_boards(tmp_path: Path) -> None:
    assert machine.find_jetson(tmp_path) is None
    tree = tmp_path / "proc" / "device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(b"Raspberry Pi 5\0")
    assert machine.find_jetson(tmp_path) is None
    (tree / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    assert machine.find_jetson(tmp_path) == "NVIDIA Jetson Orin Nano Developer Kit"
    (tmp_path / "etc").mkdir()
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    (tmp_path / "etc" / "nv_tegra_release").write_text(release)
    assert machine.find_jetson(tmp_path) == "NVIDIA Jetson Orin Nano Developer Kit, Jetson Linux 36.4.3"
    (tree / "model").unlink()
    assert machine.find_jetson(tmp_path) == "NVIDIA Jetson, Jetson Linux 36.4.3"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12\nGCC 12.2.0\n",
            "535.183.01",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", "580.65.06"),
        ("nonsense", None),
    ],
)
def test_the_kernel_module_of_the_driver(tmp_path: Path, text: str, version: str | None) -> None:
    (tmp_path / "proc" / "driver" / "nvidia").mkdir(parents=True)
    (tmp_path / "proc" / "driver" / "nvidia" / "version").write_text(text)
    assert machine.kernel_module_version(tmp_path) == version


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [("0x10de", "0x030200", True), ("0x10de", "0x040300", False), ("0x8086", "0x030000", False)],
)
def test_hardware(tmp_path: Path, vendor: str, kind: str, found: bool) -> None:
    device = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    assert machine.has_nvidia_hardware(tmp_path) is found


def test_onnxruntime_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrcnn.runtime import ort

    def fail() -> None:
        raise SystemError("initialization\nof _pybind failed")

    monkeypatch.setattr(ort, "import_onnxruntime", fail)
    assert machine.find_onnxruntime() == OnnxRuntime(error="SystemError: initialization of _pybind failed")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("__version__ = '2.9'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "13.0"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", None),
        ("cuda = '12.8'\n", "12.8"),
        (None, None),
    ],
)
def test_the_cuda_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, version: str | None
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')")
    if text is not None:
        (tmp_path / "torch" / "version.py").write_text(text)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert machine.find_torch_cuda() == version


@pytest.mark.parametrize("text", ["", "{", "[]", '{"left_out": 3}', "{}", "null"])
def test_a_report_of_the_build_that_is_damaged(tmp_path: Path, text: str) -> None:
    assert machine.find_left_out(tmp_path / "none.json") == ()
    (tmp_path / "build.json").write_text(text)
    assert machine.find_left_out(tmp_path / "build.json") == ()
