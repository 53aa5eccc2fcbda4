"""What a user may ask of the precision of a model."""

from dataclasses import dataclass
from pathlib import Path

from mrcnn.errors import MrcnnError

PRECISIONS = ("fp32", "fp16", "int8")
TARGETS = ("tensorrt", "cpu")
# How a range is chosen: the functions of `observers`.
OBSERVER_NAMES = ("minmax", "percentile", "entropy", "mse")

# Ranges need many; that FP16 holds them is seen on a few.
DEFAULT_IMAGES = {"fp16": 16, "int8": 64}


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """How to convert a model.

    Attributes:
        precision: one of `PRECISIONS`.
        target: of "int8": one of `TARGETS`.
        source: folder of pictures or COCO document to calibrate on; needed for "int8".
        folder: where the pictures of the document lie; None: images/ beside it.
        images: at most so many pictures.
        observer: one of `OBSERVER_NAMES`.
        max_ap_drop: points that "int8" may lose; None for all layers in INT8 that can be.
        cache: file of the statistics.
        is_own_cache: the user has named it, so that one that was made from something else is not replaced.
        recalibrate: replace it nevertheless.
    """

    precision: str
    cache: Path
    target: str = "tensorrt"
    source: Path | None = None
    folder: Path | None = None
    images: int = DEFAULT_IMAGES["int8"]
    observer: str = "mse"
    max_ap_drop: float | None = None
    is_own_cache: bool = False
    recalibrate: bool = False

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("target", TARGETS), ("observer", OBSERVER_NAMES)):
            if getattr(self, name) not in known:
                raise MrcnnError(f"{name} must be one of {', '.join(known)} (got {getattr(self, name)!r})")
        if self.precision == "int8" and self.source is None:
            raise MrcnnError("--precision int8 needs pictures to calibrate on: --calib DIR or COCO.json")
        if not 1 <= self.images <= 10_000:
            raise MrcnnError(f"--calib-limit must be in 1…10000 (got {self.images})")
        if self.max_ap_drop is not None and not 0 <= self.max_ap_drop <= 100:
            raise MrcnnError(f"--max-ap-drop must be in 0…100 (got {self.max_ap_drop})")

    @property
    def steps(self) -> int:
        """How many steps `convert` tells of."""
        return 2 + (self.max_ap_drop is not None)
