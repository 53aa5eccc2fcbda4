"""Installs the project's folders as one import package, and builds its native libraries into it.

The folders stay at the top level of the repository, where a reader looks for them; in Python they are
`mrcnn`, `mrcnn.export`, `mrcnn.runtime` and so on. Everything static is in pyproject.toml.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import ExecError

SUBPACKAGES = ("export", "runtime", "plugins", "benchmarks")

packages = ["mrcnn", *(f"mrcnn.{name}" for name in find_packages("mrcnn"))]
package_dir = {"mrcnn": "mrcnn"}
for folder in SUBPACKAGES:
    package_dir[f"mrcnn.{folder}"] = folder
    packages += [f"mrcnn.{folder}", *(f"mrcnn.{folder}.{name}" for name in find_packages(folder))]


def native_build() -> ModuleType:
    """plugins/build.py, which knows how; by its path, since there is no package yet."""
    path = Path(__file__).resolve().parent / "plugins" / "build.py"
    spec = importlib.util.spec_from_file_location("mrcnn_build", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildNative(Command):
    """Builds the native libraries into mrcnn/plugins/lib; what cannot be built is named, and left out."""

    description = "build the native libraries with CMake"
    user_options = []  # noqa: RUF012 - as distutils wants it

    def initialize_options(self) -> None:
        self.build_lib = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        package = Path("plugins") if self.editable_mode else Path(self.build_lib, "mrcnn", "plugins")
        native = native_build()
        try:
            lines = native.install_step(
                package / "lib", editable=self.editable_mode, environment=os.environ, progress=print
            )
        except native.toolchain.BuildError as error:
            raise ExecError(str(error)) from error
        for line in lines:
            print(f"mrcnn: {line}", flush=True)


class BuildWithNative(build):
    """All that `build` does, and the native libraries."""

    sub_commands = [*build.sub_commands, ("build_native", None)]  # noqa: RUF012


class NativeDistribution(Distribution):
    """Its files depend on the machine, though not on Python."""

    def has_ext_modules(self) -> bool:
        return os.environ.get("MRCNN_NATIVE") != "0"


class NativeWheel(bdist_wheel):
    """Tagged py3-none-<platform>: the libraries are loaded by ctypes."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    packages=packages,
    package_dir=package_dir,
    distclass=NativeDistribution,
    cmdclass={"build": BuildWithNative, "build_native": BuildNative, "bdist_wheel": NativeWheel},
)
