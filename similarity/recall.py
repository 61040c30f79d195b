"""Recall: which share of the exact pairs a funnel found, told from left rows drawn at random."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from schemas.join import PanelFooter
from similarity import kernel
from similarity.engine import Engine
from similarity.kernel import Block, Pairs, Wanted
from similarity.measure import Measure
from similarity.vectors import VectorSource

#: Left rows of a join, or all, whose exact pairs are found too.
SAMPLED_ROWS = 1000
_SEED = 0
_Z = 1.96  # 95 %


@dataclass(frozen=True, slots=True)
class Recall:
    """The mean share of a row's exact pairs that was found, and where that of all rows lies, 95 times in 100."""

    rows: int  # sampled, and with pairs at all
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, footers: Iterable[PanelFooter]) -> "Recall":
        """Of all panels. The interval is Wilson's: a share varies no more than a coin of the same mean."""
        told = [(f.sampled, f.recall_sum) for f in footers]
        n, total = sum(rows for rows, _ in told), math.fsum(shares for _, shares in told)
        if not n:
            return cls(0, 1.0, 0.0, 1.0)
        p = total / n
        middle, spread = p + _Z**2 / (2 * n), _Z * math.sqrt(max(p * (1 - p), 0.0) / n + _Z**2 / (4 * n * n))
        low, high = ((middle + sign * spread) / (1 + _Z**2 / n) for sign in (-1, 1))
        return cls(n, p, max(low, 0.0), min(high, 1.0))

    @property
    def line(self) -> str:
        return f"recall {self.mean:.4f} ({self.low:.4f} to {self.high:.4f}, of {self.rows:,} rows)"

    def to_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "mean": self.mean, "low": self.low, "high": self.high}


def sampled_rows(rows: int, first: int, count: int) -> np.ndarray:
    """int64: those of `count` rows from `first` on that are in the sample of all `rows`, ascending."""
    if rows <= SAMPLED_ROWS:
        return np.arange(first, first + count)
    drawn = np.sort(np.random.default_rng(_SEED).choice(rows, SAMPLED_ROWS, replace=False))
    return drawn[(drawn >= first) & (drawn < first + count)]


def shares_found(
    found: Pairs,
    rows: np.ndarray,
    left: VectorSource,
    right: Callable[[], Iterable[Block]],
    wanted: Wanted,
    *,
    measure: Measure,
    engine: Engine,
) -> np.ndarray:
    """float64: of each of these left rows that has pairs, the share of its exact pairs that are among those found."""
    if not len(rows):
        return np.zeros(0)
    true = _exact(rows, left, right(), wanted, measure, engine)
    width = max(int(side.right.max(initial=0)) for side in (found, true)) + 1
    hit = np.isin(true.left * width + true.right, found.left * width + found.right)
    at = np.searchsorted(rows, true.left)
    counts = np.bincount(at, minlength=len(rows))
    hits = np.bincount(at, weights=hit, minlength=len(rows))
    return np.asarray(hits[counts > 0] / counts[counts > 0])


def _exact(
    rows: np.ndarray, left: VectorSource, right: Iterable[Block], wanted: Wanted, measure: Measure, engine: Engine
) -> Pairs:
    """The exact pairs of these rows, which need not follow each other."""
    assert wanted.top_k is not None
    mine = replace(measure, left_add=_of(measure.left_add, rows), left_times=_of(measure.left_times, rows))
    # By place, no row knows itself: one more is found, and itself left out.
    ask = Wanted(top_k=wanted.top_k + wanted.not_self, threshold=wanted.threshold)
    pairs = kernel.join(Block(0, left.take(rows)), right, ask, measure=mine, engine=engine)
    numbers = rows[pairs.left]
    good = numbers != pairs.right if wanted.not_self else np.ones(len(pairs), np.bool_)
    numbers, others, scores = numbers[good], pairs.right[good], pairs.scores[good]
    begins = np.searchsorted(numbers, numbers)
    best = np.arange(len(numbers)) - begins < wanted.top_k
    return Pairs(numbers[best], others[best], scores[best])


def _of(terms: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return terms[rows] if len(terms) else terms
