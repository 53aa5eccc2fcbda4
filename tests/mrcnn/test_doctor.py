"""`mrcnn doctor`: what it makes of a machine, with machines that are made up."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mrcnn import __version__, doctor
from mrcnn.cli import main
from mrcnn.diagnosis import gpu, machine, native, packages
from mrcnn.diagnosis.machine import Driver, Found, Gpu, Library, Machine, OnnxRuntime
from mrcnn.diagnosis.row import Row
from mrcnn.errors import install_command
from mrcnn.plugins.toolchain import Tool

H100 = Gpu("NVIDIA H100", (9, 0), 85.0)
CPU_INFO = f"mrcnn {__version__}, CPU"
CUDA_INFO = f"{CPU_INFO}, CUDA 13.0 sm_90"
REBUILD = "python -m mrcnn.plugins.build"

# A desktop with everything.
DESKTOP = Machine(
    python="3.12.1",
    system="Linux x86_64",
    packages={name: "11.0" if name == "tensorrt" else "2.0" for name in machine.MODULES if "cu1" not in name},
    modules=frozenset(machine.MODULES.values()),
    torch_cuda="13.0",
    onnxruntime=OnnxRuntime(("CUDAExecutionProvider", "CPUExecutionProvider")),
    driver=Driver(installed=True, version="580.65.06", cuda=(13, 0), gpus=(H100,), listed=(H100,)),
    hardware=True,
    compiler=Found(Tool(Path("/usr/bin/c++"), (12, 2, 0))),
    cmake=Found(Tool(Path("/usr/bin/cmake"), (3, 25, 1))),
    nvcc=Found(Tool(Path("/usr/bin/nvcc"), (13, 0, 88))),
    headers=Tool(Path("/usr/include"), (10, 13)),
    kernels=Library(Path("libmrcnn_kernels.so"), CUDA_INFO),
    plugins=Library(Path("libmrcnn_plugins.so"), f"{CUDA_INFO}, TensorRT 10.13"),
)
NO_DRIVER = Driver()
# A laptop without a GPU, with what `pip install .` brings.
LAPTOP = replace(
    DESKTOP,
    modules=frozenset({"numpy", "cv2", "PIL", "tqdm", "onnxruntime"}),
    onnxruntime=OnnxRuntime(("CPUExecutionProvider",)),
    torch_cuda=None,
    driver=NO_DRIVER,
    hardware=False,
    packages={"numpy": "2.0", "opencv-python": "4.9", "pillow": "11", "tqdm": "4.66", "onnxruntime": "1.20"},
    nvcc=Found(),
    headers=None,
    kernels=Library(Path("libmrcnn_kernels.so"), CPU_INFO),
    plugins=Library(Path("libmrcnn_plugins.so")),
    left_out=("CUDA kernels and TensorRT plugins left out: nvcc not found; install it",),
)
ORIN = Gpu("Orin", (8, 7), 7.9)
JETSON = replace(
    LAPTOP,
    system="Linux aarch64",
    jetson="NVIDIA Jetson Orin Nano, Jetson Linux 36.4",
    driver=Driver(installed=True, version="540.4.0", cuda=(12, 6), gpus=(ORIN,)),
)


def driver(**changes: Any) -> Machine:
    """The desktop with another driver."""
    return replace(DESKTOP, driver=replace(DESKTOP.driver, **changes))


def states(rows: list[Row]) -> dict[str, str]:
    return {row.name: row.state for row in rows}


# Verdicts -------------------------------------------------------------------------------------------------


def test_a_machine_that_has_everything() -> None:
    rows = doctor.examine(DESKTOP)
    assert set(states(rows).values()) == {"ok"}
    assert all(row.do is None for row in rows)
    assert native.kernels(DESKTOP).detail == CUDA_INFO
    assert gpu.gpu(DESKTOP).detail == "NVIDIA H100 (sm_90, 85 GB); driver 580.65.06 for CUDA up to 13.0"


def test_a_machine_without_a_gpu_has_no_problem_and_little_to_do() -> None:
    rows = doctor.examine(LAPTOP)
    assert "problem" not in states(rows).values()
    assert states(rows)["kernels"] == "ok"
    to_do = [row for row in rows if row.do and not row.do.startswith(("nothing: ", "only to ", "to train "))]
    assert to_do == []
    assert native.plugins(LAPTOP).detail == "not built: nvcc not found"
    assert "opencv-python 4.9" in packages.required(LAPTOP).detail, "whoever brought cv2"


def test_a_jetson_is_told_of_jetpack() -> None:
    rows = {row.name: row.do for row in doctor.examine(JETSON)}
    assert rows["nvcc"] == f"sudo apt install nvidia-cuda-dev, then {REBUILD}"
    assert rows["TensorRT headers"] == f"sudo apt install nvidia-jetpack, then {REBUILD}"
    assert str(rows["TensorRT"]).startswith(
        "sudo apt install nvidia-jetpack; a venv sees it with --system-site"
    )
    assert "https://pypi.jetson-ai-lab.io" in str(rows["ONNX Runtime"])
    assert rows["kernels"] == f"see nvcc, then {REBUILD}"
    assert rows["TensorRT plugins"] == f"see nvcc and TensorRT headers, then {REBUILD}"


def test_every_verdict_that_is_not_ok_says_what_to_do() -> None:
    for case in (LAPTOP, JETSON, driver(gpus=()), driver(error="cuInit answers X", gpus=())):
        for row in doctor.examine(case):
            assert (row.do is None) == (row.state == "ok"), row
            assert "\n" not in row.detail + (row.do or "")


@pytest.mark.parametrize(
    ("changes", "container", "state", "detail", "do"),
    [
        ({}, False, "problem", "nvidia-smi lists GPUs, but CUDA sees none", "reboot, "),
        ({"listed": ()}, False, "missing", "none; driver 580.65.06", "nothing: "),
        ({"error": "cuInit answers CUDA_ERROR_UNKNOWN"}, False, "problem", "CUDA_ERROR_UNKNOWN", "reboot, "),
        (
            {"error": "cuInit answers CUDA_ERROR_UNKNOWN"},
            True,
            "problem",
            "CUDA_ERROR_UNKNOWN",
            "run nvidia-smi",
        ),
        (
            {"listed": (), "smi_error": "nvidia-smi: no answer within 2.5 s"},
            False,
            "problem",
            "no answer",
            "reboot",
        ),
        (
            {"installed": False, "cuda": None},
            True,
            "problem",
            "libcuda.so.1 is not found",
            "start the container",
        ),
        (
            {"installed": False, "cuda": None},
            False,
            "problem",
            "libcuda.so.1 is not found",
            "install that library",
        ),
        (
            {"installed": False, "listed": ()},
            False,
            "missing",
            "there is one, but no driver",
            "install NVIDIA's",
        ),
        (
            {"installed": False, "listed": ()},
            True,
            "missing",
            "no driver in this container",
            "docker run --gpus",
        ),
    ],
)
def test_drivers(changes: dict[str, Any], container: bool, state: str, detail: str, do: str) -> None:
    row = gpu.gpu(replace(driver(gpus=(), **changes), container=container))
    assert row.state == state
    assert detail in row.detail
    assert str(row.do).startswith(do)


def test_gpus_that_are_hidden() -> None:
    row = gpu.gpu(replace(driver(gpus=()), hidden_gpus=""))
    assert (row.state, row.detail) == ("missing", "1, hidden by CUDA_VISIBLE_DEVICES=''")
    assert row.do == "unset CUDA_VISIBLE_DEVICES"


def test_a_jetson_without_its_driver() -> None:
    broken = replace(JETSON, driver=NO_DRIVER)
    assert gpu.gpu(broken).state == "problem"
    assert gpu.gpu(replace(broken, container=True)).do == "docker run --runtime nvidia …"


def test_a_gpu_of_which_little_is_known() -> None:
    unknown = driver(gpus=(Gpu("GPU"),), version=None, cuda=None)
    assert gpu.gpu(unknown).detail == "GPU; driver of unknown version"
    assert native.kernels(unknown).state == "ok", "nothing speaks against it"


def test_packages() -> None:
    without = replace(LAPTOP, modules=LAPTOP.modules - {"cv2"})
    assert packages.required(without).state == "problem"
    assert packages.required(without).do == "pip install opencv-python-headless"
    assert packages.export(LAPTOP).do == f"to train and export: {install_command('export')}"
    broken = replace(LAPTOP, onnxruntime=OnnxRuntime(error="ImportError: libfoo"))
    assert packages.onnxruntime(broken).do == "pip install --force-reinstall onnxruntime"
    assert packages.onnxruntime(replace(broken, modules=frozenset())).do == "pip install onnxruntime"
    slow = replace(DESKTOP, onnxruntime=OnnxRuntime(("CPUExecutionProvider",)))
    assert packages.onnxruntime(slow).state == "missing"
    assert packages.onnxruntime(slow).do == "pip install --force-reinstall --no-deps onnxruntime-gpu"


def test_torch_and_the_driver() -> None:
    old = driver(cuda=(12, 4))
    row = packages.torch(old)
    assert row.state == "problem"
    assert row.detail == "2.0, built for CUDA 13.0, while the driver supports 12.4: it sees no GPU"
    assert "https://download.pytorch.org/whl/cu126" in str(row.do)
    assert packages.torch(replace(old, torch_cuda="12.8")).state == "ok", "within a major version it works"
    without = packages.torch(replace(DESKTOP, torch_cuda=None))
    assert (without.state, without.detail) == ("missing", "2.0, built without CUDA")
    assert "https://download.pytorch.org/whl/cu130" in str(without.do)
    assert packages.torch(replace(LAPTOP, modules=LAPTOP.modules | {"torch"})).state == "ok"


def test_cuda_python() -> None:
    def having(version: str | None, *, cuda: tuple[int, int] = (13, 0)) -> Row:
        modules = DESKTOP.modules if version else DESKTOP.modules - {"cuda.bindings"}
        names = {"cuda-bindings": version} if version else {}
        return packages.cuda_python(replace(driver(cuda=cuda), packages=names, modules=modules))

    assert having("13.0.3") == Row("cuda-python", "ok", "13.0.3")
    assert having("12.8.0").state == "ok", "an older one runs on a newer driver"
    assert having(None).do == "pip install 'cuda-python>=12.9.1'"
    newer = having("13.5.0", cuda=(12, 6))
    assert (newer.state, newer.detail) == ("problem", "13.5.0, for a newer CUDA than the driver's 12.6")
    assert newer.do == "update the driver, or pip install 'cuda-python>=12.9.1,<13'"
    assert packages.cuda_python(LAPTOP).do == "nothing: it has no use without an NVIDIA GPU"


def test_tensorrt() -> None:
    def having(version: str | None, *, module: bool, cuda: tuple[int, int] = (13, 0)) -> Row:
        names = {} if version is None else {"tensorrt": version}
        modules = DESKTOP.modules if module else DESKTOP.modules - {"tensorrt", "tensorrt_lean"}
        return packages.tensorrt(replace(driver(cuda=cuda), packages=names, modules=modules))

    assert having("10.3.0", module=True) == Row("TensorRT", "ok", "10.3.0")
    assert having(None, module=True).detail == "of unknown version"
    assert having("8.6.1.post1", module=True).detail == "8.6.1.post1, older than 10.3"
    assert having("10.3.0", module=False).state == "problem"
    assert having(None, module=False).do == "pip install onnx cuda-python scipy pycocotools tensorrt"
    older = having(None, module=False, cuda=(12, 6))
    assert older.do == "pip install 'tensorrt-cu12>=10.3' 'cuda-python>=12.9.1,<13'"
    lean = replace(driver(cuda=(12, 6)), modules=frozenset())
    assert str(packages.tensorrt_lean(lean).do).endswith("pip install tensorrt-lean-cu12")
    old = replace(JETSON, packages={"tensorrt": "8.6.2"}, modules=frozenset({"tensorrt"}))
    assert packages.tensorrt(old).do == "JetPack 6.1 or newer has it"


def test_headers() -> None:
    wrong = native.headers(replace(DESKTOP, headers=None, tensorrt_root="/trt"))
    assert (wrong.state, wrong.detail) == ("problem", "no NvInfer.h in TENSORRT_ROOT=/trt")
    absent = native.headers(replace(DESKTOP, headers=None))
    assert absent.state == "missing"
    assert "--branch release/11.0 " in str(absent.do), "as the installed TensorRT"
    for name in ("tensorrt-cu12", "tensorrt-cu13"):
        suffixed = native.headers(replace(DESKTOP, headers=None, packages={name: "10.13.3.9"}))
        assert "--branch release/10.13 " in str(suffixed.do), name
    unknown = native.headers(replace(DESKTOP, headers=None, packages={}))
    assert "--branch release/X.Y " in str(unknown.do), "the remedy for TensorRT itself names none"
    old = replace(JETSON, headers=Tool(Path("/usr/include"), (8, 6)))
    assert native.headers(old).detail == "8.6, older than 10.3"
    assert (
        native.headers(old).do == f"sudo apt install nvidia-jetpack of JetPack 6.1 or newer, then {REBUILD}"
    )


def test_tools() -> None:
    broken = Found(error="nvcc: ended with status 1: no")
    assert native.nvcc(replace(DESKTOP, nvcc=broken)) == Row(
        "nvcc", "problem", "nvcc: ended with status 1: no", f"repair it, then {REBUILD}"
    )
    assert native.nvcc(replace(driver(cuda=(12, 4)), nvcc=Found())).do == (
        f"install the CUDA toolkit 12.x (https://developer.nvidia.com/cuda-downloads), then {REBUILD}"
    )
    old = native.cmake(replace(DESKTOP, cmake=Found(Tool(Path("cmake"), (3, 22, 1)))))
    assert (old.state, old.detail) == ("missing", "3.22.1, older than 3.24")
    assert native.compiler(replace(DESKTOP, compiler=Found())).state == "missing"


def kernels(case: Machine, info: str | None = None, error: str | None = None) -> Row:
    return native.kernels(replace(case, kernels=Library(Path("libmrcnn_kernels.so"), info, error)))


def test_libraries_that_are_broken() -> None:
    broken = kernels(DESKTOP, error="file too short")
    assert broken == Row("kernels", "problem", "libmrcnn_kernels.so: file too short", f"run: {REBUILD}")
    older = kernels(DESKTOP, "mrcnn 0.0.9, CPU, CUDA 13.0 sm_90")
    assert older.state == "problem"
    assert f"it belongs to another version than {__version__}" in older.detail
    assert kernels(DESKTOP, "").state == "problem"


def test_libraries_that_are_not_there() -> None:
    assert kernels(DESKTOP) == Row("kernels", "missing", "not built", f"run: {REBUILD}")
    bare = replace(DESKTOP, compiler=Found(), cmake=Found())
    assert kernels(bare).do == f"see C++ compiler and CMake, then {REBUILD}"
    assert kernels(DESKTOP, CPU_INFO).detail == f"{CPU_INFO}; no part for the GPU"
    assert str(kernels(replace(LAPTOP, system="Darwin arm64")).do).startswith(
        "nothing: it is built on Linux only"
    )


def test_libraries_that_this_gpu_cannot_run() -> None:
    other = kernels(DESKTOP, f"{CPU_INFO}, CUDA 13.0 sm_87-real")
    assert other.state == "problem"
    assert other.detail.endswith("; NVIDIA H100 cannot run it")
    late = kernels(DESKTOP, f"{CPU_INFO}, CUDA 13.0 sm_75")
    assert late.state == "ok"
    assert late.detail.endswith("; the driver compiles it for this GPU at its first use")
    newer = kernels(driver(cuda=(12, 4)), CUDA_INFO)
    assert (newer.state, newer.detail) == ("problem", f"{CUDA_INFO}; the driver supports only CUDA 12.4")
    assert str(newer.do).startswith("update the driver, or install the CUDA toolkit 12.x")
    # Machine code of a newer minor version runs, PTX of it cannot be compiled.
    info = f"{CPU_INFO}, CUDA 13.1 "
    assert kernels(DESKTOP, info + "sm_90").state == "ok"
    assert kernels(DESKTOP, info + "sm_75").state == "problem"


@pytest.mark.parametrize(
    ("compiled", "capability", "code"),
    [
        ("sm_90", (9, 0), "native"),
        ("sm_80", (8, 6), "native"),
        ("sm_86-real", (8, 0), None),
        ("sm_86", (8, 0), None),
        ("sm_86", (8, 9), "native"),
        ("sm_80-real", (9, 0), None),
        ("sm_80", (9, 0), "ptx"),
        ("sm_80-virtual", (8, 0), "ptx"),
        ("sm_80", (8, 7), "ptx"),
        ("sm_87-real", (8, 9), None),
        ("sm_87-real", (8, 7), "native"),
        ("sm_90a", (9, 0), "native"),
        ("sm_100a", (10, 3), None),
        ("sm_100f", (10, 3), "native"),
        ("sm_75-real sm_87-real sm_120", (12, 1), "native"),
        ("sm_75-real sm_120", (8, 7), None),
        ("", (9, 0), None),
    ],
)
def test_code_for_a_gpu(compiled: str, capability: tuple[int, int], code: str | None) -> None:
    assert native.code_for(f"mrcnn 0.1.0, CPU, CUDA 13.0 {compiled}, TensorRT 10.3", capability) == code


# The command ----------------------------------------------------------------------------------------------


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(machine, "survey", lambda: LAPTOP)
    return monkeypatch


@pytest.mark.usefixtures("made_up")
def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"mrcnn             ok       {__version__}, Python 3.12.1, Linux x86_64"
    starts = {re.split(r"ok|missing|problem|do:", line)[0] for line in lines[:-1]}
    assert {len(start) for start in starts} <= {18, 22}, "columns are aligned"
    assert lines[-1] == "no problems, 9 missing"


def test_the_exit_status_and_json(
    made_up: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = replace(DESKTOP, kernels=Library(Path("libmrcnn_kernels.so"), error="file too short"))
    made_up.setattr(machine, "survey", lambda: broken)
    assert main(["doctor", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["gpus"] == [{"name": "NVIDIA H100", "capability": [9, 0], "memory_gb": 85.0}]
    (row,) = [row for row in document["rows"] if row["state"] != "ok"]
    assert (row["name"], row["do"]) == ("kernels", f"run: {REBUILD}")
    assert main(["doctor", "--json", str(tmp_path / "report.json")]) == 1
    assert "1 problem, nothing missing" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text()) == document


def test_on_this_machine(tmp_path: Path) -> None:
    """As a process, with an nvidia-smi that hangs: it ends, and has imported nothing heavy."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nsleep 3600\n")
    smi.chmod(0o755)
    code = (
        "import sys\nfrom mrcnn.cli import main\nstatus = main(['doctor', '--json'])\n"
        "print(*sys.modules, file=sys.stderr)\nsys.exit(status)"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)["mrcnn"] == __version__
    assert not {"torch", "cv2", "tensorrt", "onnx"} & set(done.stderr.split())
