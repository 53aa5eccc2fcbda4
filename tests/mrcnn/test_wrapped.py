"""What training scripts save around the weights: found, chosen between, or refused."""

import pickle
import sys
from collections import OrderedDict, defaultdict
from enum import Enum
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mrcnn.checkpoint import load_checkpoint
from mrcnn.errors import MrcnnError
from mrcnn.imports.wrapped import unwrap
from mrcnn.pickles import Inert, load_torch

MARK = "roi_heads.box_predictor.cls_score.weight"
MMDETECTION = "roi_head.bbox_head.fc_cls.weight"


def weights(value: float = 0, *, prefix: str = "", mark: str = MARK) -> dict[str, Tensor]:
    return {f"{prefix}{name}": torch.full((2,), float(value)) for name in ("backbone.conv1.weight", mark)}


SAME = weights(1)
OTHER = weights(2)
EMA = "a moving average, rather than those under"


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (SAME, None),
        ({"model": SAME, "optimizer": {"state": {0: {"step": torch.tensor(1)}}}, "epoch": 3}, None),
        ({"state_dict": SAME, "meta": {}}, None),
        ({"model_state_dict": SAME, "loss": 0.1}, None),
        ({"model": {"state_dict": SAME}}, None),
        (weights(1, prefix="module."), None),
        ({"model": weights(1, prefix="module.")}, None),
        (weights(1, prefix="_orig_mod."), None),
        (weights(1, prefix="module._orig_mod."), None),
        ({f"backbone._orig_mod.{n}" if n == "conv1.weight" else n: v for n, v in SAME.items()}, None),
        # Lightning: under the name that the user's module has for the model.
        ({"state_dict": weights(1, prefix="model."), "pytorch-lightning_version": "2.5.0"}, None),
        ({"state_dict": weights(1, prefix="net.")}, None),
        ({"state_dict": weights(1, prefix="model._orig_mod.")}, None),
        (
            {"state_dict": weights(1, prefix="model.") | {"criterion.weight": torch.zeros(3)}},
            "weights outside 'state_dict.model' are left out: 'criterion.weight'",
        ),
        ({"checkpoint": SAME}, "weights under 'checkpoint': the file has no others"),
        # Averages beside the weights: timm, Lightning, torchvision's references, YOLO-like scripts.
        ({"state_dict": OTHER, "state_dict_ema": SAME}, f"'state_dict_ema', {EMA} 'state_dict'"),
        ({"model": OTHER, "ema": SAME}, f"'ema', {EMA} 'model'"),
        ({"model": OTHER, "ema": {"module": SAME}}, f"'ema.module', {EMA} 'model'"),
        (
            {"model": OTHER, "model_ema": {"n_averaged": torch.tensor(7), **weights(1, prefix="module.")}},
            f"'model_ema.module', {EMA} 'model'",
        ),
        (
            {"state_dict": weights(2, prefix="model.") | weights(1, prefix="ema_model.module.")},
            f"'state_dict.ema_model.module', {EMA} 'state_dict.model'",
        ),
        (weights(2, prefix="model.") | weights(1, prefix="ema_model."), f"'ema_model', {EMA} 'model'"),
        (weights(1, prefix="ema_model."), None),
        ({"ema": SAME, "epoch": 1}, "weights under 'ema': the file has no others"),
        (
            {"state_dict": SAME, "ema_state_dict": weights(2, prefix="module."), "message_hub": {}},
            "weights under 'state_dict', where mmengine saves their moving average",
        ),
        # A file of the usual and of an unknown key.
        ({"model": SAME, "best": OTHER}, "weights under 'model' rather than those under 'best'"),
        ({"state_dict": OTHER, "model": SAME}, "weights under 'model' rather than those under 'state_dict'"),
    ],
)
def test_the_weights_are_found(document: dict[str, Any], line: str | None) -> None:
    found = unwrap(document)
    assert found.weights.keys() == SAME.keys() or "backbone.conv1.weight" in found.weights
    assert all(bool((value == 1).all()) for value in found.weights.values())
    assert [line in said for said in found.lines] == ([] if line is None else [True])


