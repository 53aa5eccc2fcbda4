"""The installed package is whole, light to import, and its parts depend on each other one way only."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrcnn import __version__
from mrcnn.cli import COMMANDS
from mrcnn.errors import EXTRAS, install_command
from mrcnn.plugins import build, toolchain
from tests.conftest import REPOSITORY

PACKAGES = ("export", "runtime", "plugins", "benchmarks")
LIBRARIES = "mrcnn/plugins/lib"
FOUNDATION = (
    "mrcnn.errors",
    "mrcnn.files",
    "mrcnn.strict",
    "mrcnn.description",
    "mrcnn.sidecar",
    "mrcnn.report",
)

# What `mrcnn X --help` and `import mrcnn.runtime` must do without.
HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "cv2",
    "matplotlib",
    "pycocotools",
    "scipy",
    "yaml",
)

# Stands in for a machine where the named packages are not installed.
BLOCKER = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return copy_sources(tmp_path / "source")


def copy_sources(source: Path) -> Path:
    """A copy of what is packaged, so that the checkout stays as it is; with a library built in it."""
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "lib")
    for folder in ("mrcnn", *PACKAGES):
        shutil.copytree(REPOSITORY / folder, source / folder, ignore=ignored)
    (source / "plugins" / "lib").mkdir()
    (source / "plugins" / "lib" / build.KERNELS).write_text("of the checkout")
    return source


def make_wheel(source: Path, **environment: str) -> Path:
    """The wheel that pip makes of a folder; with the compilers of this machine, as the environment says."""
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", "dist"], cwd=source, check=True, env={**os.environ, **environment})
    (wheel,) = (source / "dist").iterdir()
    return wheel


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def build_report(wheel: Path) -> dict[str, Any]:
    with zipfile.ZipFile(wheel) as archive:
        return dict(json.loads(archive.read(f"{LIBRARIES}/{build.REPORT}")))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel without the native libraries, which is soon made."""
    return make_wheel(copy_sources(tmp_path_factory.mktemp("wheel") / "source"), MRCNN_NATIVE="0")


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    return names_in(wheel)


def test_the_wheel_holds_every_module_where_it_is_imported_from(wheel_names: set[str]) -> None:
    wanted = {str(path.relative_to(REPOSITORY)) for path in modules("mrcnn")}
    for folder in PACKAGES:
        wanted |= {f"mrcnn/{path.relative_to(REPOSITORY)}" for path in modules(folder)}
    assert wanted <= wheel_names


def test_the_wheel_holds_nothing_else(wheel_names: set[str]) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in wheel_names} == {"mrcnn"}
    assert not any(name.startswith("mrcnn/tests/") for name in wheel_names)


def test_the_wheel_holds_the_sources_of_the_native_libraries(wheel_names: set[str]) -> None:
    assert native_sources() <= wheel_names
    assert "mrcnn/plugins/nms/nms.cu" in wheel_names


def test_a_wheel_without_the_native_libraries_says_so(wheel: Path, wheel_names: set[str]) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert {name for name in wheel_names if name.startswith(f"{LIBRARIES}/")} == {f"{LIBRARIES}/build.json"}
    (line,) = build_report(wheel)["left_out"]
    assert line.startswith("native libraries left out: MRCNN_NATIVE=0; ")


def test_an_installed_package_can_build_its_native_libraries(wheel: Path, tmp_path: Path) -> None:
    skip_without_compiler()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    command = [sys.executable, "-m", "mrcnn.plugins.build", "--cpu-only"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"built {build.KERNELS} (mrcnn {__version__}, CPU) in ")
    assert (tmp_path / "site" / LIBRARIES / build.KERNELS).is_file()


