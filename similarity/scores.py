"""Scores: the measure of a join, made from its two sides; formulas and sources in docs/joins.md."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from schemas.join import Score
from similarity.exact import unit_length
from similarity.measure import COSINE, Measure
from similarity.vectors import VectorSource

#: Neighbours whose mean cosine says how crowded a row's surroundings are (Conneau et al. 2018, 1710.04087, 2.3).
NEIGHBOURS = 10
#: Scores that must know of neighbours first.
OF_NEIGHBOURS = (Score.CSLS, Score.MARGIN)
#: The least such mean that a margin divides by: nearer to zero the ratio of two means says nothing.
LEAST_MEAN = 0.05
#: A threshold that fewer random pairs reach would be chance.
LEAST_BEYOND = 10
#: Rows of each side that random pairs are made of: 16 million pairs.
_SAMPLE = 4096
#: Left rows of random pairs that are scored at a time.
_AT_ONCE = 256


class Neighbourhoods(Protocol):
    """Who finds the mean score of each row's nearest ones on the other side."""

    def means(self, side: str) -> np.ndarray:
        """float64 (rows,) of `side`, "left" or "right"."""


@dataclass(frozen=True, slots=True)
class _Moments:
    """Mean and covariance of the unit vectors of one side, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def base_of(score: Score, left: VectorSource, right: VectorSource) -> Measure:
    """What `score` is before it knows of any neighbours: how near they are is told by this."""
    if score in (Score.CENTERED, Score.CSLS):
        return Measure(left_mean=_moments(left).mean, right_mean=_moments(right).mean)
    if score is Score.ZSCORE:
        return _zscore(left, right)
    return Measure(unit=False) if score is Score.DOT else COSINE


def measure_of(score: Score, base: Measure, near: Neighbourhoods) -> Measure:
    """How `score` scores a pair, in whole."""
    if score is Score.CSLS:  # 2 cos - r_right(x) - r_left(y): a hub, near to everything, is near to nothing
        return replace(base, times=2.0, left_add=-near.means("left"), right_add=-near.means("right"))
    if score is Score.MARGIN:  # Artetxe and Schwenk 2019, 1811.01136, "ratio"
        means = [np.maximum(near.means(side), LEAST_MEAN) for side in ("left", "right")]
        return replace(base, left_add=means[0], right_add=means[1], is_ratio=True)
    return base


def _zscore(left: VectorSource, right: VectorSource) -> Measure:
    """(s - mean) / deviation over all right rows, in closed form from their mean and covariance."""
    told = _moments(right, with_covariance=True)
    add, times = np.empty(left.rows), np.empty(left.rows)
    for block in left.blocks():
        unit = unit_length(block.vectors.astype(np.float64))
        rows = slice(block.first, block.first + len(block))
        add[rows] = -(unit @ told.mean)
        variance = np.einsum("ij,jk,ik->i", unit, told.covariance, unit, optimize=True)
        times[rows] = 1.0 / np.sqrt(np.maximum(variance, 1e-12))
    return Measure(left_add=add, left_times=times)


def _moments(source: VectorSource, *, with_covariance: bool = False) -> _Moments:
    total = np.zeros(source.dim)
    products = np.zeros((source.dim, source.dim))
    for block in source.blocks():
        unit = unit_length(block.vectors.astype(np.float64))
        total += unit.sum(axis=0)
        if with_covariance:
            products += unit.T @ unit
    mean = total / max(source.rows, 1)
    return _Moments(mean, products / max(source.rows, 1) - np.outer(mean, mean))


def threshold_for(fpr: float, left: VectorSource, right: VectorSource, measure: Measure, seed: int) -> float:
    """The score that a share `fpr` of random pairs reaches; where a set meets itself, a row and itself are no pair."""
    best, _ = best_random(fpr, left, right, measure, seed)
    return float(best[-1])


def best_random(
    share: float, left: VectorSource, right: VectorSource, measure: Measure, seed: int
) -> tuple[np.ndarray, int]:
    """The best scores of random pairs, falling, as many as are that share of them; and how many there are in all."""
    rows = _drawn(left.rows, seed), _drawn(right.rows, seed + 1)
    meets_itself = left.location == right.location and left.modality == right.modality
    pairs = len(rows[0]) * len(rows[1]) - (len(np.intersect1d(*rows)) if meets_itself else 0)
    beyond = pairs - math.ceil((pairs - 1) * (1.0 - share))
    best = np.empty(0)
    for some, scores in _random_scores(left, right, rows, measure):
        found = scores[some[:, None] != rows[1]] if meets_itself else scores.reshape(-1)
        best = np.concatenate([best, found])
        if len(best) > beyond:
            best = np.partition(best, len(best) - beyond)[-beyond:]
    return np.sort(best)[::-1], pairs


def _random_scores(
    left: VectorSource, right: VectorSource, rows: tuple[np.ndarray, np.ndarray], measure: Measure
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some of the left rows, and float64 (some, right rows): their scores; a whole matrix would be 128 MB, and more."""
    mine = _sides(left, rows[0], measure.left_mean, measure)
    theirs = _sides(right, rows[1], measure.right_mean, measure).T
    terms, right_add = measure.left(0, left.rows), measure.right(0, right.rows)[rows[1]]
    for at in range(0, len(mine), _AT_ONCE):
        some = rows[0][at : at + _AT_ONCE]
        of = terms.of(some)
        column = type(of)(of.add[:, None], of.times[:, None])
        yield some, measure.score(mine[at : at + _AT_ONCE] @ theirs, column, right_add)


def random_pairs(left: VectorSource, right: VectorSource) -> int:
    """How many random pairs a threshold is taken from."""
    return min(left.rows, _SAMPLE) * min(right.rows, _SAMPLE)


def _drawn(rows: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(rows)[:_SAMPLE])


def _sides(source: VectorSource, rows: np.ndarray, mean: np.ndarray | None, measure: Measure) -> np.ndarray:
    vectors = source.take(rows).astype(np.float64)
    if mean is not None:
        vectors = unit_length(vectors) - mean
    return unit_length(vectors) if measure.unit else vectors
