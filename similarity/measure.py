"""A measure: the score of a pair as a function of the cosine, or the dot product, of its two vectors."""

from dataclasses import dataclass, field, replace

import numpy as np

#: The unit roundoff of float32.
ROUNDOFF = 2.0**-24


def _none() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True, slots=True)
class Measure:
    """How pairs are scored: `(times * c + (left_add + right_add)) * left_times`, where c is the cosine or the product.

    With `is_ratio` it is `2 c / (left_add + right_add)` instead. Terms are float64, one for each row of their side;
    empty arrays stand for none. `left_mean` and `right_mean`, float64 (dim,), are taken from the vectors, once these
    are of unit length.
    """

    unit: bool = True  # the cosine; else the dot product
    left_mean: np.ndarray | None = None
    right_mean: np.ndarray | None = None
    times: float = 1.0
    left_add: np.ndarray = field(default_factory=_none)
    right_add: np.ndarray = field(default_factory=_none)
    left_times: np.ndarray = field(default_factory=_none)
    is_ratio: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the score is c itself."""
        terms = len(self.left_add) + len(self.right_add) + len(self.left_times)
        return not terms and self.times == 1.0 and not self.is_ratio

    def mirrored(self) -> "Measure":
        """The same score with the sides changed; `left_times` have no mirror."""
        assert not len(self.left_times)
        return replace(
            self,
            left_mean=self.right_mean,
            right_mean=self.left_mean,
            left_add=self.right_add,
            right_add=self.left_add,
        )

    def left(self, first: int, count: int) -> "Terms":
        """The terms of `count` left rows from `first` on."""
        return Terms(_cut(self.left_add, first, count), _cut(self.left_times, first, count, 1.0))

    def right(self, first: int, count: int) -> np.ndarray:
        """The terms of `count` right rows from `first` on, float64."""
        return _cut(self.right_add, first, count)

    def score(self, c: np.ndarray, left: "Terms", right_add: np.ndarray) -> np.ndarray:
        """The scores, of the shape and type of `c`, to which the terms must broadcast."""
        if self.is_plain:
            return c
        scores = (
            2 * c / (left.add + right_add) if self.is_ratio else (self.times * c + (left.add + right_add)) * left.times
        )
        return np.asarray(scores)

    def line(self, bound: np.ndarray, left: "Terms") -> "Line":
        """What c, and the right rows' terms with it, must reach for a score that rounds to `bound` or more."""
        # What is rounded up to the bound counts; -inf, where all count, stays.
        least = bound - np.where(np.isfinite(bound), 4 * ROUNDOFF * np.abs(bound), 0.0)
        none = np.zeros(len(bound))
        if self.is_plain:
            return Line(1.0, none, least)
        if self.is_ratio:  # 2 c / (left + right) >= least: left and right are above zero
            half = np.where(np.isfinite(least), least / 2, 0.0)
            return Line(1.0, -half, np.where(np.isfinite(least), half * left.add, least))
        return Line(self.times, none + float(bool(len(self.right_add))), least / left.times - left.add)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a measure adds to, and multiplies with, the scores of some left rows; float64 each."""

    add: np.ndarray
    times: np.ndarray

    def of(self, rows: np.ndarray) -> "Terms":
        """The terms of these rows."""
        return Terms(self.add[rows], self.times[rows])


@dataclass(frozen=True, slots=True)
class Line:
    """A pair counts if `times * c + weight * right_add >= least`; float64 by left row."""

    times: float
    weight: np.ndarray
    least: np.ndarray


def _cut(terms: np.ndarray, first: int, count: int, default: float = 0.0) -> np.ndarray:
    return terms[first : first + count] if len(terms) else np.full(count, default)


COSINE = Measure()
