"""COCO-format datasets: what is read, what is left out, and what is refused."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn.data.coco import CocoDataset, decode_segmentation
from mrcnn.data.keypoints import rule_of
from mrcnn.data.source import open_dataset
from mrcnn.description import KeypointRule
from mrcnn.errors import MrcnnError
from mrcnn.families import COCO_PERSON

Json = dict[str, Any]

HEIGHT, WIDTH = 6, 8
# The same 3 x 2 rectangle, x 1…4, y 2…4, in COCO's three notations.
POLYGON = [[1, 2, 4, 2, 4, 4, 1, 4]]
UNCOMPRESSED = {"size": [HEIGHT, WIDTH], "counts": [8, 2, 4, 2, 4, 2, 26]}
COMPRESSED = {"size": [HEIGHT, WIDTH], "counts": "824000f0"}


def rectangle() -> np.ndarray:  # type: ignore[type-arg]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:4, 1:4] = True
    return mask


def annotation(number: int, **changes: Any) -> Json:
    return {
        "id": number,
        "image_id": 10,
        "category_id": 7,
        "bbox": [1, 2, 3, 2],
        "iscrowd": 0,
        "area": 6,
        "segmentation": POLYGON,
        **changes,
    }


DOCUMENT: Json = {
    "images": [
        {"id": 10, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        {"id": 11, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
        {"id": 12, "file_name": "c.png", "height": HEIGHT, "width": WIDTH},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [
        annotation(1),
        annotation(2, category_id=3, segmentation=UNCOMPRESSED),
        annotation(3, segmentation=COMPRESSED),
        annotation(4, iscrowd=1, segmentation=UNCOMPRESSED),
        annotation(5, image_id=12, iscrowd=1, segmentation=UNCOMPRESSED),
    ],
}

Write = Callable[[Json], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a document with images of its own and returns its path."""

    def write_document(document: Json) -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        for value, name in enumerate("abc"):
            pixels = np.full((HEIGHT, WIDTH, 3), (value, 100, 200), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(document))
        return path

    return write_document


def changed(edit: Callable[[Json], Any]) -> Json:
    document = copy.deepcopy(DOCUMENT)
    edit(document)
    return document


def with_first(**changes: Any) -> Json:
    return changed(lambda document: document["annotations"][0].update(changes))


@pytest.mark.parametrize("segmentation", [POLYGON, UNCOMPRESSED, COMPRESSED])
def test_the_three_notations_of_a_mask(segmentation: Any) -> None:
    assert (decode_segmentation(segmentation, HEIGHT, WIDTH) == rectangle()).all()


def test_compressed_text_is_that_of_pycocotools() -> None:
    encoded = coco_mask.encode(np.asfortranarray(rectangle(), np.uint8))
    assert encoded["counts"].decode() == COMPRESSED["counts"]


def test_a_mask_of_several_polygons() -> None:
    other = [6, 0, 8, 0, 8, 2, 6, 2]
    mask = decode_segmentation([POLYGON[0], other], HEIGHT, WIDTH)
    assert mask.sum() == 6 + 4


def test_labels_follow_the_category_ids(write: Write) -> None:
    data = CocoDataset(write(DOCUMENT))
    assert data.class_names == ("__background__", "cat", "dog")
    assert data.category_ids == (0, 3, 7)
    sample = data.sample(0)
    assert sample.labels.tolist() == [2, 1, 2]
    assert sample.boxes.tolist() == [[1, 2, 4, 4]] * 3
    assert sample.masks is not None
    assert (sample.masks == rectangle()).all()
    assert sample.image_id == 10
    assert sample.image[0, 0].tolist() == [0, 100, 200]


def test_tensors_for_torchvision(write: Write) -> None:
    image, target = CocoDataset(write(DOCUMENT))[0]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert image[:, 0, 0].tolist() == pytest.approx([0, 100 / 255, 200 / 255])
    assert target["boxes"].shape == (3, 4)
    assert target["masks"].shape == (3, HEIGHT, WIDTH)
    assert target["labels"].tolist() == [2, 1, 2]
    assert target["image_id"].item() == 10


def test_crowds_are_not_learnt_but_kept_for_evaluation(write: Write) -> None:
    data = CocoDataset(write(DOCUMENT))
    assert len(data.sample(2).labels) == 0
    # Image 11 is truly empty and teaches that; image 12 shows a crowd only, and would teach wrongly.
    assert data.training_indices() == [0, 1]
    truth = data.ground_truth([0, 2])
    assert [a["id"] for a in truth["annotations"]] == [1, 2, 3, 4, 5]
    assert [image["id"] for image in truth["images"]] == [10, 12]


