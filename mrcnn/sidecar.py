"""What stands beside a plan, in `model.engine.json`: what it is, what made it, and where it may run.

A plan is a plain TensorRT plan, which says nothing of this and must not be read before it is known to be
whole and made for this machine. Only the standard library is used here, since the runtime reads these files,
too.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mrcnn.description import Deployment
from mrcnn.errors import MrcnnError
from mrcnn.strict import from_plain

# Of a plan, the part that tells whether a shorter file is the same plan cut off, or another one.
HEAD_BYTES = 4096
LARGEST_SIDECAR = 1 << 24  # bytes; a model with ten thousand classes needs a tenth of it

_CHECKSUM = "checksum"
_LONGEST = 200  # characters of a name
_LARGEST_PLAN = 1 << 34
_REBUILD = "build the engine again with `mrcnn export`"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The inputs that an engine is made for, each (batch, height, width); in `best` it is tuned.

    Raises:
        MrcnnError: the three are not in order.
    """

    least: tuple[int, int, int]
    best: tuple[int, int, int]
    most: tuple[int, int, int]

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.least, self.best, self.most, strict=True):
            if not 1 <= low <= middle <= high:
                raise MrcnnError(
                    f"a profile's sizes must grow from least to best to most "
                    f"(got {self.least}, {self.best}, {self.most})"
                )

    @classmethod
    def fixed(cls, batch: int, height: int, width: int) -> "Profile":
        """For one shape alone, which is the fastest."""
        return cls(least=(batch, height, width), best=(batch, height, width), most=(batch, height, width))


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The document beside a plan.

    Attributes:
        deployment: what the ONNX file says of the model.
        plan_sha256, plan_bytes: of the plan; `plan_head_sha256`: of its first `HEAD_BYTES` bytes.
        onnx_sha256: of the ONNX file that it was built from.
        inputs_sha256: of everything that the build depended on: equal means that building again is in vain.
        tensorrt: version that built it, such as "10.13.3.9".
        gpu, capability: the GPU that built it, and its compute capability (major, minor).
        plugins: version of mrcnn whose plugins took part in the build.
        plugins_embedded: they are inside the plan, so that none need to be installed.
        profiles: in TensorRT's order; one, of fixed shape, where the graph's input is fixed.
        version_compatible, hardware_compatible, refit: as it was built.
    """

    deployment: Deployment
    plan_sha256: str
    plan_head_sha256: str
    plan_bytes: int
    onnx_sha256: str
    inputs_sha256: str
    tensorrt: str
    gpu: str
    capability: tuple[int, int]
    plugins: str
    profiles: tuple[Profile, ...]
    plugins_embedded: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    format_version: int = 1

    def __post_init__(self) -> None:
        if not self.profiles:
            raise MrcnnError("engine description: it names no profile")
        for name in ("tensorrt", "gpu", "plugins"):
            text = getattr(self, name)
            if not text.isprintable() or len(text) > _LONGEST:
                raise MrcnnError(f"engine description: {name} must be a short line of text")
        if not 0 < self.plan_bytes < _LARGEST_PLAN:
            raise MrcnnError(f"engine description: plan_bytes must be in 1…{_LARGEST_PLAN - 1}")

    def to_json(self) -> str:
        """The document, with a checksum over the rest of it."""
        plain: dict[str, Any] = asdict(self)
        return json.dumps({**plain, _CHECKSUM: _checksum(plain)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Sidecar":
        """The inverse of `to_json`.

        Raises:
            MrcnnError: the text is no such document, was changed by hand, or has a newer format.
        """
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MrcnnError(f"not JSON: {_REBUILD}") from error
        version = plain.get("format_version") if isinstance(plain, dict) else None
        if version != 1:
            raise MrcnnError(f"its format version is {str(version)[:20]}, this program reads 1: {_REBUILD}")
        if plain.pop(_CHECKSUM, None) != _checksum(plain):
            raise MrcnnError(f"it was changed after the build: restore it, or {_REBUILD}")
        return from_plain(cls, plain, where="engine description")


def sidecar_path(engine: Path) -> Path:
    """`model.engine` → `model.engine.json`."""
    return engine.with_name(engine.name + ".json")


def head_sha256(head: bytes) -> str:
    """Of a plan's beginning, or of a whole plan; what is past `HEAD_BYTES` does not count."""
    return hashlib.sha256(head[:HEAD_BYTES]).hexdigest()


def _checksum(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
