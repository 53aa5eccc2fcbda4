"""What is known to be wrong before TensorRT sees a plan.

TensorRT trusts a plan: a damaged one, or one for another machine, ends in a line that helps nobody or in a
crash. So nothing is deserialised here that was not hashed and compared with the sidecar. The order is cheap
first: names and sizes, then the machine, then the hash over some hundred megabytes.
"""

import hashlib
import os
import re
import stat
from pathlib import Path

from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.files import read_regular
from mrcnn.plugins.toolchain import AGAIN, ToolError, probe
from mrcnn.sidecar import HEAD_BYTES, LARGEST_SIDECAR, Sidecar, head_sha256, sidecar_path

SUFFIX = ".engine"

_CHUNK = 1 << 22  # bytes read and hashed at a time: they are still in the cache when they are hashed
_REBUILD = "build it again here with `mrcnn export`"

# Engines that are compatible with other GPUs run from this compute capability on (TensorRT's AMPERE_PLUS).
_COMPATIBLE_FROM = (8, 0)


def read_sidecar(engine: Path) -> Sidecar:
    """The document beside the plan, after a look at both files' names.

    Raises:
        MrcnnError: the engine is missing, or its name or the file is none of an engine; the sidecar is
            missing, was edited, or is no sidecar.
    """
    if engine.suffix != SUFFIX:
        raise MrcnnError(f"{engine}: an engine's name ends in {SUFFIX}")
    _size(engine)
    path = sidecar_path(engine)
    try:
        text = read_regular(path, most_bytes=LARGEST_SIDECAR).decode()
    except FileNotFoundError:
        raise MrcnnError(
            f"{engine}: {path.name} is missing beside it: copy it along, it is written with the engine"
        ) from None
    except UnicodeDecodeError as error:
        raise MrcnnError(f"{path}: not a text: copy it again from where the engine was built") from error
    try:
        return Sidecar.from_json(text)
    except MrcnnError as error:
        raise MrcnnError(f"{path}: {error}") from error


def check_plan(engine: Path, sidecar: Sidecar) -> None:
    """Compares the plan's length and beginning with the sidecar, which is soon done.

    Raises:
        MrcnnError: the file is unreadable, cut off, or of another build.
    """
    size = _size(engine)
    if size > sidecar.plan_bytes or not _has_head(engine, sidecar, size):
        raise _other_build(engine)
    if size < sidecar.plan_bytes:
        raise MrcnnError(
            f"{engine}: cut off after {size:,} of {sidecar.plan_bytes:,} bytes: copy it again completely"
        )


def read_plan(engine: Path, sidecar: Sidecar) -> bytearray:
    """The whole plan, hashed while it is read, after `check_plan`.

    Raises:
        MrcnnError: it is unreadable or damaged.
        MissingRequirementError: it does not fit into memory.
    """
    try:
        plan = bytearray(sidecar.plan_bytes)
        digest, rest = hashlib.sha256(), memoryview(plan)
        with engine.open("rb", buffering=0) as file:
            while rest and (read := file.readinto(rest[:_CHUNK])):
                digest.update(rest[:read])
                rest = rest[read:]
    except MemoryError as error:
        raise MissingRequirementError(
            f"{engine}: not enough memory to read its {sidecar.plan_bytes:,} bytes: end other programs"
        ) from error
    except OSError as error:
        raise MrcnnError(f"{engine}: {error.strerror or error}") from error
    if digest.hexdigest() == sidecar.plan_sha256:
        return plan
    # It has the length and the beginning of the right one, or it was replaced since `check_plan`.
    raise MrcnnError(f"{engine}: damaged, as its bytes are not those that were built: copy it again")


