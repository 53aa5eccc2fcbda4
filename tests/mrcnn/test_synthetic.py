"""The synthetic data: the same everywhere, and annotated as drawn."""

import hashlib

import numpy as np
import pytest

from mrcnn.data.drawing import Draws, coverage, offsets, radius_of, slope, soften, to_bytes
from mrcnn.data.sample import Sample, boxes_around
from mrcnn.data.shapes import cross, disc, ring, rotated, square, triangle
from mrcnn.data.synthetic import KINDS, SyntheticDataset
from mrcnn.errors import MrcnnError

# The bytes of images 0…2 (96 x 128) of each kind. If these change, checkpoints no longer tell what they were
# trained on: change them only together with the demo checkpoint.
FINGERPRINTS = {
    "coins": "1378a299e4734b72cdbff2e28951e1b88d8c34397560e0c92e6964197fcd7e0f",
    "shapes": "49a8c69f26b6c93cbe1ae9096413d63ccb2a34a3ba34570f2a55ccf6ed64ffe8",
}

# A shape's pixel count differs from its area by what its edge cuts: less than half a pixel per edge pixel.
AREA_RELATIVE = 0.03


def fingerprint(kind: str) -> str:
    data = SyntheticDataset(kind, length=3, size=(96, 128))
    digest = hashlib.sha256()
    for index in range(3):
        sample = data.sample(index)
        assert sample.masks is not None
        digest.update(sample.image.tobytes() + sample.masks.tobytes() + sample.labels.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_the_same_on_every_machine(kind: str) -> None:
    assert fingerprint(kind) == FINGERPRINTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_index_split_and_seed_alone(kind: str) -> None:
    data = SyntheticDataset(kind, length=9, size=(64, 96))
    image = data.sample(5).image
    data.sample(2)
    assert (data.sample(5).image == image).all()
    assert (SyntheticDataset(kind, length=100, size=(64, 96)).sample(5).image == image).all()
    for other in (
        data.sample(6),
        SyntheticDataset(kind, length=9, size=(64, 96), seed=1).sample(5),
        SyntheticDataset(kind, length=9, size=(64, 96), split="val").sample(5),
    ):
        assert (other.image != image).mean() > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_annotations_are_valid(kind: str) -> None:
    data = SyntheticDataset(kind, length=20, size=(128, 160))
    objects = 0
    for index in range(len(data)):
        sample = data.sample(index)
        assert sample.image.shape == (128, 160, 3)
        assert sample.image.dtype == np.uint8
        assert sample.masks is not None
        assert len(sample.boxes) == len(sample.labels) == len(sample.masks)
        objects += len(sample.labels)
        assert (sample.masks.sum(axis=0) <= 1).all(), "visible masks must not overlap"
        assert set(sample.labels.tolist()) <= set(range(1, len(data.class_names)))
        for box, mask in zip(sample.boxes, sample.masks, strict=True):
            x1, y1, x2, y2 = box.astype(int)
            assert mask[y1:y2, x1:x2].sum() == mask.sum() >= 16
            edges = mask[y1, x1:x2], mask[y2 - 1, x1:x2], mask[y1:y2, x1], mask[y1:y2, x2 - 1]
            assert all(edge.any() for edge in edges), "the box must be tight"
    assert objects > 20


def test_every_class_of_the_shapes_occurs() -> None:
    data = SyntheticDataset("shapes", length=30, size=(96, 96))
    seen = {label for index in range(30) for label in data.sample(index).labels.tolist()}
    assert {data.class_names[label] for label in seen} == {"disc", "ring", "square", "triangle", "cross"}


def test_a_coin_differs_from_the_ground_around_it() -> None:
    """Otherwise there would be nothing to learn: inside and outside of the rim must not look alike."""
    data = SyntheticDataset("coins", length=10)
    differences = []
    for index in range(10):
        sample = data.sample(index)
        assert sample.masks is not None
        grey = sample.image[:, :, 0].astype(float)
        ground = ~sample.masks.any(axis=0)
        differences += [abs(grey[mask].mean() - grey[ground].mean()) for mask in sample.masks]
    assert np.median(differences) > 20


def test_a_disc_covers_the_pixels_whose_centres_lie_in_it() -> None:
    depth = rotated(disc, 7, 9, 3.5, 4.5, 2.0, (0.0, 1.0))
    expected = [
        ".........",
        "....#....",
        "...###...",
        "..#####..",
        "...###...",
        "....#....",
        ".........",
    ]
    assert ["".join(".#"[int(inside)] for inside in row) for row in depth >= 0] == expected


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        (disc, np.pi),
        (ring, np.pi * (1.0**2 - 0.44**2)),
        (square, 1.7**2),
        (triangle, 3 * np.sqrt(3) / 4),
        (cross, 2 * (2 * 0.64) - 0.64**2),
    ],
)
def test_areas_of_shapes(shape, area: float) -> None:  # type: ignore[no-untyped-def]
    depth = rotated(shape, 128, 128, 63.2, 64.9, 40.0, (0.6, 0.8))
    assert (depth >= 0).sum() == pytest.approx(area * 40**2, rel=AREA_RELATIVE)


