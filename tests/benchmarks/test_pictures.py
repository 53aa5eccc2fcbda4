from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn.benchmarks.agreement import Tolerances, compare
from mrcnn.benchmarks.pictures import EXPORTED_COLOR, REFERENCE_COLOR, side_by_side
from mrcnn.description import DetectionRule
from mrcnn.findings import Findings

HEIGHT, WIDTH = 40, 60
IMAGE = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def band(x: int, *, label: int = 1) -> Findings:
    """One detection: a mask of 20 columns from `x`, all rows."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[:, x : x + 20] = 1
    return Findings(
        boxes=np.array([[x, 0, x + 20, HEIGHT]], np.float32),
        scores=np.array([0.9], np.float32),
        labels=np.array([label]),
        rles=(dict(coco_mask.encode(mask)),),
    )


def difference_panel(reference: Findings, exported: Findings) -> Any:
    agreement = compare(reference, exported, image="a", rule=DetectionRule(), tolerances=Tolerances())
    picture = side_by_side(IMAGE, reference, exported, agreement)
    assert picture.dtype == np.uint8
    return picture[:, -picture.shape[1] // 3 :]


def has(panel: Any, color: tuple[int, int, int]) -> bool:
    return bool((panel == np.array(color)).all(axis=2).any())


def test_equal_findings_leave_the_difference_grey() -> None:
    panel = difference_panel(band(10), band(10))
    assert not has(panel, REFERENCE_COLOR)
    assert not has(panel, EXPORTED_COLOR)


def test_each_side_has_its_colour() -> None:
    nothing = Findings(
        boxes=np.empty((0, 4), np.float32), scores=np.empty(0, np.float32), labels=np.empty(0, int), rles=()
    )
    lost = difference_panel(band(10), nothing)
    assert has(lost, REFERENCE_COLOR)
    assert not has(lost, EXPORTED_COLOR)
    invented = difference_panel(nothing, band(10))
    assert has(invented, EXPORTED_COLOR)
    assert not has(invented, REFERENCE_COLOR)


def test_panels_show_the_image_enlarged_side_by_side() -> None:
    agreement = compare(band(10), band(10), image="a", rule=DetectionRule(), tolerances=Tolerances())
    picture = side_by_side(IMAGE, band(10), band(10), agreement)
    height, width = picture.shape[:2]
    assert width > 3 * WIDTH
    assert height > HEIGHT
    third = (width - 16) // 3
    np.testing.assert_array_equal(picture[40:, :third], picture[40:, third + 8 : 2 * third + 8])