def check_machine(
    engine: Path,
    sidecar: Sidecar,
    *,
    gpu: str,
    capability: tuple[int, int],
    tensorrt: str,
    plugins: str | None,
) -> None:
    """Refuses an engine that cannot run here.

    A GPU of another name and the same compute capability passes: TensorRT runs the engine, perhaps slower.

    Args:
        gpu, capability: of this machine.
        tensorrt: version of the TensorRT that will read the plan.
        plugins: version of mrcnn that the plugin library belongs to; None where there is no library.

    Raises:
        MissingRequirementError: the GPU, TensorRT or the plugins are other ones than the engine needs.
    """
    _check_gpu(engine, sidecar, gpu=gpu, capability=capability)
    _check_tensorrt(engine, sidecar, tensorrt)
    if sidecar.plugins_embedded or plugins == sidecar.plugins:
        return
    if plugins is None:
        raise MissingRequirementError(
            f"{engine}: it needs the TensorRT plugins, which are not built: run {AGAIN}"
        )
    raise MissingRequirementError(
        f"{engine}: built with the plugins of mrcnn {sidecar.plugins}, here are those of {plugins}: "
        f"install that version of it, or {_REBUILD}"
    )


def installed_plugins(library: Path) -> str | None:
    """The version of mrcnn that the plugin library belongs to; None where it was not built.

    A process of its own looks, since a damaged library kills whoever loads it.

    Raises:
        MissingRequirementError: it is there and cannot be loaded.
    """
    if not library.is_file():
        return None
    try:
        answer = probe("library", library)
        if answer["error"] is not None:
            raise ToolError(answer["error"])
    except ToolError as error:
        raise MissingRequirementError(f"{library} cannot be loaded here ({error}): run {AGAIN}") from error
    version = re.match(r"mrcnn ([^,]+)", answer["info"])
    return version[1] if version else str(answer["info"])


def _check_gpu(engine: Path, sidecar: Sidecar, *, gpu: str, capability: tuple[int, int]) -> None:
    if capability == sidecar.capability:
        return
    if sidecar.hardware_compatible and min(capability, sidecar.capability) >= _COMPATIBLE_FROM:
        return
    needed, here = (".".join(map(str, each)) for each in (sidecar.capability, capability))
    raise MissingRequirementError(
        f"{engine}: built for {sidecar.gpu} (compute capability {needed}), this is {gpu} ({here}): {_REBUILD}"
    )


def _check_tensorrt(engine: Path, sidecar: Sidecar, tensorrt: str) -> None:
    built, here = _numbers(sidecar.tensorrt), _numbers(tensorrt)
    if sidecar.version_compatible:
        fits = built[:1] == here[:1] and here[:2] >= built[:2]
        wanted = f"tensorrt>={'.'.join(map(str, built[:2]))},<{built[0] + 1}" if built else "tensorrt"
    else:
        common = min(len(built), len(here))  # not everybody tells the number of the build
        fits = built[:common] == here[:common] and common >= 3
        wanted = f"tensorrt=={sidecar.tensorrt}"
    if not fits:
        raise MissingRequirementError(
            f"{engine}: built with TensorRT {sidecar.tensorrt}, here is {tensorrt}: "
            f"pip install '{wanted}', or {_REBUILD}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The first four: "10.13.3.9.post1" → (10, 13, 3, 9)."""
    found = re.match(r"\d{1,9}(\.\d{1,9}){0,3}", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _size(engine: Path) -> int:
    """Bytes of a file that can be read.

    Raises:
        MrcnnError: it is missing, empty, or no file.
    """
    try:
        found = engine.stat()
        readable = os.access(engine, os.R_OK)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise MrcnnError(f"{engine}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise MrcnnError(f"{engine}: a folder, not an engine")
    if not stat.S_ISREG(found.st_mode):
        raise MrcnnError(f"{engine}: not a regular file")
    if not readable:
        raise MrcnnError(f"{engine}: Permission denied")
    if found.st_size == 0:
        raise MrcnnError(f"{engine}: the file is empty: copy it again")
    return found.st_size


def _has_head(engine: Path, sidecar: Sidecar, size: int) -> bool:
    """Whether the file begins as the plan did; one that is too short to tell counts as cut off."""
    if size < min(HEAD_BYTES, sidecar.plan_bytes):
        return True
    try:
        with engine.open("rb") as file:
            return head_sha256(file.read(HEAD_BYTES)) == sidecar.plan_head_sha256
    except OSError as error:
        raise MrcnnError(f"{engine}: {error.strerror or error}") from error


def _other_build(engine: Path) -> MrcnnError:
    name = sidecar_path(engine).name
    return MrcnnError(f"{engine}: of another build than {name}: copy both from the same build")