def test_an_image_without_objects(write: Write) -> None:
    _, target = CocoDataset(write(DOCUMENT))[1]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, HEIGHT, WIDTH)


def test_boxes_are_clipped_and_empty_ones_dropped(write: Write) -> None:
    document = changed(
        lambda d: d.update(
            annotations=[
                annotation(1, bbox=[-2, 3, 4.5, 100]),
                annotation(2, bbox=[3, 3, 0, 2]),
                annotation(3, bbox=[9, 1, 3, 3]),
                annotation(4, segmentation=[[1, 1, 1, 1, 1, 1]]),
            ]
        )
    )
    sample = CocoDataset(write(document)).sample(0)
    assert sample.boxes.tolist() == [[0, 3, 2.5, HEIGHT]]
    assert sample.masks is not None
    assert len(sample.masks) == 1


def test_boxes_alone_need_no_segmentation(write: Write) -> None:
    document = changed(lambda d: [a.pop("segmentation") for a in d["annotations"]])
    path = write(document)
    assert CocoDataset(path, masks=False).sample(0).masks is None
    with pytest.raises(MrcnnError, match="annotation 1 has no segmentation"):
        CocoDataset(path).sample(0)


TIP_AND_TAIL = {"keypoints": ["tip", "left_tail", "right_tail"], "skeleton": [[1, 2], [1, 3]]}
POINTS = [1, 2, 2, 3.5, 3, 1, 0, 0, 0]


def pointed(edit: Callable[[Json], Any] = lambda _: None) -> Json:
    """The document with three key points for every object, and a hidden and an unknown one among them."""

    def add(document: Json) -> None:
        document["categories"][0].update(copy.deepcopy(TIP_AND_TAIL))
        for entry in document["annotations"]:
            entry.update(keypoints=list(POINTS), num_keypoints=2)
        edit(document)

    return changed(add)


def test_key_points_are_read_with_their_names(write: Write) -> None:
    data = CocoDataset(write(pointed()), masks=False, keypoints=True)
    assert data.keypoint_rule == KeypointRule(
        names=("tip", "left_tail", "right_tail"), mirrored=((1, 2),), skeleton=((0, 1), (0, 2))
    )
    sample = data.sample(0)
    assert sample.keypoints is not None
    assert sample.keypoints.dtype == np.float32
    assert sample.keypoints.tolist() == [[[1, 2, 2], [3.5, 3, 1], [0, 0, 0]]] * 3
    _, target = data[0]
    assert target["keypoints"].shape == (3, 3, 3)
    assert data[1][1]["keypoints"].shape == (0, 3, 3)
    assert CocoDataset(write(pointed())).sample(0).keypoints is None


def test_mirrored_key_points_change_sides(write: Write) -> None:
    """By hand: in an image 8 pixels wide x = 1 becomes 7, and what was on the left is on the right."""
    sample = CocoDataset(write(pointed()), masks=False, keypoints=True).sample(0)
    mirrored = sample.mirrored()
    assert mirrored.keypoints is not None
    assert mirrored.keypoints[0].tolist() == [[7, 2, 2], [0, 0, 0], [4.5, 3, 1]]
    again = mirrored.mirrored()
    assert again.keypoints is not None
    assert sample.keypoints is not None
    assert (again.keypoints == sample.keypoints).all()


def test_key_points_without_names_are_those_of_persons(write: Write) -> None:
    def persons(document: Json) -> None:
        for category in document["categories"]:
            category.pop("keypoints", None)
        for entry in document["annotations"]:
            entry["keypoints"] = [1, 2, 2] * 17

    data = CocoDataset(write(pointed(persons)), masks=False, keypoints=True)
    assert data.keypoint_rule == COCO_PERSON
    assert data.sample(0).tensors()[1]["keypoints"].shape == (3, 17, 3)