def test_a_wheel_with_the_native_libraries(source: Path) -> None:
    skip_without_compiler()
    wheel = make_wheel(source, MRCNN_NATIVE="require", MRCNN_ARCHITECTURES="75", TENSORRT_ROOT="")
    machine = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name == f"mrcnn-{__version__}-py3-none-{machine}.whl"
    assert f"{LIBRARIES}/{build.KERNELS}" in names_in(wheel)
    report = build_report(wheel)
    assert report["architectures"] == "75"
    for name, info in report["libraries"].items():
        assert info.startswith(f"mrcnn {__version__}, CPU")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"{LIBRARIES}/{name}", source)
        assert build.library_info(source / LIBRARIES / name) == info
    # The files of a wheel go where Python keeps those of this machine.
    assert not any(".data/" in name for name in names_in(wheel))


def test_without_a_compiler_a_wheel_is_made_and_says_what_it_lacks(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    wheel = make_wheel(source, PATH=str(tmp_path / "empty"), CXX="")
    assert build_report(wheel)["libraries"] == {}
    assert build_report(wheel)["left_out"] == [
        "native libraries left out: no C++ compiler found; install g++ (Debian, Ubuntu: apt install g++) "
        "and run: python -m mrcnn.plugins.build"
    ]
    assert f"{LIBRARIES}/{build.KERNELS}" not in names_in(wheel)


def test_where_they_are_required_no_wheel_is_made_without_them(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = backend(source, "build_wheel", MRCNN_NATIVE="require", PATH=str(tmp_path / "empty"), CXX="")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: MRCNN_NATIVE=require: native libraries left out: no C++ compiler found; ")


def test_an_editable_install_builds_in_the_checkout(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    library = source / "plugins" / "lib" / build.KERNELS
    done = backend(source, "build_editable", MRCNN_NATIVE="0")
    assert done.returncode == 0, done.stderr
    assert library.read_text() == "of the checkout", "the step is skipped"
    done = backend(source, "build_editable", PATH=str(tmp_path / "empty"), CXX="")
    assert done.returncode == 0, done.stderr
    assert "mrcnn: native libraries left out: no C++ compiler found" in done.stdout
    assert json.loads((library.parent / build.REPORT).read_text())["libraries"] == {}
    assert not library.exists()


def test_the_source_archive_holds_the_native_sources(source: Path) -> None:
    done = backend(source, "build_sdist")
    assert done.returncode == 0, done.stderr
    (path,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {name.removeprefix("mrcnn/") for name in native_sources()} <= names
    assert {"setup.py", "pyproject.toml", "plugins/build.py", "runtime/__init__.py"} <= names
    assert not any(name.endswith(".so") for name in names)


def backend(source: Path, hook: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Calls a hook of the build backend, as pip does."""
    code = f"import setuptools.build_meta as backend; backend.{hook}('dist')"
    (source / "dist").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def native_sources() -> set[str]:
    """The files that the native libraries are compiled from, as a wheel names them."""
    folder = REPOSITORY / "plugins"
    files = [path for path in folder.rglob("*") if path.suffix in (".cpp", ".cu", ".h", ".cuh", ".cmake")]
    others = (folder / "CMakeLists.txt", folder / "exports.map")
    return {f"mrcnn/{path.relative_to(REPOSITORY)}" for path in (*files, *others)}


def skip_without_compiler() -> None:
    if toolchain.find_toolchain(toolchain.Options(cpu_only=True)).cmake is None:
        pytest.skip("this machine has no C++ compiler or no CMake")


@pytest.mark.parametrize("package", ["mrcnn", "mrcnn.runtime"])
def test_import_is_light(package: str) -> None:
    result = python(f"import sys, {package}; print(*sys.modules)")
    assert result.returncode == 0, result.stderr
    assert not set(HEAVY) & set(result.stdout.split())


def test_the_runtime_needs_no_torch_and_no_onnx() -> None:
    blocker = BLOCKER.format(
        names=("torch", "torchvision", "onnx", "onnxscript", "matplotlib", "pycocotools")
    )
    result = python(blocker + "from mrcnn.runtime import Detections, Runtime")
    assert result.returncode == 0, result.stderr


def test_every_help_works_without_the_heavy_packages() -> None:
    """One process for all commands; `--help` exits, which is caught."""
    code = BLOCKER.format(names=HEAVY) + (
        "from mrcnn.cli import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    try:\n"
        "        main([name, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0, name\n"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr
    for name in COMMANDS:
        assert f"usage: mrcnn {name}" in result.stdout
        assert f"\n  mrcnn {name} " in result.stdout, "an example of its use"


def test_a_missing_package_is_one_line_that_says_what_to_install() -> None:
    code = BLOCKER.format(names=("torch",)) + (
        "import sys\nfrom mrcnn.cli import main\nsys.exit(main(['export', 'none.pth', '--onnx-only']))"
    )
    result = python(code)
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith(f"is not installed: {install_command('export')}\n")


def test_remedies_name_the_packages_of_the_extras() -> None:
    """The table in `mrcnn.errors` against pyproject.toml, which Python 3.10 cannot parse by itself."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    lists = dict(
        re.findall(r"^(\w+) = (\[.*?\]\n)", text.partition("[project.optional-dependencies]")[2], re.M | re.S)
    )

    def packages(extra: str) -> list[str]:
        entries = re.findall(r'"([^"]+)"', re.sub(r"#.*", "", lists[extra]))
        found = []
        for entry in entries:
            inner = re.fullmatch(r"mrcnn\[(\w+)\]", entry)
            found += packages(inner[1]) if inner else re.findall(r"^[\w-]+", entry)
        return found

    assert {extra: tuple(packages(extra)) for extra in EXTRAS} == EXTRAS
    assert install_command("gpu") == "pip install onnxruntime-gpu"


def test_no_remedy_installs_another_project() -> None:
    """On PyPI `mrcnn` is somebody else's."""
    wrong = re.compile(r"""install\b[^\n`]*['" ]mrcnn(\[|==|['"`\n]|$)""")
    paths = [
        path for name in ("mrcnn", *PACKAGES, "docs") for path in (REPOSITORY / name).rglob("*.[pm][yd]")
    ]
    found = [
        f"{path}: {line}"
        for path in (*paths, REPOSITORY / "README.md")
        for line in path.read_text(encoding="utf-8").splitlines()
        if wrong.search(line)
    ]
    assert not found


# package -> what its modules may import of this project, and which packages they must not touch
ARROWS = {
    "runtime": ((*FOUNDATION, "mrcnn.runtime", "mrcnn.plugins"), ("torch", "torchvision", "onnx")),
    "plugins": ((*FOUNDATION, "mrcnn.plugins"), ()),
    "mrcnn": (("mrcnn",), ()),  # less the packages above it, below
    "export": (("mrcnn",), ()),
    "benchmarks": (("mrcnn",), ()),
}
ABOVE = {"mrcnn": ("mrcnn.export", "mrcnn.benchmarks"), "export": ("mrcnn.benchmarks",)}


@pytest.mark.parametrize("package", ARROWS)
def test_arrows_point_one_way(package: str) -> None:
    allowed, forbidden = ARROWS[package]
    forbidden = (*forbidden, *ABOVE.get(package, ()), *PACKAGES)  # `runtime.x` works in a checkout only
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imports(path)
        if within(name, forbidden) or (within(name, ("mrcnn",)) and not within(name, allowed))
    ]
    assert not wrong


@pytest.mark.parametrize("name", FOUNDATION)
def test_the_foundation_needs_the_standard_library_alone(name: str) -> None:
    path = REPOSITORY / (name.replace(".", "/") + ".py")
    for _, imported in imports(path):
        top = imported.partition(".")[0]
        assert top in sys.stdlib_module_names or within(imported, FOUNDATION), imported


def test_pre_commit_runs_the_pinned_tools() -> None:
    pins = re.compile(r'"(ruff|clang-format)==([\d.]+)"')
    hooks, project = (
        set(pins.findall((REPOSITORY / name).read_text(encoding="utf-8")))
        for name in (".pre-commit-config.yaml", "pyproject.toml")
    )
    assert hooks == project != set()


def modules(package: str) -> Iterator[Path]:
    """The Python files of a top-level folder, those under __pycache__ and build left out."""
    yield from sorted((REPOSITORY / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, at its top or inside functions.

    `from a import b` gives `a.b`, since b may be a module.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
