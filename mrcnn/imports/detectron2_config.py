"""What a config of detectron2 says that its weights do not: in the terms of `ModelDescription`.

Its trainer writes the whole config to `config.yaml` beside the checkpoints; the names are those of
`config/defaults.py`. What only training needs is not looked at.
"""

from dataclasses import dataclass, field
from typing import Any

from mrcnn.imports.yaml_tree import Tree, is_numbers, read_yaml
from mrcnn.strict import shown

_LARGEST_TOP_K = 3839  # TensorRT's TopK gives no more
_PYRAMID = ["p2", "p3", "p4", "p5"]
# What a head pools regions with, and whether that moves them by half a pixel.
_ALIGNED = {"ROIAlignV2": True, "ROIAlign": False}
# Depth, groups and width of a group.
_TRUNKS = {
    "resnet50": (50, 1, 64),
    "resnet101": (101, 1, 64),
    "resnext101_32x8d": (101, 32, 8),
    "resnext101_64x4d": (101, 64, 4),
}
# Groups of `MODEL`; in those of other models, and of losses, there is nothing for this one.
_KNOWN = {
    *("ANCHOR_GENERATOR", "BACKBONE", "DEVICE", "FPN", "KEYPOINT_ON", "LOAD_PROPOSALS", "MASK_ON"),
    *("META_ARCHITECTURE", "PANOPTIC_FPN", "PIXEL_MEAN", "PIXEL_STD", "PROPOSAL_GENERATOR", "RESNETS"),
    *("RETINANET", "ROI_BOX_CASCADE_HEAD", "ROI_BOX_HEAD", "ROI_HEADS", "ROI_KEYPOINT_HEAD"),
    *("ROI_MASK_HEAD", "RPN", "SEM_SEG_HEAD", "WEIGHTS"),
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the weights tell, which the config must agree with.

    Attributes:
        key_points: how many; 0 for a model without.
    """

    trunk: str
    is_c4: bool
    masks: bool
    key_points: int
    classes: int


@dataclass
class Settings:
    """What a config says.

    Attributes:
        fields: of `ModelDescription`, nested; only what the config says.
        bgr: whether the network wants BGR, as it does where nothing is said.
        mean, std: of the pixels in 0…255, in the network's order; None where the config does not say.
        lines: what was not read, one line each.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    bgr: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    lines: list[str] = field(default_factory=list)

    def put(self, group: str, name: str, value: Any) -> None:
        """Sets a field, where the config has it."""
        if value is not None:
            self.fields.setdefault(group, {})[name] = value


def read_settings(text: str, seen: Seen, *, where: str = "--config") -> Settings:
    """The settings in a config's text.

    Raises:
        MrcnnError: it is no config of detectron2, of another model than the weights, or says what has no
            counterpart here; the line names it.
    """
    config = Tree(read_yaml(text, where=where), where)
    if "_target_" in config.keys("model"):
        raise config.refusal(
            "model", "is of a LazyConfig, which is not read: give JSON with fields of the description"
        )
    if not {"MODEL", "INPUT", "TEST", "_BASE_"} & config.settings.keys():
        raise config.refusal(
            "MODEL",
            "is missing: in YAML, configs of detectron2 are read; fields of the "
            "description are given as JSON",
        )
    settings = Settings()
    for part in (_unread, _model, _trunk, _pixels, _anchors, _proposals, _regions, _detections):
        part(config, seen, settings)
    return settings


def _unread(config: Tree, _: Seen, settings: Settings) -> None:
    if "_BASE_" in config.settings:
        settings.lines.append(
            f"{config.where} names a _BASE_, which is not read: what that says is detectron2's default here; "
            "the whole config is config.yaml in detectron2's OUTPUT_DIR"
        )
    config.only("VERSION", 2)
    if config.flag("TEST.AUG.ENABLED"):
        settings.lines.append("TEST.AUG is not followed: images are run once, at one size")
    others = [shown(f"MODEL.{name}") for name in config.keys("MODEL") if name not in _KNOWN]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        settings.lines.append(
            f"not read, as detectron2 itself has no such settings: {', '.join(others[:3])}{more}"
        )


def _model(config: Tree, seen: Seen, _: Settings) -> None:
    """The parts that the model is made of."""
    config.only("MODEL.META_ARCHITECTURE", "GeneralizedRCNN")
    config.only("MODEL.BACKBONE.NAME", "build_resnet_backbone" if seen.is_c4 else "build_resnet_fpn_backbone")
    config.only("MODEL.PROPOSAL_GENERATOR.NAME", "RPN")
    config.only("MODEL.LOAD_PROPOSALS", False)
    config.only("MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator")
    config.only("MODEL.ANCHOR_GENERATOR.OFFSET", 0)
    config.only("MODEL.RPN.HEAD_NAME", "StandardRPNHead")
    config.only("MODEL.RPN.BBOX_REG_WEIGHTS", [1, 1, 1, 1])
    config.only("MODEL.ROI_HEADS.NAME", "Res5ROIHeads" if seen.is_c4 else "StandardROIHeads")
    config.only("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", False)
    if seen.is_c4:
        config.only("MODEL.RPN.IN_FEATURES", ["res4"])
        config.only("MODEL.ROI_HEADS.IN_FEATURES", ["res4"])
    else:
        config.only("MODEL.FPN.FUSE_TYPE", "sum")
        config.only("MODEL.FPN.NORM", "")
        config.only("MODEL.RPN.IN_FEATURES", [*_PYRAMID, "p6"])
        config.only("MODEL.ROI_HEADS.IN_FEATURES", _PYRAMID)
        config.only("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead")
    if seen.masks:
        config.only("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")
    if seen.key_points:
        config.only("MODEL.ROI_KEYPOINT_HEAD.NAME", "KRCNNConvDeconvUpsampleHead")
        _agree(config, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", seen.key_points)
    _agree(config, "MODEL.MASK_ON", seen.masks)
    _agree(config, "MODEL.KEYPOINT_ON", seen.key_points > 0)
    _agree(config, "MODEL.ROI_HEADS.NUM_CLASSES", seen.classes)


def _trunk(config: Tree, seen: Seen, settings: Settings) -> None:
    names = ("DEPTH", "NUM_GROUPS", "WIDTH_PER_GROUP")
    for name, value in zip(names, _TRUNKS[seen.trunk], strict=True):
        _agree(config, f"MODEL.RESNETS.{name}", value)
    config.only("MODEL.RESNETS.NORM", "FrozenBN", "BN", "SyncBN", "naiveSyncBN", "nnSyncBN")
    config.only("MODEL.RESNETS.RES5_DILATION", 1)
    config.only("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False] * 4)
    stride_in_1x1 = config.flag("MODEL.RESNETS.STRIDE_IN_1X1")
    if stride_in_1x1 is not None:
        settings.fields["stride_in_1x1"] = stride_in_1x1


def _pixels(config: Tree, _: Seen, settings: Settings) -> None:
    config.only("INPUT.FORMAT", "BGR", "RGB")
    settings.bgr = config.value("INPUT.FORMAT") != "RGB"
    settings.mean = config.numbers("MODEL.PIXEL_MEAN", 3)
    settings.std = config.numbers("MODEL.PIXEL_STD", 3)
    shorter = config.whole("INPUT.MIN_SIZE_TEST")
    if shorter == 0:
        raise config.refusal("INPUT.MIN_SIZE_TEST", "0, images as large as they are, has no counterpart")
    settings.put("resize", "min_size", shorter)
    settings.put("resize", "max_size", config.whole("INPUT.MAX_SIZE_TEST"))


def _anchors(config: Tree, seen: Seen, settings: Settings) -> None:
    levels = 1 if seen.is_c4 else 5
    sizes = _of_levels(config, "MODEL.ANCHOR_GENERATOR.SIZES", levels)
    ratios = _of_levels(config, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", levels)
    if any(size != round(size) for level in sizes or () for size in level):
        raise config.refusal("MODEL.ANCHOR_GENERATOR.SIZES", f"must be whole pixels (got {shown(sizes)})")
    settings.put("anchors", "sizes", sizes and [[round(size) for size in level] for level in sizes])
    settings.put("anchors", "aspect_ratios", ratios and [[float(r) for r in level] for level in ratios])


def _of_levels(config: Tree, name: str, levels: int) -> list[list[float]] | None:
    """A list for every level, or one for all of them, bare or in a list."""
    found = config.value(name)
    if found is None:
        return None
    lists = [found] if is_numbers(found) else found
    if (
        not isinstance(lists, list | tuple)
        or not all(is_numbers(level) and level for level in lists)
        or len(lists) not in (1, levels)
    ):
        raise config.refusal(
            name,
            f"must be one list of numbers, or one for each of {levels} feature maps (got {shown(found)})",
        )
    return [list(level) for level in lists] * (levels if len(lists) == 1 else 1)


def _proposals(config: Tree, _: Seen, settings: Settings) -> None:
    for name, ours in (("PRE_NMS_TOPK_TEST", "pre_nms_top_n"), ("POST_NMS_TOPK_TEST", "post_nms_top_n")):
        count = config.whole(f"MODEL.RPN.{name}")
        settings.put("proposals", ours, count and min(count, _LARGEST_TOP_K))
        if count and count > _LARGEST_TOP_K:
            place = "before" if name.startswith("PRE") else "after"
            settings.lines.append(
                f"{_LARGEST_TOP_K} proposals {place} NMS, not {count}: TensorRT sorts no more"
            )
    settings.put("proposals", "nms_threshold", config.number("MODEL.RPN.NMS_THRESH"))
    # Where it is 0, proposals without area are dropped all the same.
    settings.put("proposals", "min_size", config.number("MODEL.PROPOSAL_GENERATOR.MIN_SIZE") or None)


def _regions(config: Tree, seen: Seen, settings: Settings) -> None:
    """Of all heads; in C4 the boxes' regions are those of the masks too."""
    heads: dict[str, tuple[str, ...]] = {"BOX": ("box_size",)}
    if seen.is_c4:
        heads = {"BOX": ("box_size", "mask_size")}
    elif seen.masks:
        heads["MASK"] = ("mask_size",)
    elif seen.key_points:
        heads["KEYPOINT"] = ("keypoint_size",)
    for head, fields in heads.items():
        group = f"MODEL.ROI_{head}_HEAD"
        for ours in fields:
            settings.put("rois", ours, config.whole(f"{group}.POOLER_RESOLUTION"))
        if seen.is_c4 and not seen.masks and config.value(f"{group}.POOLER_TYPE") == "ROIPool":
            settings.put("rois", "mode", "pool")
            continue
        config.only(f"{group}.POOLER_TYPE", *_ALIGNED)
        for name in ("POOLER_TYPE", "POOLER_SAMPLING_RATIO"):
            ours, theirs = config.value(f"MODEL.ROI_BOX_HEAD.{name}"), config.value(f"{group}.{name}")
            if theirs is not None and ours is not None and ours != theirs:
                raise config.refusal(
                    f"{group}.{name}",
                    f"must be {shown(ours)}, as of MODEL.ROI_BOX_HEAD: "
                    f"all heads pool alike here (got {shown(theirs)})",
                )
        settings.put("rois", "aligned", _ALIGNED.get(config.value(f"{group}.POOLER_TYPE")))
        settings.put("rois", "sampling_ratio", config.whole(f"{group}.POOLER_SAMPLING_RATIO"))


def _detections(config: Tree, _: Seen, settings: Settings) -> None:
    put = settings.put
    put("detections", "score_threshold", config.number("MODEL.ROI_HEADS.SCORE_THRESH_TEST"))
    put("detections", "nms_threshold", config.number("MODEL.ROI_HEADS.NMS_THRESH_TEST"))
    put("detections", "detections_per_image", config.whole("TEST.DETECTIONS_PER_IMAGE"))
    put("detections", "delta_weights", config.numbers("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", 4))


def _agree(config: Tree, name: str, told: Any) -> None:
    """Refuses a value that is not the one that the weights tell."""
    found = config.value(name)
    if found is not None and (found != told or isinstance(found, bool) != isinstance(told, bool)):
        raise config.refusal(name, f"{shown(found)}, but the weights tell {told!r}: is it of another model?")