def test_cocos_own_category_gives_cocos_persons() -> None:
    skeleton = [[first + 1, second + 1] for first, second in COCO_PERSON.skeleton]
    person = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON.names), "skeleton": skeleton}
    assert rule_of([person]) == COCO_PERSON


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["annotations"][0].pop("keypoints"), "annotation 1 has no keypoints, which a model"),
        (
            lambda d: d["annotations"][1].update(keypoints=POINTS[:6]),
            "annotation 2 has 6 numbers as keypoints, but .* of 3 points are 9",
        ),
        (
            lambda d: d["annotations"][0].update(keypoints=POINTS[:5]),
            "annotation 1 has keypoints that",
        ),
        (
            lambda d: d["annotations"][0].update(keypoints=[1, 2, "2"]),
            "annotation 1 has keypoints that",
        ),
        (lambda d: d["annotations"][0].update(keypoints=None), "annotation 1 has keypoints that"),
        (lambda d: d["annotations"][0].update(keypoints=[1, math.nan, 1]), "annotation 1 has keypoints that"),
        (lambda d: d["annotations"][0].update(keypoints=[1, 2, 3]), "whose visibility is not 0, 1 or 2"),
        (lambda d: d["categories"][0].update(keypoints="tip"), "category 7 has keypoints that are no list"),
        (lambda d: d["categories"][0].update(skeleton=[[1]]), "category 7 has a skeleton that is no list"),
        (lambda d: d["categories"][0].update(skeleton=[[0, 1]]), "category 7: keypoints: skeleton must hold"),
        (lambda d: d["categories"][1].update(keypoints=["a"]), "'cat' and 'dog' have different key points"),
    ],
)
def test_key_points_that_cannot_be_learnt(write: Write, edit: Callable[[Json], Any], message: str) -> None:
    with pytest.raises(MrcnnError, match=rf"instances\.json: .*{message}") as caught:
        CocoDataset(write(pointed(edit)), masks=False, keypoints=True)
    assert "\n" not in str(caught.value)


def test_images_lie_beside_the_document_or_where_told(write: Write, tmp_path: Path) -> None:
    path = write(DOCUMENT)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(MrcnnError, match=r"lacks 3 of the 3 images .* first is 'a.png'; .*--images"):
        CocoDataset(path)
    assert CocoDataset(path, images=tmp_path / "elsewhere").sample(0).image_id == 10
    with pytest.raises(MrcnnError, match="no such folder"):
        CocoDataset(path, images=tmp_path / "nowhere")
    for name in "abc":
        (tmp_path / "elsewhere" / f"{name}.png").rename(tmp_path / f"{name}.png")
    assert CocoDataset(path).sample(0).image_id == 10


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed(lambda d: d.pop("images")), "the list 'images' is missing"),
        (changed(lambda d: d.update(annotations={})), "the list 'annotations' is missing"),
        (changed(lambda d: d["annotations"].append(5)), r"annotations\[5\] is not an object"),
        (changed(lambda d: d["images"][1].pop("width")), r"images\[1\] lacks 'width'"),
        (changed(lambda d: d["images"][1].update(height="6")), r"images\[1\].height is not of type int"),
        (changed(lambda d: d.update(categories=[])), "has no categories"),
        (changed(lambda d: d.update(images=[], annotations=[])), "has no images"),
        (changed(lambda d: d["categories"][0].update(name="cat")), "two categories have the same name"),
        (changed(lambda d: d["categories"][0].update(id=3)), "categories has the id 3 twice"),
        (with_first(category_id=99), "annotation 1 has the unknown category 99"),
        (with_first(image_id=99), "annotation 1 is of image 99"),
        (changed(lambda d: d["images"][0].update(id=2**63)), r"images\[0\].id needs more than 64 bits"),
        (changed(lambda d: d["images"][0].update(height=0)), "image 10 has 8x0 pixels"),
        (changed(lambda d: d["images"][0].update(width=10**9)), "image 10 has 1000000000x6 pixels"),
        (changed(lambda d: d["images"][0].update(file_name="x" * 300)), "lacks 1 of the 3 images"),
        (changed(lambda d: d["images"][0].update(file_name="a\0\n")), r"the first is 'a\\x00\\n'"),
        (with_first(bbox=[1, 2, 3]), "annotation 1 has a bbox that is not"),
        (with_first(bbox=[1, 2, 3, None]), "annotation 1 has a bbox that is not"),
    ],
)
def test_documents_that_contradict_themselves(write: Write, document: Json, message: str) -> None:
    with pytest.raises(MrcnnError, match=message) as caught:
        CocoDataset(write(document))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [1, 2, 3, math.nan]}, "bbox that is not"),
        ({"bbox": [1, 2, math.inf, 3]}, "bbox that is not"),
        ({"bbox": [1, 2, 10**400, 3]}, "bbox that is not"),
        ({"bbox": [1, 2, True, 3]}, "bbox that is not"),
        ({"bbox": [1, 2, -3, 2]}, "bbox of negative size"),
        ({"area": "6"}, "area that is no number"),
        ({"area": None}, "area that is no number"),
        ({"area": math.nan}, "area that is no number"),
        ({"area": -1}, "area that is no number"),
        ({"iscrowd": None}, "iscrowd that is neither"),
        ({"iscrowd": "1"}, "iscrowd that is neither"),
        ({"iscrowd": 2}, "iscrowd that is neither"),
        *(
            ({"segmentation": wrong}, "segmentation that is neither")
            for wrong in (COMPRESSED["counts"], 5, 0, True, False, "")
        ),
        *(
            ({"segmentation": [wrong]}, "polygon that is no list of numbers")
            for wrong in (
                3,
                None,
                "abcdef",
                list("abcdef"),
                [[1, 2], [3, 4], [5, 6]],
                [1, 2, 3, 4, 5, math.nan],
            )
        ),
        ({"segmentation": [POLYGON[0], [1, 2]]}, "polygon of 2 numbers"),
        ({"segmentation": [[]]}, "polygon of 0 numbers"),
        ({"segmentation": [[1, 2, 4, 2, 4, 4, 1]]}, "polygon of 7 numbers"),
        (
            {"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]},
            r"polygon far outside .* 8x6 pixels: x from 0 to 1e\+09",
        ),
        ({"segmentation": [[0, 0, 8, 0, 8, -7]]}, "polygon far outside .*: y from -7 to 0"),
        *(
            ({"segmentation": {"size": size, "counts": COMPRESSED["counts"]}}, "RLE of the size")
            for size in ([5, 5], [WIDTH, HEIGHT], 48, None)
        ),
        ({"segmentation": {}}, "RLE of the size None"),
        *(
            ({"segmentation": {**UNCOMPRESSED, "counts": counts}}, "neither text nor whole numbers")
            for counts in (None, 48, ["48"], [48.0], [-1, 49], [True, 47], {})
        ),
        ({"segmentation": {**UNCOMPRESSED, "counts": []}}, "counts do not add up"),
        ({"segmentation": {**UNCOMPRESSED, "counts": [1, 2, 3]}}, "counts do not add up"),
        *(
            ({"segmentation": {**UNCOMPRESSED, "counts": text}}, "text does not give 6x8 pixels")
            # The last: 48 in 14 characters, of which pycocotools would shift bits out of its integers.
            for text in (
                "",
                "~~~~",
                "824000f",
                "é\ud800",
                "o" * 5000,
                "`Q" + "P" * 11 + "0",
            )
        ),
    ],
)
def test_malformed_annotations(write: Write, changes: Json, message: str) -> None:
    with pytest.raises(MrcnnError, match=rf"instances\.json: annotation 1 has an? (.* )?{message}") as caught:
        CocoDataset(write(with_first(**changes)))
    assert "\n" not in str(caught.value)


