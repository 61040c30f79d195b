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

    def error(self, dim: int, left: "Terms", right_add: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """How far a float32 score may be from the true one, at most, by left row: float64 like `left.add`.

        A product of `dim` terms errs by no more than `dim` roundoffs of the product of the lengths (Higham, Accuracy
        and Stability of Numerical Algorithms, 3.1), whatever the order of its sums; `scale` is that product, by left
        row. The vectors' own rounding, and that of the terms, add a few.
        """
        product = (dim + 16) * ROUNDOFF * scale
        if self.is_plain:
            return product
        if self.is_ratio:
            least = np.maximum(left.add + right_add.min(initial=np.inf), np.finfo(np.float32).tiny)
            return np.asarray(2.0 * (product + 16 * ROUNDOFF * scale) / least)
        most = np.abs(right_add).max(initial=0.0)
        terms = 16 * ROUNDOFF * (abs(self.times) * scale + np.abs(left.add) + most)
        return np.asarray((abs(self.times) * product + terms) * np.abs(left.times))


@dataclass(frozen=True, slots=True)
class Terms:
    """What a measure adds to, and multiplies with, the scores of some left rows; float64 each."""

    add: np.ndarray
    times: np.ndarray

    def of(self, rows: np.ndarray) -> "Terms":
        """The terms of these rows."""
        return Terms(self.add[rows], self.times[rows])

    def as_column(self) -> "Terms":
        """float32, shaped to broadcast over a block of scores."""
        return Terms(self.add[:, None].astype(np.float32), self.times[:, None].astype(np.float32))


def _cut(terms: np.ndarray, first: int, count: int, default: float = 0.0) -> np.ndarray:
    return terms[first : first + count] if len(terms) else np.full(count, default)


COSINE = Measure()
