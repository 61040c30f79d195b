"""Exact scores: float64, summed in one fixed order; the same bits on every machine.

A product of two float32 is exact in float64, and sums are taken by halves with elementwise additions alone, which IEEE
754 defines to the last bit. So what comes of two vectors is a function of them and of nothing else: not of the block
they lay in, nor of threads, device or library.
"""

import numpy as np
import torch

#: Rows that are worked on at once: their values stay in a core's cache.
_AT_ONCE = 512


class ExactRows:
    """Vectors as a measure takes them: their products as they are, or of unit length, less a mean before that."""

    def __init__(self, vectors: np.ndarray, mean: np.ndarray | None, unit: bool) -> None:
        self._vectors, self._mean, self._unit = vectors, mean, unit
        self._lengths = None if mean is None else lengths_of(vectors)
        self.lengths = self._own_lengths()

    def scan_lengths(self) -> np.ndarray:
        """float64 (n,): the lengths of what a scan multiplies."""
        return np.where(self.lengths > 0, 1.0, 0.0) if self._unit else self.lengths

    def unscaled(self, rows: np.ndarray | slice) -> np.ndarray:
        """(n, dim) of these rows, of a length that is divided out later; float64 where there is a mean."""
        if self._mean is None or self._lengths is None:
            return np.asarray(self._vectors[rows] if isinstance(rows, slice) else self._vectors.take(rows, axis=0))
        return np.asarray(self._vectors[rows] / _or_one(self._lengths[rows])[:, None] - self._mean)

    def divisors(self, rows: np.ndarray | slice) -> np.ndarray:
        """float64 (n,): what the products of these rows are divided by."""
        lengths = self.lengths[rows]
        return _or_one(lengths) if self._unit else np.ones(len(lengths))

    def _own_lengths(self) -> np.ndarray:
        lengths = np.empty(len(self._vectors))
        for at in range(0, len(lengths), _AT_ONCE):
            lengths[at : at + _AT_ONCE] = lengths_of(self.unscaled(slice(at, at + _AT_ONCE)))
        return lengths


def products(x: ExactRows, at_x: np.ndarray, y: ExactRows, at_y: np.ndarray) -> np.ndarray:
    """float64 (n,): the cosines, or products, of pairs of rows, by their places."""
    found = np.empty(len(at_x))
    for at in range(0, len(found), _AT_ONCE):
        one, other = at_x[at : at + _AT_ONCE], at_y[at : at + _AT_ONCE]
        summed = dots(x.unscaled(one), y.unscaled(other))
        found[at : at + _AT_ONCE] = summed / (x.divisors(one) * y.divisors(other))
    return found


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """float64 (n, dim) `vectors` of length one; those of length zero as they are."""
    unit: np.ndarray = vectors / _or_one(np.sqrt(dots(vectors, vectors)))[:, None]
    return unit


def lengths_of(vectors: np.ndarray) -> np.ndarray:
    """float64 (n,): the lengths of (n, dim) vectors."""
    lengths = np.empty(len(vectors))
    for at in range(0, len(lengths), _AT_ONCE):
        some = vectors[at : at + _AT_ONCE]
        lengths[at : at + _AT_ONCE] = np.sqrt(dots(some, some))
    return lengths


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float32 (n,): the cosines of the rows of two (n, dim) arrays, with the very bits that a join gives a pair."""
    rows = np.arange(len(x))
    return products(ExactRows(x, None, True), rows, ExactRows(y, None, True), rows).astype(np.float32)


def dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 (n,): the dot products of the rows of (n, dim) arrays, summed by halves.

    By torch, whose sums of strided rows take half the time of numpy's.
    """
    sums, width = tensor_of(x).to(torch.float64, copy=True), x.shape[1]
    sums.mul_(tensor_of(y))
    while width > 1:
        half = (width + 1) // 2
        sums[:, : width - half].add_(sums[:, half:width])
        width = half
    return sums[:, 0].numpy().copy() if width else np.zeros(len(x))


def tensor_of(values: np.ndarray) -> torch.Tensor:
    """An array as a tensor, without a copy if it may be written to: torch warns of one that may not, as Arrow's."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _or_one(lengths: np.ndarray) -> np.ndarray:
    return np.where(lengths > 0, lengths, 1.0)