def test_polygons_may_exceed_the_border(write: Write) -> None:
    beyond = [[-0.5, 2, WIDTH + 1, 2, WIDTH + 1, HEIGHT + 0.5, -0.5, HEIGHT + 0.5]]
    masks = CocoDataset(write(with_first(segmentation=beyond))).sample(0).masks
    assert masks is not None
    assert masks[0].sum() == WIDTH * (HEIGHT - 2)


@pytest.mark.parametrize(("content", "message"), [("{", "is not JSON"), ("[]", "is not a COCO document")])
def test_files_that_are_no_documents(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(MrcnnError, match=message):
        CocoDataset(path)


def test_missing_file_and_binary_file(tmp_path: Path) -> None:
    with pytest.raises(MrcnnError, match="no such file"):
        CocoDataset(tmp_path / "no.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(MrcnnError, match="is not JSON"):
        CocoDataset(tmp_path / "binary.json")


def test_an_image_of_another_size_than_announced(write: Write) -> None:
    data = CocoDataset(write(changed(lambda d: d["images"][1].update(width=9))))
    with pytest.raises(MrcnnError, match=r"b.png: has 8x6 pixels, but .* says 9x6"):
        data.sample(1)


def test_real_annotations(coco_mini: Path) -> None:
    data = open_dataset(str(coco_mini / "instances.json"))
    assert len(data) == 100
    assert len(data.class_names) == 81
    assert data.class_names[1] == "person"
    crowds = 0
    for index in range(0, 100, 10):
        sample = data.sample(index)
        assert sample.masks is not None
        truth = data.ground_truth([index])["annotations"]
        crowds += sum(a["iscrowd"] for a in truth)
        assert len(sample.labels) == sum(not a["iscrowd"] for a in truth)
        areas = [a["area"] for a in truth if not a["iscrowd"]]
        assert sample.masks.sum(axis=(1, 2)).tolist() == pytest.approx(areas)


def test_sources_that_are_nothing() -> None:
    with pytest.raises(MrcnnError, match="neither a file nor one of coins, shapes"):
        open_dataset("nonsense")
    with pytest.raises(MrcnnError, match="neither a file nor one of coins, shapes"):
        open_dataset("x" * 300)
    with pytest.raises(MrcnnError, match="no meaning for the synthetic data"):
        open_dataset("coins", images="photos")
    with pytest.raises(MrcnnError, match="'coins' have no key points: give a COCO document"):
        open_dataset("coins", keypoints=True)
