"""What gpu-check takes for equal."""

import numpy as np
import pytest

from mrcnn.benchmarks.gpu_check.compare import tolerance_of, unequal_kept, unequal_values

AXES = "roi channel"


def test_float32_is_allowed_a_hundred_thousandth() -> None:
    expected = np.zeros((2, 3), np.float32)
    assert unequal_values(expected + np.float32(0.9e-5), expected, axes=AXES)[0] is None
    line, worst = unequal_values(expected + np.float32(2e-5), expected, axes=AXES)
    assert line is not None
    assert line.startswith("6 of 6 values are wrong")
    assert worst == pytest.approx(2e-5)


@pytest.mark.parametrize("value", [1.0, -3.0, 0.1, 1000.0, 60_000.0, 1e-5, 6e-8, 0.0])
def test_float16_is_allowed_two_units_more(value: float) -> None:
    expected = np.array([value], np.float16)
    units = tolerance_of(expected, 0.0) / np.abs(np.spacing(expected)).astype(np.float32)
    assert units.tolist() == [2.0]


def test_the_worst_value_is_named() -> None:
    expected = np.zeros((4, 5), np.float32)
    got = expected.copy()
    got[1, 2], got[3, 4] = 0.5, -7
    line, worst = unequal_values(got, expected, axes=AXES)
    assert line == "2 of 20 values are wrong, the worst at roi 3, channel 4: -7.0 instead of 0.0"
    assert worst == 7


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_nan_and_infinities_equal_themselves_alone(dtype: type) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1, 65504], dtype)
    assert unequal_values(values, values.copy(), axes="roi") == (None, 0.0)
    for i, other in ((0, 1), (1, np.nan), (1, -np.inf), (2, np.inf), (3, np.nan), (4, np.inf)):
        changed = values.copy()
        changed[i] = other
        line, _ = unequal_values(changed, values, axes="roi")
        assert line is not None
        assert line.startswith(f"1 of 5 values are wrong, the worst at roi {i}: ")


def test_nothing_equals_nothing() -> None:
    nothing = np.zeros((0, 3), np.float16)
    assert unequal_values(nothing, nothing, axes=AXES) == (None, 0.0)


KEPT = np.array([[4, 2, 9, 0, 0], [1, 0, 0, 0, 0]], np.int32)
COUNT = np.array([3, 1], np.int32)


def test_the_same_boxes_are_right() -> None:
    assert unequal_kept(KEPT.copy(), COUNT.copy(), KEPT, COUNT) is None


def test_a_wrong_index_is_named() -> None:
    got = KEPT.copy()
    got[0, 1:3] = 9, 2
    line = unequal_kept(got, COUNT, KEPT, COUNT)
    assert line == "image 0: 2 of 5 indices are wrong, the first at 1: 9 instead of 2"


def test_what_lies_past_the_count_must_be_zero() -> None:
    got = KEPT.copy()
    got[1, 4] = -1
    line = unequal_kept(got, COUNT, KEPT, COUNT)
    assert line == "image 1: 1 of 5 indices are wrong, the first at 4: -1 instead of 0"


def test_a_wrong_count_is_named() -> None:
    line = unequal_kept(KEPT, np.array([3, 2], np.int32), KEPT, COUNT)
    assert line == "image 1: 2 boxes kept instead of 1; the same indices"
