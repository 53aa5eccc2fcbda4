"""What a model is, as data: the one document that travels with a checkpoint, an ONNX file and an engine.

Only the standard library is used here, since the runtime reads these documents too. The defaults are
those of torchvision's Mask R-CNN.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from mrcnn.errors import MrcnnError
from mrcnn.strict import from_plain

BACKGROUND = "__background__"
METADATA_KEY = "mrcnn"  # under which an ONNX file holds its `Deployment`


LARGEST_SIDE = 32 * 1024  # of an image in the network, in pixels
_LARGEST_TOP_K = 3839  # TensorRT's TopK takes less than 3840
_MOST_CLASSES = 10_000
_MOST_KEYPOINTS = 1000
_MOST_PIXELS = 2**25  # of a fixed input: 32 images of 800x1300


def _require(what: str, value: float, low: float, high: float) -> None:
    """Refuses a value outside low…high, NaN included."""
    if not low <= value <= high:
        raise MrcnnError(f"{what} must be in {low:g}…{high:g} (got {value})")


def _require_one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise MrcnnError(f"{what} must be one of {', '.join(known)} (got {value!r})")


@dataclass(frozen=True, kw_only=True)
class ResizeRule:
    """How an image is brought to network size: shorter side to `min_size`, longer side at most `max_size`.

    The network's input is then padded at the bottom right to multiples of `size_divisible`. All in pixels.
    `rounding` of a side is "floor" in torchvision and "nearest" in detectron2.
    """

    min_size: int = 800
    max_size: int = 1333
    size_divisible: int = 32
    rounding: str = "floor"

    def __post_init__(self) -> None:
        _require("resize: max_size", self.max_size, 1, LARGEST_SIDE)
        _require("resize: size_divisible", self.size_divisible, 1, LARGEST_SIDE)
        _require_one_of("resize: rounding", self.rounding, ("floor", "nearest"))
        if not 0 < self.min_size <= self.max_size:
            raise MrcnnError(
                f"resize: 0 < min_size <= max_size must hold (got {self.min_size}, {self.max_size})"
            )
        if self.size_divisible % 32:
            raise MrcnnError(
                "resize: size_divisible must be a multiple of 32, the stride of the last stage "
                f"(got {self.size_divisible})"
            )

    def output_size(
        self, height: int, width: int, *, limit: tuple[int, int] | None = None
    ) -> tuple[int, int]:
        """(height, width) of the resized image, before padding.

        The arithmetic, with its double precision and floor, is that of torchvision's
        `_resize_image_and_masks`, where 799 pixels for a side of 800 do occur.

        Args:
            limit: a fixed (height, width) into which the result must fit, for static graphs.
        """
        scale = min(self.min_size / min(height, width), self.max_size / max(height, width))
        if limit is not None:
            scale = min(scale, limit[0] / height, limit[1] / width)
        half = 0.5 if self.rounding == "nearest" else 0.0
        resized = (max(1, math.floor(side * scale + half)) for side in (height, width))
        # Rounded up, a side may pass the limit that its scale was taken from.
        return tuple(map(min, resized, limit or (LARGEST_SIDE, LARGEST_SIDE)))  # type: ignore[return-value]

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) rounded up to multiples of `size_divisible`."""
        step = self.size_divisible
        return math.ceil(height / step) * step, math.ceil(width / step) * step


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Per-channel mean and standard deviation of RGB values in 0…1 (torchvision's ImageNet figures)."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for channel in range(3):
            _require("normalization: mean", self.mean[channel], -1e3, 1e3)
            _require("normalization: std", self.std[channel], 1e-6, 1e3)


@dataclass(frozen=True, kw_only=True)
class AnchorRule:
    """Anchor sizes (pixels, square root of the area) and aspect ratios (height / width) per feature level.

    torchvision rounds an anchor's corners to pixels and a map's stride down; `exact` ones are not rounded,
    and their strides are powers of two, as in detectron2 and mmdetection.
    """

    sizes: tuple[tuple[int, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    aspect_ratios: tuple[tuple[float, ...], ...] = ((0.5, 1.0, 2.0),) * 5
    exact: bool = False

    def __post_init__(self) -> None:
        if not self.sizes or len(self.sizes) != len(self.aspect_ratios):
            raise MrcnnError(
                "anchors: sizes and aspect_ratios need one entry per feature level "
                f"(got {len(self.sizes)} and {len(self.aspect_ratios)})"
            )
        for sizes, ratios in zip(self.sizes, self.aspect_ratios, strict=True):
            _require("anchors: sizes per level, their number", len(sizes), 1, 64)
            _require("anchors: ratios per level, their number", len(ratios), 1, 64)
            for size in sizes:
                _require("anchors: a size", size, 1, LARGEST_SIDE)
            for ratio in ratios:
                _require("anchors: an aspect ratio", ratio, 1e-3, 1e3)


@dataclass(frozen=True, kw_only=True)
class ProposalRule:
    """How the region proposal network's output becomes proposals at inference.

    `pre_nms_top_n` counts per feature level, `post_nms_top_n` per image.
    """

    pre_nms_top_n: int = 1000
    post_nms_top_n: int = 1000
    nms_threshold: float = 0.7
    score_threshold: float = 0.0
    min_size: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("pre_nms_top_n", "post_nms_top_n"):
            _require(f"proposals: {name}", getattr(self, name), 1, _LARGEST_TOP_K)
        _require("proposals: nms_threshold", self.nms_threshold, 0, 1)
        _require("proposals: score_threshold", self.score_threshold, 0, 1)
        _require("proposals: min_size", self.min_size, 0, LARGEST_SIDE)


@dataclass(frozen=True, kw_only=True)
class RoiRule:
    """How features are pooled for the heads. Sizes in bins; `sampling_ratio` 0 means adaptive.

    `mode` is "avg" (RoIAlign), "max" (RoIAlign with the largest sample) or "pool" (RoIPool: quantised, the
    largest pixel). `aligned` moves regions by half a pixel, as detectron2 and mmdetection do.
    `head_width` is that of the box head's two fully connected layers, where it has such; None: torchvision's.
    `head_stride` is that of conv5 where this is the head (C4): 2 halves the side, as in detectron2.
    """

    box_size: int = 7
    mask_size: int = 14
    keypoint_size: int = 14
    head_width: int | None = None
    head_stride: int = 2
    mode: str = "avg"
    aligned: bool = False
    sampling_ratio: int = 2
    canonical_size: int = 224
    canonical_level: int = 4

    def __post_init__(self) -> None:
        _require("rois: box_size", self.box_size, 1, 64)
        _require("rois: mask_size", self.mask_size, 1, 64)
        _require("rois: keypoint_size", self.keypoint_size, 1, 64)
        if self.head_width is not None:
            _require("rois: head_width", self.head_width, 1, 65536)
        _require("rois: head_stride", self.head_stride, 1, 2)
        _require_one_of("rois: mode", self.mode, ("avg", "max", "pool"))
        if self.mode == "max" and self.sampling_ratio == 0:
            raise MrcnnError("rois: mode 'max' needs a fixed number of samples: sampling_ratio 1 or more")
        _require("rois: sampling_ratio", self.sampling_ratio, 0, 16)
        _require("rois: canonical_size", self.canonical_size, 1, LARGEST_SIDE)
        _require("rois: canonical_level", self.canonical_level, 0, 16)


@dataclass(frozen=True, kw_only=True)
class DetectionRule:
    """How class scores and box deltas become detections at inference."""

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100
    delta_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)

    def __post_init__(self) -> None:
        _require("detections: detections_per_image", self.detections_per_image, 1, _LARGEST_TOP_K)
        _require("detections: score_threshold", self.score_threshold, 0, 1)
        _require("detections: nms_threshold", self.nms_threshold, 0, 1)
        for weight in self.delta_weights:
            _require("detections: a delta weight", weight, 1e-3, 1e6)


@dataclass(frozen=True, kw_only=True)
class KeypointRule:
    """The points that are found on every object of a model with key points.

    Attributes:
        names: of the points, in the order of the network's heatmaps.
        mirrored: pairs of indices into `names` that change places where an image is mirrored.
        skeleton: pairs of indices into `names` between which a line is drawn.
    """

    names: tuple[str, ...]
    mirrored: tuple[tuple[int, int], ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        _require("keypoints: the number of names", len(self.names), 1, _MOST_KEYPOINTS)
        for name in self.names:
            if not name.strip() or not name.isprintable():
                raise MrcnnError(f"keypoints: a name must be a line of text (got {name!r})")
        if len(set(self.names)) < len(self.names):
            raise MrcnnError("keypoints: two points have the same name")
        for what, pairs in (("mirrored", self.mirrored), ("skeleton", self.skeleton)):
            for pair in pairs:
                if not all(0 <= index < len(self.names) for index in pair) or pair[0] == pair[1]:
                    raise MrcnnError(
                        f"keypoints: {what} must hold pairs of 0…{len(self.names) - 1} (got {list(pair)})"
                    )
        turned = [index for pair in self.mirrored for index in pair]
        if len(set(turned)) < len(turned):
            raise MrcnnError("keypoints: mirrored has a point twice")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def mirror_order(self) -> tuple[int, ...]:
        """For each point of a mirrored image, which point of the image it was."""
        order = list(range(len(self.names)))
        for first, second in self.mirrored:
            order[first], order[second] = second, first
        return tuple(order)


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Everything that turns weights into a model and its output into named objects.

    Attributes:
        architecture: a name that `mrcnn.models.build_model` knows.
        class_names: the name of each label; index 0 is the background.
        width: multiplier of the trunk's channels, for architectures that have one (MobileNet).
        norm: "batch" for trainable batch norm in the trunk, "frozen" for torchvision's FrozenBatchNorm2d.
        norm_eps: epsilon of the trunk's norm layers (torchvision's COCO_V1 weights use 0.0).
        head_norm: of models with norms in pyramid and heads (`_fpn_v2`): "batch", or "group" with 32 groups
            (Wu and He 2018, https://arxiv.org/abs/1803.08494).
        stride_in_1x1: a ResNet's stages begin with the stride in the first convolution of a block, as in the
            ResNets of Caffe, not in the second.
        keypoints: of a Keypoint R-CNN, which points it finds; None for every other model.
    """

    architecture: str
    class_names: tuple[str, ...]
    width: float = 1.0
    norm: str = "batch"
    norm_eps: float = 1e-5
    head_norm: str = "batch"
    stride_in_1x1: bool = False
    resize: ResizeRule = field(default_factory=ResizeRule)
    normalization: Normalization = field(default_factory=Normalization)
    anchors: AnchorRule = field(default_factory=AnchorRule)
    proposals: ProposalRule = field(default_factory=ProposalRule)
    rois: RoiRule = field(default_factory=RoiRule)
    detections: DetectionRule = field(default_factory=DetectionRule)
    keypoints: KeypointRule | None = None

    def __post_init__(self) -> None:
        if len(self.class_names) < 2 or self.class_names[0] != BACKGROUND:
            raise MrcnnError(
                f"class_names must start with {BACKGROUND!r} and name at least one class "
                f"(got {list(self.class_names[:3])})"
            )
        for name in self.class_names:
            if not name.strip() or not name.isprintable():
                raise MrcnnError(f"class_names: a name must be a line of text (got {name!r})")
        _require("the number of classes", len(self.class_names), 2, _MOST_CLASSES)
        _require("width", self.width, 0.05, 8)
        _require("norm_eps", self.norm_eps, 0, 1)
        _require_one_of("norm", self.norm, ("batch", "frozen"))
        _require_one_of("head_norm", self.head_norm, ("batch", "group"))
        if self.head_norm != "batch" and not self.architecture.endswith("_fpn_v2"):
            raise MrcnnError(f"head_norm {self.head_norm!r} is for models named …_fpn_v2")
        if self.rois.mode != "avg" and (self.has_masks or len(self.anchors.sizes) > 1):
            raise MrcnnError(f"rois: mode {self.rois.mode!r} is for models with one map and no masks")
        if (self.detector == "keypointrcnn") != (self.keypoints is not None):
            wanted = "must be named" if self.keypoints is None else "must be absent"
            raise MrcnnError(f"keypoints {wanted} for the architecture {self.architecture!r}")

    @property
    def num_classes(self) -> int:
        """Number of labels, the background included, as torchvision counts them."""
        return len(self.class_names)

    @property
    def detector(self) -> str:
        """The first word of the architecture, as "maskrcnn"."""
        return self.architecture.partition("_")[0]

    @property
    def trunk(self) -> str:
        """The words between detector and neck: "resnet50" in "maskrcnn_resnet50_fpn_v2"."""
        words = self.architecture.partition("_")[2]
        for neck in ("_fpn_v2", "_fpn", "_c4"):
            words = words.removesuffix(neck)
        return words

    @property
    def has_masks(self) -> bool:
        return self.detector == "maskrcnn"

    @property
    def mask_side(self) -> int | None:
        """Side of the masks that the mask branch gives, in cells; None without one."""
        if not self.has_masks:
            return None
        stride = self.rois.head_stride if self.architecture.endswith("_c4") else 1
        return 2 * math.ceil(self.rois.mask_size / stride)

    @property
    def heatmap_side(self) -> int:
        """Side of the heatmaps that the key point branch gives, in cells."""
        return 4 * self.rois.keypoint_size

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Any) -> "ModelDescription":
        """The inverse of `to_dict`; refuses unknown keys and wrong types by name."""
        return from_plain(cls, plain, where="model description")


def check_input(resize: ResizeRule, *, height: int | None, width: int | None, batch: int | None) -> None:
    """Refuses input sizes that no graph of ours can have. None stands for a dynamic one."""
    if (height is None) != (width is None):
        raise MrcnnError(f"height and width must both be fixed or both be dynamic (got {height}, {width})")
    if batch is not None:
        _require("batch", batch, 1, 1024)
    if height is None or width is None:
        return
    if not 1 <= min(height, width) <= max(height, width) <= LARGEST_SIDE or (
        (height, width) != resize.padded_size(height, width)
    ):
        sides = resize.padded_size(*(min(max(side, 1), LARGEST_SIDE) for side in (height, width)))
        raise MrcnnError(
            f"shape {height}x{width}: both sides must be multiples of {resize.size_divisible} up to "
            f"{LARGEST_SIDE}, for example {sides[0]}x{sides[1]}"
        )
    if height * width * (batch or 1) > _MOST_PIXELS:
        raise MrcnnError(
            f"shape {height}x{width}, batch {batch or 1}: more than {_MOST_PIXELS:,} pixels in one run; "
            "choose a smaller shape or batch"
        )


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The document inside an ONNX file (metadata key `METADATA_KEY`) and beside an engine.

    Attributes:
        description: the model.
        height, width, batch: of the graph's input; None where it is dynamic.
        input_dtype: "float32" or "uint8", of the graph input `images`.
        mask_size: side M of the masks, or None for a model without masks.
        precision: "fp32", "fp16" or "int8": the narrowest type that the graph computes in; what that is bad
            for is computed in a wider one.
        quantized_for: of "int8", whose kernels it is laid out for: "tensorrt" or "cpu" (ONNX Runtime).
        plugin_version: version of the ops of the domain `mrcnn` that the graph uses.
        weights_sha256: hash of the checkpoint's weights.
        built_with: package name to version.
    """

    description: ModelDescription
    height: int | None
    width: int | None
    batch: int | None
    input_dtype: str = "float32"
    mask_size: int | None = None
    precision: str = "fp32"
    quantized_for: str | None = None
    plugin_version: str = "1"
    weights_sha256: str = ""
    built_with: dict[str, str] = field(default_factory=dict)
    format_version: int = 1

    def __post_init__(self) -> None:
        check_input(self.description.resize, height=self.height, width=self.width, batch=self.batch)
        for name, known in (
            ("input_dtype", ("float32", "uint8")),
            ("precision", ("fp32", "fp16", "int8")),
            ("quantized_for", ("tensorrt", "cpu") if self.precision == "int8" else (None,)),
            ("plugin_version", ("1",)),
        ):
            if getattr(self, name) not in known:
                raise MrcnnError(
                    f"{name} must be one of {', '.join(map(str, known))} (got {getattr(self, name)!r})"
                )
        mask_size = self.description.mask_side
        if self.mask_size != mask_size:
            raise MrcnnError(
                f"mask_size must be {mask_size} for this {self.description.architecture} "
                f"(got {self.mask_size})"
            )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Deployment":
        """The inverse of `to_json`.

        Raises:
            MrcnnError: the text is no such document, or one of a newer format.
        """
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MrcnnError(f"the model's metadata is not JSON: {error}") from error
        version = plain.get("format_version") if isinstance(plain, dict) else None
        if version != 1:
            raise MrcnnError(
                f"the model's metadata has format version {str(version)[:20]}, this program reads 1: "
                "export the model again with this version"
            )
        return from_plain(cls, plain, where="model metadata")
