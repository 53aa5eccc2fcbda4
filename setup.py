"""Installs the project's folders as one import package.

The folders stay at the top level of the repository, where a reader looks for them; in Python they are
`mrcnn`, `mrcnn.export`, `mrcnn.runtime` and so on. Everything static is in pyproject.toml.
"""

from setuptools import find_packages, setup

SUBPACKAGES = ("export", "runtime", "plugins", "benchmarks")

packages = ["mrcnn", *(f"mrcnn.{name}" for name in find_packages("mrcnn"))]
package_dir = {"mrcnn": "mrcnn"}
for folder in SUBPACKAGES:
    package_dir[f"mrcnn.{folder}"] = folder
    packages += [f"mrcnn.{folder}", *(f"mrcnn.{folder}.{name}" for name in find_packages(folder))]

setup(packages=packages, package_dir=package_dir)
