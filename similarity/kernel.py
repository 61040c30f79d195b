"""The kernel: for each row of a panel the best rows of a side, or all above a threshold; exact, whatever it runs on.

A scan in float32 (torch's GEMM, chunk maxima) finds candidates; scores are computed anew by similarity/exact.py.
That the scan has passed nothing over is proved row by row, by the bound of a float32 sum's error; rows where ties or
near ties keep that from being proved are scanned again in float64. So neither blocks, tiles, threads nor the processor
change the answer: by score as float32, descending, then by the row's number.

Free of I/O and of job types. `blocks` are iterated up to three times: give a list, or an object with `__iter__`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from similarity.ahead import ahead
from similarity.exact import Form, exact_scores
from similarity.rows import Rows
from similarity.settling import settle
from similarity.threads import Each, each_of
from similarity.tiles import (
    BlockSide,
    Engine,
    PanelSide,
    Precision,
    block_side,
    error_bound,
    hide_own,
    panel_side,
    standing_out,
    tile,
)

#: Candidates kept beside the `k` that are asked for: as few as still prove most rows.
_SPARE = {Precision.FP32: (1.0, 6), Precision.TF32: (2.0, 16), Precision.BF16: (4.0, 32)}
#: Beyond so many hits a row, all of a tile is sorted instead.
_MANY_HITS = 32
_RESCORED_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class TopK:
    """For each row of a panel its best rows, the best first."""

    rows: np.ndarray  # int64 (n, k): numbers of rows of the other side; -1 where it has fewer
    scores: np.ndarray  # float32 (n, k); -inf where there is none
    settled: int  # rows that float32 could not decide, done again in float64


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of rows, by left row, then score descending, then right row."""

    left: np.ndarray  # int64 (n,): numbers of rows, as the panel counts them
    right: np.ndarray  # int64 (n,)
    scores: np.ndarray  # float32 (n,)

    def __len__(self) -> int:
        return len(self.left)


class TooManyPairs(Exception):
    """A panel has more pairs above the threshold than the caller wants to hold; fewer rows, or a higher threshold."""


def top_k(
    panel: Rows,
    blocks: Iterable[Rows],
    k: int,
    *,
    form: Form = Form.COSINE,
    engine: Engine | None = None,
    no_self: bool = False,
) -> TopK:
    """The `k` best rows of `blocks` for each row of `panel`; with `no_self` never the row of its own number."""
    engine = engine or Engine()
    factor, more = _SPARE[engine.precision]
    with each_of(engine) as each:
        scan = _TopScan(panel, form, engine, int(k * factor) + more, no_self=no_self)
        for block in ahead(blocks):
            scan.see(block, each)
        rows, upper = scan.candidates()
        scores = _rescored(panel, rows, blocks, form, each)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        best = TopK(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1), 0)
        open_ = _undecided(best, upper, k)
        if not len(open_):
            return _widened(best, k)
        least = best.scores[open_, k - 1]
        found = settle(panel, open_, least, ahead(blocks), k, form=form, no_self=no_self, each=each)
    best.rows[open_], best.scores[open_] = found
    return TopK(best.rows, best.scores, len(open_))


def pairs_above(
    panel: Rows,
    blocks: Iterable[Rows],
    threshold: float,
    *,
    form: Form = Form.COSINE,
    engine: Engine | None = None,
    no_self: bool = False,
    upper: bool = False,
    most: int | None = None,
) -> Pairs:
    """Every pair whose score, as float32, is `threshold` as float32 or more.

    With `no_self` no row meets that of its own number; with `upper` only those of higher numbers: a self-join's half.
    Raises TooManyPairs as soon as there are more than `most`.
    """
    engine = engine or Engine()
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count, least = 0, np.float32(threshold)
    with each_of(engine) as each:
        side: PanelSide | None = None
        for rows in ahead(blocks):
            if upper and rows.first + len(rows) <= panel.first + 1:
                continue
            if side is None:
                side = panel_side(panel, form, engine, biased=rows.offset is not None)
            for at in range(0, len(rows), engine.tile_columns):
                block = rows.cut(at, min(len(rows), at + engine.tile_columns))
                see = _threshold_tile(panel, side, block, least, form, engine, no_self=no_self, upper=upper)
                new = [part for part in each(see, range(0, len(panel), engine.tile_rows)) if len(part[0])]
                found += new
                count += sum(len(part[0]) for part in new)
                if most is not None and count > most:
                    raise TooManyPairs(f"more than {most:,} pairs of {len(panel):,} rows")
    return _in_order(found)