def test_mmdetections_are_found_too() -> None:
    state = weights(1, prefix="module.", mark=MMDETECTION)
    assert unwrap({"state_dict": state}).weights.keys() == weights(mark=MMDETECTION).keys()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            weights(1, prefix="student.") | weights(2, prefix="teacher."),
            "2 detectors, under 'student' and ",
        ),
        ({"best": SAME, "last": OTHER}, "2 detectors, under 'best' and 'last'"),
        ({"ema": SAME, "model_ema": OTHER}, "2 detectors, under 'ema' and 'model_ema'"),
    ],
)
def test_two_detectors_are_refused(document: dict[str, Any], words: str) -> None:
    with pytest.raises(MrcnnError, match=words):
        unwrap(document)


def test_an_averaged_model_of_pytorch() -> None:
    averaged = AveragedModel(nn.ModuleDict({"backbone": nn.Linear(1, 1)})).state_dict()
    averaged[f"module.{MARK}"] = torch.zeros(1)
    assert unwrap({"model_ema": averaged}).weights.keys() == {"backbone.weight", "backbone.bias", MARK}


# Objects beside the weights ---------------------------------------------------------------------------------


class Settings:
    """An object whose class the reader of a file does not have."""

    def __init__(self) -> None:
        self.rate = 0.1

    def __setstate__(self, state: object) -> None:
        raise AssertionError("it was built")


class AttributeDict(dict[str, object]):
    """As Lightning has it, and mmengine its ConfigDict."""

    def __setitem__(self, key: str, value: object) -> None:
        raise AssertionError("it was built")


class Mode(Enum):
    FAST = 1


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that is there while a file is written."""
    module = ModuleType("a_users_project")
    for kind in (Settings, AttributeDict, Mode):
        kind.__module__ = module.__name__
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_settings_of_lightning_are_left_out(foreign: ModuleType, tmp_path: Path) -> None:
    parameters = {
        "settings": Settings(),
        "bag": AttributeDict(lr=0.1),
        "mode": Mode.FAST,
        "folder": PurePosixPath("/data"),
        "loss": nn.functional.mse_loss,
        "counts": defaultdict(int, {"a": 1}),
        "order": OrderedDict(a=1),
    }
    document = {"state_dict": weights(1, prefix="model."), "hyper_parameters": parameters}
    torch.save(document, tmp_path / "last.ckpt")
    read, left_out = load_torch(tmp_path / "last.ckpt")
    assert f"{foreign.__name__}.Settings" in left_out
    assert isinstance(read["hyper_parameters"]["settings"], Inert)
    assert read["hyper_parameters"]["bag"] == {"lr": 0.1}
    assert unwrap(read).weights.keys() == SAME.keys()


class Runs:
    """What its pickle names would leave a file where it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": SAME, "args": Runs(tmp_path / "ran")}, tmp_path / "w.pth")
    read, left_out = load_torch(tmp_path / "w.pth")
    assert isinstance(read["args"], Inert)
    assert [name.rpartition(".")[2] for name in left_out] == ["exec"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["whole", "under a key", "a weight"])
def test_an_object_in_the_place_of_weights_is_refused_by_name(place: str, tmp_path: Path) -> None:
    runs = Runs(tmp_path / "ran")
    document = {"whole": runs, "under a key": {"model": runs}, "a weight": {**SAME, "rpn.head.weight": runs}}
    torch.save(document[place], tmp_path / "w.pth")
    with pytest.raises(MrcnnError, match=r"would need the Python object '\w+\.exec'") as error:
        load_checkpoint(tmp_path / "w.pth")
    assert "torch.save(model.state_dict()" in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_an_older_file_with_objects_is_refused_by_name(foreign: ModuleType, tmp_path: Path) -> None:
    """Only the newer format says what it names before it is loaded."""
    document = {"state_dict": SAME, "settings": Settings()}
    torch.save(document, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(MrcnnError, match=rf"the Python object '{foreign.__name__}\.Settings'"):
        load_checkpoint(tmp_path / "w.pth")


def test_an_inert_object_takes_anything() -> None:
    inert = Inert(1, a=2)
    inert.__setstate__({"rate": 1})
    assert vars(inert) == {}
    with pytest.raises(AttributeError):
        _ = inert.rate  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(inert)) is not None
