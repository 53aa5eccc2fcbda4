"""What a config of mmdetection says that its weights do not: in the terms of `ModelDescription`.

Only a whole config is read, as mmdetection writes it into a checkpoint's `meta` and into its work_dir. The
keys are those of 3.x; where 2.x has others they are named.
"""

from dataclasses import dataclass, field
from typing import Any

from mrcnn.errors import MrcnnError
from mrcnn.imports.literals import at, read_assignments
from mrcnn.imports.yaml_tree import is_numbers
from mrcnn.strict import shown

_PYRAMID, _C4 = [4, 8, 16, 32, 64], [16]
_FINEST = 56  # pixels of a region that is pooled from the finest map, by default
_MOST = 1e9  # no setting is beyond it
_LARGEST_TOP_K = 3839  # TensorRT's TopK gives no more


@dataclass
class Settings:
    """What a config says.

    Attributes:
        fields: of `ModelDescription`, nested; only what the config says.
        bgr: whether the network wants BGR; None where the config does not say.
        lines: what was not read, one line each.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    bgr: bool | None = None
    lines: list[str] = field(default_factory=list)

    def put(self, group: str, name: str, value: Any, kind: type | tuple[type, ...] = (int, float)) -> None:
        """Sets a field where the value is what it should be."""
        if isinstance(value, int | float) and not -_MOST <= value <= _MOST:  # NaN is not
            raise MrcnnError(f"the config: {shown(value)} is no sensible {name}")
        if isinstance(value, kind) and not isinstance(value, bool):
            self.fields.setdefault(group, {})[name] = value


def read_settings(text: str, *, where: str = "the config") -> Settings:
    """The settings in a config's text, which is not run.

    Raises:
        MrcnnError: it is not Python, or says what has no counterpart here; the line names it.
    """
    config = read_assignments(text, where=where)
    settings = Settings()
    if "_base_" in config:
        settings.lines.append(
            f"{where} names a _base_, which is not read: what that says is mmdetection's default here; the "
            "whole config is in mmdetection's work_dir"
        )
    for part in (_trunk, _pixels, _anchors, _proposals, _regions, _detections, _sizes, _names):
        part(config, settings)
    return settings


def _trunk(config: dict[str, Any], settings: Settings) -> None:
    style = at(config, "model", "backbone", "style")
    if isinstance(style, str):
        settings.fields["stride_in_1x1"] = style == "caffe"


def _pixels(config: dict[str, Any], settings: Settings) -> None:
    """Mean and deviation, in the order of the channels that the network wants."""
    pixels, to_rgb = at(config, "model", "data_preprocessor"), "bgr_to_rgb"
    if not isinstance(pixels, dict):
        pixels, to_rgb = config.get("img_norm_cfg"), "to_rgb"  # 2.x
    settings.put("resize", "size_divisible", at(pixels, "pad_size_divisor"))
    rgb = at(pixels, to_rgb)
    if not isinstance(rgb, bool):
        return
    settings.bgr = not rgb
    for name in ("mean", "std"):
        values = _numbers(at(pixels, name))
        if len(values) == 3:
            ordered = values if rgb else values[::-1]
            settings.put("normalization", name, [value / 255 for value in ordered], list)


def _anchors(config: dict[str, Any], settings: Settings) -> None:
    rule = at(config, "model", "rpn_head", "anchor_generator")
    if not isinstance(rule, dict):
        return
    for name, usual in (
        ("type", "AnchorGenerator"),
        ("scale_major", True),
        ("center_offset", 0),
        ("centers", None),
    ):
        _refuse_other("model.rpn_head.anchor_generator", rule, name, usual)
    if rule.get("octave_base_scale") is not None:
        raise MrcnnError("model.rpn_head.anchor_generator.octave_base_scale has no counterpart: give scales")
    scales, ratios, strides = (_numbers(rule.get(name)) for name in ("scales", "ratios", "strides"))
    if not (scales and ratios and strides):
        settings.lines.append("the anchors of the config are not read: they are not written out as numbers")
        return
    if strides not in (_PYRAMID, _C4):
        raise MrcnnError(
            f"model.rpn_head.anchor_generator.strides {shown(strides)} are not those of the feature maps: "
            f"{_PYRAMID}, or {_C4} for C4"
        )
    sizes = [[base * scale for scale in scales] for base in _numbers(rule.get("base_sizes")) or strides]
    if any(size != round(size) for level in sizes for size in level):
        raise MrcnnError(
            f"model.rpn_head.anchor_generator: anchors of whole pixels are needed (got {shown(sizes)})"
        )
    settings.fields["anchors"] = {
        "sizes": [[round(size) for size in level] for level in sizes],
        "aspect_ratios": [[float(ratio) for ratio in ratios]] * len(sizes),
    }


def _proposals(config: dict[str, Any], settings: Settings) -> None:
    rule = _test_rule(config, "rpn")
    before = at(rule, "nms_pre")
    if isinstance(before, int):
        settings.put("proposals", "pre_nms_top_n", min(before, _LARGEST_TOP_K))
        if before > _LARGEST_TOP_K:
            settings.lines.append(
                f"{_LARGEST_TOP_K} proposals before NMS, not {before}: TensorRT sorts no more"
            )
    settings.put("proposals", "post_nms_top_n", at(rule, "max_per_img") or at(rule, "max_num"))
    settings.put("proposals", "nms_threshold", _nms(rule, "rpn") or at(rule, "nms_thr"))
    smallest = at(rule, "min_bbox_size")
    if isinstance(smallest, int | float) and smallest > 0:
        settings.put("proposals", "min_size", float(smallest))


def _regions(config: dict[str, Any], settings: Settings) -> None:
    for extractor, name in (("bbox_roi_extractor", "box_size"), ("mask_roi_extractor", "mask_size")):
        rule = at(config, "model", "roi_head", extractor)
        layer = at(rule, "roi_layer")
        if not isinstance(layer, dict):
            continue
        path = f"model.roi_head.{extractor}"
        _refuse_other(path, rule, "type", "SingleRoIExtractor")
        for key, usual in (("type", "RoIAlign"), ("pool_mode", "avg")):
            _refuse_other(f"{path}.roi_layer", layer, key, usual)
        settings.put("rois", name, layer.get("output_size"))
        settings.put("rois", "sampling_ratio", layer.get("sampling_ratio"))
        if isinstance(layer.get("aligned"), bool):
            settings.fields.setdefault("rois", {})["aligned"] = layer["aligned"]
        finest = rule.get("finest_scale", _FINEST)
        if finest != _FINEST and isinstance(finest, int):
            settings.put("rois", "canonical_size", 4 * finest)


def _detections(config: dict[str, Any], settings: Settings) -> None:
    rule = _test_rule(config, "rcnn")
    settings.put("detections", "score_threshold", at(rule, "score_thr"))
    settings.put("detections", "nms_threshold", _nms(rule, "rcnn"))
    settings.put("detections", "detections_per_image", at(rule, "max_per_img"))
    coder = at(config, "model", "roi_head", "bbox_head", "bbox_coder")
    deviations = _numbers(at(coder, "target_stds"))
    if len(deviations) == 4 and all(deviations):
        settings.put("detections", "delta_weights", [1 / value for value in deviations], list)
    if any(_numbers(at(coder, "target_means"))):
        raise MrcnnError("model.roi_head.bbox_head.bbox_coder.target_means other than 0 have no counterpart")


def _sizes(config: dict[str, Any], settings: Settings) -> None:
    """Of the test pipeline: (longest, shorter) side, in either order."""
    for step in _steps(config.get("test_pipeline")):
        scale = _numbers(at(step, "scale") or at(step, "img_scale"))
        if len(scale) != 2:
            continue
        inner = [step, *_steps(at(step, "transforms"))]
        if any(at(part, "type") == "Resize" and at(part, "keep_ratio") is False for part in inner):
            raise MrcnnError("test_pipeline: Resize with keep_ratio=False has no counterpart")
        settings.put("resize", "min_size", round(min(scale)))
        settings.put("resize", "max_size", round(max(scale)))
        return


def _names(config: dict[str, Any], settings: Settings) -> None:
    for names in (
        at(config, "metainfo", "classes"),
        at(config, "metainfo", "CLASSES"),
        config.get("classes"),
    ):
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            settings.fields["class_names"] = names
            return


def _test_rule(config: dict[str, Any], part: str) -> Any:
    # Until 2.10 test_cfg stood beside the model.
    return at(config, "model", "test_cfg", part) or at(config, "test_cfg", part)


def _nms(rule: Any, part: str) -> Any:
    nms = at(rule, "nms")
    if isinstance(nms, dict):
        _refuse_other(f"model.test_cfg.{part}.nms", nms, "type", "nms")
    return at(nms, "iou_threshold") or at(nms, "iou_thr")


def _refuse_other(path: str, rule: dict[str, Any], name: str, usual: Any) -> None:
    value = rule.get(name, usual)
    if value != usual:
        raise MrcnnError(f"{path}.{name} {shown(value)} has no counterpart: {usual!r} is supported")


def _numbers(values: Any) -> list[float]:
    """The list where it holds numbers alone; else none. A single number is a list of one."""
    listed = values if isinstance(values, list) else [values]
    return listed if is_numbers(listed) else []


def _steps(pipeline: Any) -> list[Any]:
    return pipeline if isinstance(pipeline, list) else []