def _threshold_tile(
    panel: Rows,
    side: PanelSide,
    rows: Rows,
    least: np.float32,
    form: Form,
    engine: Engine,
    *,
    no_self: bool,
    upper: bool,
) -> Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What one tile gives: left rows, right rows and scores of the pairs above `least`, for the tile's first row."""
    block = block_side(rows, form, engine)
    below = float(np.nextafter(least, np.float32(-np.inf)))  # all that rounds to `least` lies above
    floors = _rounded_down((below + side.shift) / side.gain - _bound(side, block, panel.dim, form, engine))
    bars = torch.from_numpy(floors).to(engine.device)

    def see(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        stop = min(len(panel), start + engine.tile_rows)
        scores = tile(side, start, stop, block)
        if no_self or upper:
            hide_own(scores, side.first + start, block.first, below=upper)
        row, column, _ = standing_out(scores, bars[start:stop])
        left, right = row.cpu().numpy() + start, column.cpu().numpy()
        exact = exact_scores(panel, left, rows, right, form)
        kept = exact >= least
        return left[kept] + panel.first, right[kept] + rows.first, exact[kept]

    return see


class _TopScan:
    """The running candidates of each row of a panel: the best by scan score."""

    def __init__(self, panel: Rows, form: Form, engine: Engine, keep: int, *, no_self: bool) -> None:
        self._panel, self._form, self._engine, self._keep, self._no_self = panel, form, engine, keep, no_self
        self._scores = torch.full((len(panel), keep), -torch.inf, device=engine.device)
        self._rows = torch.full((len(panel), keep), -1, dtype=torch.int64, device=engine.device)
        self._side: PanelSide | None = None
        self._bound = np.zeros(len(panel))
        self._seen = 0

    def see(self, rows: Rows, each: Each) -> None:
        """Look at the next block."""
        engine = self._engine
        if self._side is None:
            self._side = panel_side(self._panel, self._form, engine, biased=rows.offset is not None)
        for at in range(0, len(rows), engine.tile_columns):
            block = block_side(rows.cut(at, min(len(rows), at + engine.tile_columns)), self._form, engine)
            bound = _bound(self._side, block, self._panel.dim, self._form, engine)
            np.maximum(self._bound, bound, out=self._bound)
            for _ in each(self._tile(self._side, block), range(0, len(self._panel), engine.tile_rows)):
                pass
            self._seen += block.count

    def _tile(self, side: PanelSide, block: BlockSide) -> Callable[[int], None]:
        def see(start: int) -> None:
            stop = min(len(self._panel), start + self._engine.tile_rows)
            scores = tile(side, start, stop, block)
            if self._no_self:
                hide_own(scores, side.first + start, block.first)
            self._merge(start, stop, scores, block.first)

        return see

    def _merge(self, start: int, stop: int, scores: torch.Tensor, first: int) -> None:
        bars = self._scores[start:stop].amin(1)
        full = bool(bars.min() > -torch.inf)
        if full:
            row, column, value = standing_out(scores, bars)
            if not len(row):
                return
            counts = torch.bincount(row, minlength=stop - start)
            widest = int(counts.max())
        if full and widest <= _MANY_HITS * 2 and len(row) <= _MANY_HITS * (stop - start):
            place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
            values = torch.full((stop - start, widest), -torch.inf, device=row.device)
            columns = torch.full((stop - start, widest), -1, dtype=torch.int64, device=row.device)
            values[row, place], columns[row, place] = value, column + first
        else:
            values, columns = scores.topk(min(self._keep, scores.shape[1]), dim=1, sorted=False)
            columns = torch.where(values > -torch.inf, columns + first, -1)
        values = torch.cat([self._scores[start:stop], values], 1)
        columns = torch.cat([self._rows[start:stop], columns], 1)
        best, at = values.topk(self._keep, dim=1, sorted=False)
        self._scores[start:stop], self._rows[start:stop] = best, columns.gather(1, at)

    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 (n, keep), -1 for none; and float64 (n,), what the score of any other row is below, or -inf."""
        worst = self._scores.amin(1).double().cpu().numpy()
        rows = self._rows.cpu().numpy()
        if self._side is None:
            return rows, worst
        upper = (worst + self._bound) * self._side.gain - self._side.shift
        return rows, np.where(np.isfinite(worst), upper + 1e-12 * np.abs(upper), -np.inf)


def _rescored(panel: Rows, rows: np.ndarray, blocks: Iterable[Rows], form: Form, each: Each) -> np.ndarray:
    """float32 (n, m): the exact scores of the candidates `rows` (n, m); -inf where there is none."""
    order = np.argsort(rows, axis=None, kind="stable")
    numbers = rows.reshape(-1)[order]
    scores = np.full(rows.size, -np.inf, np.float32)
    for block in ahead(blocks):
        start, stop = np.searchsorted(numbers, [block.first, block.first + len(block)])

        def rescore(at: int, block: Rows = block, stop: int = stop) -> None:
            part = order[at : min(stop, at + _RESCORED_AT_ONCE)]
            right = rows.reshape(-1)[part] - block.first
            scores[part] = exact_scores(panel, part // rows.shape[1], block, right, form)

        for _ in each(rescore, range(start, stop, _RESCORED_AT_ONCE)):
            pass
    return scores.reshape(rows.shape)


def _undecided(best: TopK, upper: np.ndarray, k: int) -> np.ndarray:
    """The places of rows where one that was passed over might belong among the best."""
    if best.scores.shape[1] < k:
        return np.empty(0, np.int64)
    might_be = np.nextafter(upper.astype(np.float32), np.float32(np.inf))
    return np.flatnonzero((best.scores[:, k - 1] <= might_be) & np.isfinite(upper))


def _widened(best: TopK, k: int) -> TopK:
    missing = k - best.rows.shape[1]
    if missing <= 0:
        return best
    pad = ((0, 0), (0, missing))
    return TopK(
        np.pad(best.rows, pad, constant_values=-1),
        np.pad(best.scores, pad, constant_values=-np.inf),
        best.settled,
    )


def _in_order(found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Pairs:
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    left, right, scores = (np.concatenate(column) for column in zip(nothing, *found, strict=True))
    order = np.lexsort((right, -scores, left))
    return Pairs(left[order], right[order], scores[order])


def _bound(side: PanelSide, block: BlockSide, dim: int, form: Form, engine: Engine) -> np.ndarray:
    return error_bound(
        side,
        dim,
        form,
        engine.precision,
        longest=block.longest,
        most_bias=block.most_bias,
        least=block.least_offset,
    )


def _rounded_down(values: np.ndarray) -> np.ndarray:
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))
