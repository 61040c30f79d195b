"""The part of the page that shows pairs: their scores, how many a left row has, and some of them side by side."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from report.cards import Cards, is_text
from report.charts import Bar, Curve, Mark, bars, figure, histogram, legend, table
from report.html import Html, joined, tag
from report.page import Section, paragraphs
from report.words import number
from schemas.counted import counted
from schemas.rows import ManifestRow

#: Pairs that are read, left rows that are shown, and right rows of each.
_PAIRS, _GROUPS, _SHOWN = 5_000_000, 12, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PairNames:
    """What the sides and their columns are called."""

    left: str  # column
    right: str  # column
    one: str  # of the left rows, in words
    many: str
    score: str  # what the score is
    start: str = ""  # column of when a left row's segment begins, where there are some


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One pair of a left row."""

    right: str
    score: float  # NaN where it was not scored
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A left row with the first of its pairs."""

    left: str
    start_s: float | None  # of a segment
    shard: int  # of the file that holds it
    pairs: list[Found]


@dataclass(slots=True, kw_only=True)
class PairSample:
    """The pairs of some files."""

    scores: list[np.ndarray] = field(default_factory=list)
    best: list[np.ndarray] = field(default_factory=list)  # of the first pair of each left row
    per_left: list[np.ndarray] = field(default_factory=list)  # pairs of each left row that has some
    groups: list[Group] = field(default_factory=list)
    read: int = 0
    tables: int = 0  # that were read, from the first on

    def all_of(self, parts: list[np.ndarray]) -> np.ndarray:
        found = np.concatenate(parts) if parts else np.zeros(0)
        return np.asarray(found[np.isfinite(found)])


def sample_pairs(tables: Iterable[tuple[int, pa.Table]], names: PairNames, files: int, *, seed: int = 0) -> PairSample:
    """Read tables, each with its shard or panel, until there are enough pairs; those of a left row lie together."""
    sample, rng = PairSample(), np.random.default_rng(seed)
    each = max(1, -(-_GROUPS // max(1, files)))
    for shard, pairs in tables:
        sample.tables += 1
        if not pairs.num_rows:
            continue
        scores = np.asarray(pairs["score"].cast(pa.float64()).fill_null(np.nan))
        rank = np.asarray(pairs["rank"].cast(pa.float64()).fill_null(np.inf))
        left = np.asarray(pairs[names.left].combine_chunks().dictionary_encode().indices)
        other = left[1:] != left[:-1]
        if names.start in pairs.column_names:  # segments: several left rows have one id
            start = np.asarray(pairs[names.start])
            other |= start[1:] != start[:-1]
        begins = np.flatnonzero(np.r_[True, other])
        sample.scores.append(scores)
        sample.best.append(scores[rank == 1])
        sample.per_left.append(np.diff(np.r_[begins, len(left)]))
        sample.read += len(scores)
        if len(sample.groups) < _GROUPS:
            for at in np.sort(rng.permutation(len(begins))[:each]):
                end = int(np.r_[begins, len(left)][at + 1])
                sample.groups.append(_group(pairs.slice(int(begins[at]), end - int(begins[at])), names, shard))
        if sample.read >= _PAIRS:
            break
    del sample.groups[_GROUPS:]
    return sample


def _group(pairs: pa.Table, names: PairNames, shard: int) -> Group:
    rows = zip(*(pairs[name].to_pylist() for name in (names.left, names.right, "score", "rank")), strict=True)
    found = [
        (left, Found(right=right, score=float("nan") if score is None else score, rank=rank or 0))
        for left, right, score, rank in rows
    ]
    ordered = sorted((pair for _, pair in found), key=lambda pair: pair.rank or len(found) + 1)
    start = pairs[names.start][0].as_py() if names.start in pairs.column_names else None
    return Group(left=found[0][0], start_s=start, shard=shard, pairs=ordered[:_SHOWN])


def score_section(sample: PairSample, names: PairNames, *, of: int, marks: Sequence[Mark], more: str) -> Section:
    """The histogram of scores, and of those of each left row's best pair."""
    scores, best = sample.all_of(sample.scores), sample.all_of(sample.best)
    read = (
        f"Of {sample.read:,} of {of:,} pairs, spread evenly." if sample.read < of else f"Of all {counted(of, 'pair')}."
    )
    if not len(scores):
        return Section(name="scores", title="Scores", body=paragraphs("No pair has a score.", more))
    low, high = float(scores.min()), float(scores.max())
    pad = 0.02 * max(high - low, 1e-3)
    edges = [float(x) for x in np.linspace(low - pad, high + pad, 61)]
    curves = [Curve(name="all pairs", values=_shares(scores, edges), colour=0)]
    if 1 < len(best) < len(scores):
        curves.append(Curve(name=f"the best of each {names.one}", values=_shares(best, edges), colour=1, dashed=True))
    label = f"Scores from {number(low)} to {number(high)}; the median is {float(np.median(scores)):.3f}"
    key = legend([c.name for c in curves], [c.colour for c in curves], [c.dashed for c in curves])
    chart = joined(key, histogram(edges, curves, label=label, axis=names.score, marks=marks))
    shares = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    rows = [
        [f"{100 * s:g} %", f"{np.quantile(scores, s):.4f}", f"{np.quantile(best, s):.4f}" if len(best) else "-"]
        for s in shares
    ]
    numbers = table(["quantile", "all pairs", f"best of each {names.one}"], rows)
    body = tag("div", figure("Scores", chart, note=read, table=numbers), _per_left(sample, names), class_="grid2")
    return Section(name="scores", title="Scores", body=joined(paragraphs(more), body))


