"""Quality: how well ranked lists find what people judged to fit, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from similarity.judged import Judged, read_judged
from similarity.ranked import Ranked, read_ranked

#: Of an interval: what lies outside, on both sides together.
_OUTSIDE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over queries, its standard error, and the interval that 95 % of resampled sets of queries give."""

    mean: float
    error: float | None  # None with a single query
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """One output, measured."""

    location: str
    ranked: Ranked
    metrics: dict[str, Estimate]  # by name: recall@k, mrr, ndcg@k
    difference: dict[str, Estimate]  # to the first output, query by query; empty for the first itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Several outputs measured with the same judged pairs."""

    judged: Judged
    outputs: list[Quality]


def evaluate(
    judged_at: str, outputs_at: Sequence[str], *, ks: Sequence[int], samples: int = 1000, seed: int = 0
) -> Evaluation:
    """Measure outputs with the judged pairs; raises Refused for files that are neither.

    A judged query that an output does not have counts 0. Intervals: percentile bootstrap over queries (Efron, 1979),
    the same `samples` resampled sets for every output, so that differences are those of the same queries.
    """
    judged = read_judged(judged_at)
    lists = [read_ranked(location, judged) for location in outputs_at]
    measured = [per_query(judged, ranked, ks) for ranked in lists]
    names = list(measured[0])
    values = np.stack([np.stack([told[name] for name in names], axis=1) for told in measured])  # outputs, queries, n
    means = _resampled_means(np.concatenate([values, values - values[0]]), samples, seed)
    count = len(lists)
    return Evaluation(
        judged=judged,
        outputs=[
            Quality(
                location=location,
                ranked=ranked,
                metrics=_estimates(names, values[n], means[n]),
                difference=_estimates(names, values[n] - values[0], means[count + n]) if n else {},
            )
            for n, (location, ranked) in enumerate(zip(outputs_at, lists, strict=True))
        ],
    )


def per_query(judged: Judged, ranked: Ranked, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Each metric's value for each judged query, float64 (queries,), in the order of Judged.queries.

    recall@k: the share of the relevant items within the first k places.
    mrr: 1 / the place of the first relevant item, 0 where the list has none (Voorhees, TREC-8, 1999).
    ndcg@k: DCG / the best possible DCG of the judged items, with the gain 2^grade - 1 (Burges et al., ICML 2005) and
    the discount 1 / log2(1 + place) (Järvelin & Kekäläinen, TOIS 20(4), 2002). Items that nobody judged have grade 0.
    """
    count = len(judged.queries)
    query, grade = judged.pairs["query"].to_numpy(), judged.pairs["grade"].to_numpy()
    relevant = np.bincount(query, minlength=count)
    told = {f"recall@{k}": _sums(ranked.query, ranked.place <= k, count) / relevant for k in ks}
    told["mrr"] = _reciprocal_ranks(ranked, count)
    best = _best_places(query, grade)
    for k in ks:
        ideal = _sums(query, _gains(grade, best, k), count)
        told[f"ndcg@{k}"] = _sums(ranked.query, _gains(ranked.grade, ranked.place, k), count) / ideal
    return told


def _sums(query: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(query, weights=values, minlength=count)


def _gains(grade: np.ndarray, place: np.ndarray, k: int) -> np.ndarray:
    """What each item adds to the DCG of the first `k` places."""
    return np.where(place <= k, (np.exp2(grade) - 1) / np.log2(place + 1.0), 0.0)


def _reciprocal_ranks(ranked: Ranked, count: int) -> np.ndarray:
    first = np.full(count, np.inf)
    np.minimum.at(first, ranked.query, ranked.place)
    return 1 / first


def _best_places(query: np.ndarray, grade: np.ndarray) -> np.ndarray:
    """The place of each judged item in its query's best possible list; `query` is sorted."""
    order = np.lexsort((-grade, query))
    places = np.empty(len(query), np.int64)
    places[order] = np.arange(len(query)) - np.searchsorted(query, query) + 1
    return places


def _resampled_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """The means of (sets, queries, metrics) `values` over queries drawn with replacement: (sets, samples, metrics)."""
    rng, count = np.random.default_rng(seed), values.shape[1]
    means = np.empty((len(values), samples, values.shape[2]))
    for sample in range(samples):
        weights = np.bincount(rng.integers(0, count, count), minlength=count)
        means[:, sample] = weights @ values / count
    return means


def _estimates(names: list[str], values: np.ndarray, means: np.ndarray) -> dict[str, Estimate]:
    low, high = np.quantile(means, [_OUTSIDE / 2, 1 - _OUTSIDE / 2], axis=0)
    return {
        name: Estimate(
            mean=float(values[:, n].mean()),
            error=float(values[:, n].std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None,
            low=float(low[n]),
            high=float(high[n]),
        )
        for n, name in enumerate(names)
    }