def test_a_triangle_points_along_its_frame() -> None:
    depth = rotated(triangle, 64, 64, 32, 32, 20.0, (0.0, 1.0))
    rows, columns = np.nonzero(depth >= 0)
    assert (rows.min(), rows.max()) == (13, 41)  # from the tip at 32 - 20 to the base at 32 + 20 / 2
    assert columns.min() == 15  # 32 - 20 sin 60° = 14.68: the first pixel centre inside is that at 15.5
    assert columns.max() == 48


def test_boxes_around_masks() -> None:
    masks = np.zeros((2, 5, 6), bool)
    masks[0, 1:3, 2:5] = True
    masks[1, 4, 5] = True
    assert boxes_around(masks).tolist() == [[2, 1, 5, 3], [5, 4, 6, 5]]
    assert boxes_around(masks[:0]).shape == (0, 4)


def test_a_mirrored_sample() -> None:
    masks = np.zeros((1, 2, 4), bool)
    masks[0, 0, 0] = True
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    sample = Sample(
        image=image,
        boxes=np.array([[0, 0, 1, 1]], np.float32),
        labels=np.array([3]),
        masks=masks,
        image_id=7,
    )
    mirrored = sample.mirrored()
    assert mirrored.boxes.tolist() == [[3, 0, 4, 1]]
    assert mirrored.masks is not None
    assert mirrored.masks[0].tolist() == [[False, False, False, True], [False] * 4]
    assert (mirrored.image[0, 3] == image[0, 0]).all()
    tensor, target = mirrored.tensors()
    assert tensor.shape == (3, 2, 4)
    assert tensor[1, 0, 3].item() == pytest.approx(1 / 255)
    assert target["masks"].sum() == 1
    assert target["image_id"].item() == 7


def test_smooth_noise_keeps_its_range_and_scale() -> None:
    clouds = Draws(1).clouds(100, 120, 20.0)
    assert clouds.shape == (100, 120)
    assert 0 <= clouds.min() < 0.3
    assert 0.7 < clouds.max() <= 1
    assert np.abs(np.diff(clouds, axis=0)).max() < 2 / 20  # smoothstep is at most 1.5 times as steep


def test_drawing_tools_on_values_known_by_hand() -> None:
    dy, dx = offsets(2, 3, 1.0, 0.5)
    assert dy.ravel().tolist() == [-0.5, 0.5]
    assert dx.ravel().tolist() == [0.0, 1.0, 2.0]
    assert radius_of(np.array([[3.0]]), np.array([[4.0]])).item() == 5
    assert coverage(np.array([-1.0, 0.0, 0.25, 1.0])).tolist() == [0, 0.5, 0.75, 1]
    assert to_bytes(np.array([-1.0, 0.0, 0.5, 1.0, 9.0])).tolist() == [0, 0, 128, 255, 255]
    spot = np.zeros((3, 3))
    spot[1, 1] = 16.0
    assert soften(spot, 1.0).tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert (soften(spot, 0.0) == spot).all()
    plane = np.arange(5.0)[:, None] * 2 + np.arange(6.0)[None, :] * 3
    assert slope(plane, (1.0, 0.0))[1:-1, 1:-1].tolist() == np.full((3, 4), 2.0).tolist()
    assert slope(plane, (0.0, 1.0))[1:-1, 1:-1].tolist() == np.full((3, 4), 3.0).tolist()


def test_ground_truth_is_complete_for_pycocotools() -> None:
    data = SyntheticDataset("shapes", length=4, size=(64, 80))
    truth = data.ground_truth([1, 3])
    assert [image["id"] for image in truth["images"]] == [2, 4]
    sample = data.sample(3)
    annotations = [a for a in truth["annotations"] if a["image_id"] == sample.image_id]
    assert [a["category_id"] for a in annotations] == sample.labels.tolist()
    assert sample.masks is not None
    assert [a["area"] for a in annotations] == sample.masks.sum(axis=(1, 2)).tolist()
    assert len({a["id"] for a in truth["annotations"]}) == len(truth["annotations"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "stars", "length": 1}, "unknown kind"),
        ({"kind": "coins", "length": 0}, "at least one image"),
        ({"kind": "coins", "length": 1, "size": (16, 64)}, "at least 32 pixels"),
        ({"kind": "coins", "length": 1, "split": "test"}, "unknown split"),
    ],
)
def test_unusable_arguments(arguments: dict, message: str) -> None:  # type: ignore[type-arg]
    kind = arguments.pop("kind")
    with pytest.raises(MrcnnError, match=message):
        SyntheticDataset(kind, **arguments)