def _shares(values: np.ndarray, edges: Sequence[float]) -> list[float]:
    counts, _ = np.histogram(values, bins=np.asarray(edges))
    return [float(count) for count in counts / max(1, len(values))]


def _per_left(sample: PairSample, names: PairNames) -> Html:
    counts = sample.all_of(sample.per_left).astype(np.int64)
    values, rows = np.unique(counts, return_counts=True)
    if len(values) > 12:  # as many bars as can be read
        edges = np.unique(np.quantile(counts, np.linspace(0, 1, 11)).astype(np.int64))
        rows, _ = np.histogram(counts, bins=np.r_[edges, edges[-1] + 1])
        told_as = [
            f"{a:,}-{b - 1:,}" if b - a > 1 else f"{a:,}"
            for a, b in zip(edges, np.r_[edges[1:], edges[-1] + 1], strict=True)
        ]
    else:
        told_as = [f"{value:,}" for value in values]
    told = [Bar(name=name, values=(float(n),), told=f"{int(n):,}") for name, n in zip(told_as, rows, strict=True) if n]
    note = f"How many pairs a {names.one} has, of those that have some."
    return figure(f"Pairs of each {names.one}", bars(("rows",), told), note=note)


def samples_section(
    sample: PairSample,
    names: PairNames,
    cards: tuple[Cards, Cards],
    row_of: Callable[[Group, Found | None], ManifestRow | None],
) -> Section:
    """Some left rows, each with the first of its pairs; `row_of` says what a left or a right row is."""
    lines = []
    for group in sample.groups:
        left = row_of(group, None)
        card = cards[0].of(left, group.left, start_s=group.start_s)
        asked = tag("div", card, class_="asked wide" if is_text(left) else "asked")
        found = []
        for pair in group.pairs:
            row = row_of(group, pair)
            note = "not scored" if np.isnan(pair.score) else f"{pair.score:.3f}"
            found.append(tag("li", cards[1].of(row, pair.right, note=note), class_="wide" if is_text(row) else None))
        lines.append(tag("li", asked, tag("ul", found, class_="cards"), class_="line-of beside"))
    rows = counted(len(sample.groups), names.one, names.many)
    words = f"{rows} drawn at random, with the first {_SHOWN} pairs of each, and scores."
    body = joined(paragraphs(words), tag("ul", lines, class_="sheet"))
    return Section(name="samples", title="Pairs", body=body)
