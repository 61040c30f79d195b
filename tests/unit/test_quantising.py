"""Quantising: vectors cut, scaled, and written as smaller types."""

import numpy as np
import pytest

from schemas.errors import StoreError
from schemas.failures import Failure, FailureCode
from schemas.recipe import OutputType, Recipe
from storage.ranges import Ranges
from workers.quantising import finished, overflows, pooled, quantised


def vectors(count: int, dim: int = 12) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, dim)).astype(np.float32)


def test_the_mean_of_unit_vectors_is_of_unit_length() -> None:
    """Windows of a sound make one vector as long as the model's own."""
    raw = vectors(3)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)

    mean = pooled(unit)

    direction = unit.mean(axis=0)
    assert np.linalg.norm(mean) == pytest.approx(1.0)
    assert np.allclose(mean, direction / np.linalg.norm(direction), atol=1e-6)


def test_the_mean_of_other_vectors_keeps_its_length() -> None:
    """CLIP's vectors are of no particular length."""
    assert np.allclose(pooled(vectors(3)), vectors(3).mean(axis=0), atol=1e-6)


def test_one_vector_is_itself() -> None:
    """Bit for bit: nothing is divided and multiplied again."""
    assert pooled(vectors(1)).tobytes() == vectors(1)[0].tobytes()


def test_cut_vectors_are_scaled_to_unit_length() -> None:
    """The first dimensions of a unit vector are shorter than one."""
    cut = finished(vectors(1)[0], Recipe(truncate_dim=4))

    assert isinstance(cut, np.ndarray)
    assert cut.shape == (4,)
    assert np.linalg.norm(cut) == pytest.approx(1.0)


def test_a_vector_of_which_nothing_is_left_is_a_failure() -> None:
    """Opposite windows cancel out, and a cut may leave zeros: no direction can be made of them."""
    vector = np.array([0, 0, 1], np.float32)

    failure = finished(vector, Recipe(truncate_dim=2))

    assert isinstance(failure, Failure)
    assert failure.code is FailureCode.VECTOR_ZERO


def test_int8_levels_span_the_ranges_and_clip_beyond() -> None:
    """The least value of the sample is -128, the largest 127."""
    ranges = Ranges(np.array([-1.0, 0.0], np.float32), np.array([1.0, 2.0], np.float32))
    given = np.array([[-1.0, 2.0], [0.0, 1.0], [-5.0, 5.0]], np.float32)

    levels = quantised(given, OutputType.INT8, ranges)

    assert levels.dtype == np.int8
    assert levels.tolist() == [[-128, 127], [0, 0], [-128, 127]]


def test_int8_reads_back_within_half_a_level() -> None:
    """The formula that the file's notes give."""
    given = vectors(50)
    ranges = Ranges.of(given)

    back = ranges.low + (quantised(given, OutputType.INT8, ranges) + 128.0) / 255 * (ranges.high - ranges.low)

    assert np.abs(back - given).max() <= ((ranges.high - ranges.low) / 255).max() * 0.501


def test_binary_packs_the_signs() -> None:
    """Eight dimensions a byte, the first in the highest bit; zero is not above zero."""
    given = np.array([[1, -1, 1, 0, 0, 0, 0, 0, 1]], np.float32)

    assert quantised(given, OutputType.BINARY, None).tolist() == [[0b10100000, 0b10000000]]


def test_ranges_survive_their_file_bit_for_bit() -> None:
    """Each worker of a job must quantise with the same."""
    ranges = Ranges.of(vectors(7))

    back = Ranges.from_json(ranges.to_json())

    assert back.low.tobytes() == ranges.low.tobytes()
    assert back.high.tobytes() == ranges.high.tobytes()


def test_damaged_ranges_are_refused() -> None:
    """Wrong levels would be wrong vectors."""
    with pytest.raises(StoreError, match="int8 ranges"):
        Ranges.from_json(b'{"low": [1')


def test_a_value_beyond_half_precision_is_a_failure_and_not_infinity() -> None:
    """float16 ends at 65504."""
    vector = np.array([1.0, 1e5], np.float32)

    assert overflows(vector, Recipe(outputs=(OutputType.FLOAT16,))) is not None
    assert overflows(vector, Recipe()) is None
