"""What a user says of a model beside its checkpoint: the file of `--config`.

JSON with fields of `ModelDescription`, as many as are needed:

    {"anchors": {"sizes": [[16], [32], [64], [128], [256]], "aspect_ratios": [[0.5, 1.0, 2.0], …]},
     "resize": {"min_size": 600, "max_size": 1000}, "class_names": ["cat", "dog"]}

or a whole config of detectron2 (`.yaml`) or mmdetection (`.py`), which is read, not run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrcnn.description import BACKGROUND, ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.strict import from_plain

_LARGEST = 4 * 2**20  # bytes of a file


@dataclass(frozen=True, kw_only=True)
class Given:
    """What is said of a model beside its checkpoint.

    Attributes:
        fields: of `ModelDescription`, nested as in its JSON.
        detectron2: the text of a config of detectron2.
        mmdetection: the text of a config of mmdetection.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    detectron2: str | None = None
    mmdetection: str | None = None

    def applied(self, description: ModelDescription) -> ModelDescription:
        """The description with these fields for its own.

        Raises:
            MrcnnError: a field is unknown, has a wrong type or value, or does not fit the weights.
        """
        return with_fields(description, self.fields, where="--config")

    def refuse_config_of_another(self, codebase: str) -> None:
        """Whether what is given can be of weights from that codebase.

        Raises:
            MrcnnError: it is a config of another one, which does not say what these weights are.
        """
        for other, text in (("detectron2", self.detectron2), ("mmdetection", self.mmdetection)):
            if other != codebase and text is not None:
                raise MrcnnError(
                    f"--config is a config of {other}, but the weights are {codebase}'s: give JSON with "
                    "fields of the description"
                )


def read_given(path: Path | None) -> Given:
    """The file of `--config`; nothing for None.

    Raises:
        MrcnnError: it cannot be read, or is neither JSON nor a config of another codebase.
    """
    if path is None:
        return Given()
    try:
        if path.exists() and not path.is_file():  # a pipe has no end
            raise MrcnnError(f"--config {path}: is not a file")
        if path.stat().st_size > _LARGEST:
            raise MrcnnError(f"--config {path}: larger than {_LARGEST} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MrcnnError(f"--config {path}: cannot be read: {error}") from error
    if path.suffix == ".py":
        return Given(mmdetection=text)
    if path.suffix in (".yaml", ".yml"):
        return Given(detectron2=text)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MrcnnError(f"--config {path}: is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise MrcnnError(f"--config {path}: must hold a JSON object with fields of the model's description")
    return Given(fields=fields)


def with_fields(description: ModelDescription, fields: Mapping[str, Any], *, where: str) -> ModelDescription:
    """The description with some fields replaced; those that are objects field by field.

    Raises:
        MrcnnError: a field is unknown, has a wrong type or value, or does not fit the weights. `where` starts
            the line.
    """
    if not fields:
        return description
    plain = description.to_dict()
    for name, value in fields.items():
        if name in ("architecture", "width") and value != plain[name]:
            raise MrcnnError(f"{where}: {name} is told by the weights, {plain[name]!r} (got {value!r})")
        known = plain.get(name)
        if name == "class_names" and isinstance(value, list | tuple) and value[:1] != [BACKGROUND]:
            value = [BACKGROUND, *value]
        plain[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    try:
        changed = from_plain(ModelDescription, plain, where=where)
    except MrcnnError as error:
        told = str(error) if str(error).startswith(where) else f"{where}: {error}"
        raise MrcnnError(told) from error
    for what, ours, theirs in zip(
        ("classes", "key points"), _counts(description), _counts(changed), strict=True
    ):
        if ours != theirs:
            raise MrcnnError(f"{where}: {theirs} {what}, but the weights are of {ours}")
    return changed


def _counts(description: ModelDescription) -> tuple[int, int]:
    return description.num_classes - 1, len(description.keypoints.names) if description.keypoints else 0
