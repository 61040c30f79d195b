"""Exact scores: float64, summed in one fixed order, rounded to float32; the same bits on every machine.

A product of two float32 is exact in float64, and sums are taken by halving with elementwise additions alone, which
IEEE 754 defines to the last bit. So a score is a function of its two vectors and of nothing else: not of the block it
was found in, nor of the threads, the processor or the library. Both orders of the two vectors give the same score.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from similarity.rows import Rows

#: Pairs that are worked on at once: their products stay in a core's cache.
_PAIRS_AT_ONCE = 512
#: The least mean similarity that a ratio divides by: nothing near zero or below it.
RATIO_FLOOR = 1e-3


class Form(StrEnum):
    """How two rows, their scales and offsets make a score."""

    COSINE = "cosine"  # cosine * scale * scale - (offset + offset)
    DOT = "dot"  # the dot product
    RATIO = "ratio"  # cosine / mean of the two offsets


def exact_scores(left: "Rows", at_left: np.ndarray, right: "Rows", at_right: np.ndarray, form: Form) -> np.ndarray:
    """float32 (n,): the score of each pair of places in `left` and `right`."""
    scores = np.empty(len(at_left), np.float32)
    for start in range(0, len(at_left), _PAIRS_AT_ONCE):
        x, y = at_left[start : start + _PAIRS_AT_ONCE], at_right[start : start + _PAIRS_AT_ONCE]
        dots = dots_of(left.vectors[x], right.vectors[y])
        scores[start : start + _PAIRS_AT_ONCE] = scored(dots, left, x, right, y, form)
    return scores


def scored(
    dots: np.ndarray, left: "Rows", at_left: np.ndarray, right: "Rows", at_right: np.ndarray, form: Form
) -> np.ndarray:
    """float64: the scores of pairs whose dot products are `dots`; places broadcast as numpy's do."""
    if form is Form.DOT:
        return dots
    cosines = dots / (left.norms[at_left] * right.norms[at_right])
    if form is Form.RATIO:
        return cosines / np.maximum((_of(left.offset, at_left) + _of(right.offset, at_right)) * 0.5, RATIO_FLOOR)
    if left.scale is not None or right.scale is not None:
        cosines = cosines * (_of(left.scale, at_left, 1.0) * _of(right.scale, at_right, 1.0))
    if left.offset is not None or right.offset is not None:
        cosines = cosines - (_of(left.offset, at_left) + _of(right.offset, at_right))
    return np.asarray(cosines)


def dots_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 (n,): the dot products of the rows of two float32 (n, dim) arrays."""
    products = x.astype(np.float64)
    products *= y
    return halved(products)


def norms_of(vectors: np.ndarray) -> np.ndarray:
    """float64 (n,): the lengths of float32 (n, dim) vectors."""
    squares = np.empty(len(vectors))
    for start in range(0, len(vectors), _PAIRS_AT_ONCE):
        part = vectors[start : start + _PAIRS_AT_ONCE]
        squares[start : start + len(part)] = dots_of(part, part)
    return np.sqrt(squares)


def halved(values: np.ndarray) -> np.ndarray:
    """The sums over the last axis of float64 (n, width) `values`, the far half added to the near one; in place."""
    width = values.shape[1]
    while width > 1:
        half = (width + 1) // 2
        values[:, : width - half] += values[:, half:width]
        width = half
    return values[:, 0]


def _of(constants: np.ndarray | None, at: np.ndarray, default: float = 0.0) -> np.ndarray | float:
    return default if constants is None else constants[at]
