"""The installed package is whole, light to import, and its parts depend on each other one way only."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrcnn.cli import COMMANDS
from tests.conftest import REPOSITORY

PACKAGES = ("export", "runtime", "plugins", "benchmarks")
FOUNDATION = ("mrcnn.errors", "mrcnn.files", "mrcnn.strict", "mrcnn.description")

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


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files inside a wheel that is built from a copy, so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (REPOSITORY / name).is_file():
            shutil.copy(REPOSITORY / name, source)
    for folder in ("mrcnn", *PACKAGES):
        shutil.copytree(REPOSITORY / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run(pip, cwd=source, check=True)
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module_where_it_is_imported_from(wheel_names: set[str]) -> None:
    wanted = {str(path.relative_to(REPOSITORY)) for path in modules("mrcnn")}
    for folder in PACKAGES:
        wanted |= {f"mrcnn/{path.relative_to(REPOSITORY)}" for path in modules(folder)}
    assert wanted <= wheel_names


def test_the_wheel_holds_nothing_else(wheel_names: set[str]) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in wheel_names} == {"mrcnn"}
    assert not any(name.startswith("mrcnn/tests/") for name in wheel_names)


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


def test_a_missing_package_is_one_line_that_names_the_extra() -> None:
    code = BLOCKER.format(names=("torch",)) + (
        "import sys\nfrom mrcnn.cli import main\nsys.exit(main(['export', 'none.pth', '--onnx-only']))"
    )
    result = python(code)
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1
    assert "pip install 'mrcnn[export]'" in result.stderr


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
