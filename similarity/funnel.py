"""A funnel: the best by a coarse score are scored again by a finer one, and so on; the last score is exact.

It may miss pairs, and how many is measured (similarity/recall.py); the pairs it gives have the scores that a join gives
them. Coarse scores are whole numbers, or one multiplication from such, so they too are the same on every machine; ties
go to the earlier row.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from schemas.join import Precision, Stage
from similarity import exact
from similarity.engine import Engine, int8_is_exact
from similarity.exact import ExactRows
from similarity.kernel import Block, Pairs, Tile, Wanted, joined_pairs, one_ahead, parts
from similarity.measure import Measure
from similarity.scanning import CHUNK, scanned

_NONE = torch.iinfo(torch.int64).min
#: Products of int8 that float32 sums exactly at a time: 1024 * 127^2 < 2^24.
_EXACT_DIM = 1024
_PAIRS_AT_ONCE = 2048
_ROW_BITS = 32


@dataclass(frozen=True, slots=True)
class Funnel:
    """The coarse stages, the coarsest first, and how many of each left row the next stage gets of each."""

    stages: tuple[Stage, ...]
    keep: tuple[int, ...]

    @classmethod
    def of(cls, stages: tuple[Stage, ...], top_k: int, oversample: int, rows: int) -> "Funnel":
        """`oversample` times as many as the next stage keeps, or all right rows."""
        coarse = stages[:-1]
        return cls(coarse, tuple(min(rows, top_k * oversample ** (len(coarse) - n)) for n in range(len(coarse))))


def funnel(
    left: Block,
    right: Callable[[], Iterable[Block]],
    wanted: Wanted,
    plan: Funnel,
    *,
    measure: Measure,
    engine: Engine,
    limit: Callable[[int], None] = lambda pairs: None,
) -> Pairs:
    """The best pairs of the rows of `left` that come through the funnel; `right` is read once for each stage.

    `measure` must order the right rows of each left one as their cosines do; `limit` is that of similarity.kernel.join.
    """
    engine = replace(engine, precision=Precision.INT8 if _multiplies_int8(engine) else Precision.FP32)
    with engine.pool() as pool:
        sides = list(pool.map(lambda block: _Side(block, wanted, measure, plan), parts(left, engine.tile_left)))
        for number, stage in enumerate(plan.stages):
            scans = number == 0
            for work in one_ahead(_works(right(), stage, measure, engine)):
                list(pool.map(work.scan if scans else work.score_again, sides))
            for side in sides:
                side.narrow(plan.keep[number], anew=not scans)
        for block in right():
            last = _Last(block, measure)
            list(pool.map(last.score, sides))
            limit(sum(side.tile.held for side in sides))
    return joined_pairs([side.tile.pairs() for side in sides])


def _works(right: Iterable[Block], stage: Stage, measure: Measure, engine: Engine) -> Iterator["_Work"]:
    for block in right:
        for part in parts(block, engine.tile_right):
            yield _Work(part, stage, measure, engine)


def _multiplies_int8(engine: Engine) -> bool:
    return engine.device == "cpu" and int8_is_exact()


class _Side:
    """Some left rows and the candidates of theirs so far, as keys: the score, then the row, the earlier the greater."""

    def __init__(self, rows: Block, wanted: Wanted, measure: Measure, plan: Funnel) -> None:
        self.tile = Tile(rows, wanted, measure)
        self.tile.raise_bound(np.full(len(rows), -np.inf, np.float32))  # to the threshold
        self.coarse = {stage: coarse_rows(self.tile.exact, len(rows), stage) for stage in plan.stages}
        self._keep = plan.keep[0]
        self._keys = torch.full((len(rows), self._keep), _NONE, dtype=torch.int64)
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []  # places of rows in order, and keys
        self._count = 0
        self._flat = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.bound = torch.full((len(rows),), torch.iinfo(torch.int32).min, dtype=torch.int32)

    def add(self, at: torch.Tensor, ordered: torch.Tensor, right: torch.Tensor) -> None:
        """Take in candidates: places of left rows in order, scores as ordered int32, numbers of right rows."""
        allowed = torch.from_numpy(self.tile.allowed(at.numpy(), right.numpy()))
        at, ordered, right = at[allowed], ordered[allowed], right[allowed]
        self._pending.append((at, _keys(ordered, right)))
        self._count += len(at)
        if self._count > len(self._keys) * self._keep:
            self._merge()

    def add_all(self, ordered: torch.Tensor, first: int) -> None:
        """Take in the best of a whole tile, of right rows from `first` on: int32 (left, right), ordered."""
        right = torch.arange(first, first + ordered.shape[1])
        keys = _keys(ordered, right[None, :])
        at, columns = self.tile.own(first, ordered.shape[1])
        keys[torch.from_numpy(at), torch.from_numpy(columns)] = _NONE
        best = keys.topk(min(self._keep, keys.shape[1]), dim=1).values
        self._merge()
        self._keys = torch.cat([self._keys, best], 1).topk(self._keep, dim=1).values
        self.bound = (self._keys[:, -1] >> _ROW_BITS).to(torch.int32)

    @property
    def is_open(self) -> bool:
        """Whether a row has fewer candidates than it may: then all are, and no bound says which to look at."""
        return bool((self._keys[:, -1] == _NONE).any())

    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """The places of left rows and the numbers of their candidates, by right row."""
        at, column = (self._keys != _NONE).nonzero(as_tuple=True)
        right = 2**_ROW_BITS - 1 - (self._keys[at, column] & (2**_ROW_BITS - 1))
        order = torch.argsort(right, stable=True)
        return at[order].numpy(), right[order].numpy()

    def score_again(self, at: np.ndarray, right: np.ndarray, ordered: torch.Tensor) -> None:
        """Take in finer scores of candidates; what `narrow` leaves is the best by them."""
        order = np.argsort(at, kind="stable")
        keys = _keys(ordered, torch.from_numpy(right))
        self._pending.append((torch.from_numpy(at[order]), keys[torch.from_numpy(order)]))

    def narrow(self, keep: int, *, anew: bool) -> None:
        """Keep the best so many of each row; `anew`: of those alone that were scored again."""
        if anew:
            self._keys = torch.full((len(self._keys), keep), _NONE, dtype=torch.int64)
            self._keep = keep
        self._merge()
        self._flat = self.candidates()

    def within(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """The candidates of `block`."""
        at, right = self._flat
        begin, end = np.searchsorted(right, [block.first, block.first + len(block)])
        return at[begin:end], right[begin:end]

    def _merge(self) -> None:
        if not self._pending:
            return
        counts = [torch.bincount(at, minlength=len(self._keys)) for at, _ in self._pending]
        filled = torch.full((len(self._keys),), self._keep)
        widest = int(torch.stack(counts).sum(0).max())
        wide = torch.full((len(self._keys), self._keep + widest), _NONE, dtype=torch.int64)
        wide[:, : self._keep] = self._keys
        for (at, keys), count in zip(self._pending, counts, strict=True):
            before = count.cumsum(0) - count
            wide[at, filled[at] + torch.arange(len(at)) - before[at]] = keys
            filled += count
        self._pending, self._count = [], 0
        self._keys = wide.topk(self._keep, dim=1).values
        self.bound = (self._keys[:, -1] >> _ROW_BITS).to(torch.int32)


@dataclass(frozen=True, slots=True)
class CoarseRows:
    """Rows as a stage takes them."""

    values: torch.Tensor  # int8 (n, dim)
    scale: torch.Tensor  # float32 (n,): of the values


def coarse_rows(rows: ExactRows, count: int, stage: Stage) -> CoarseRows:
    """`count` rows as `stage` takes them: their signs, or int8 with a scale for each row."""
    if stage is Stage.BINARY:
        signs = [rows.unscaled(slice(at, at + 512)) >= 0 for at in range(0, count, 512)]
        whole = torch.from_numpy(np.concatenate(signs))
        return CoarseRows(whole.to(torch.int8).mul_(2).sub_(1), torch.ones(count))
    dim = rows.unscaled(slice(0, 1)).shape[1]
    near = scanned(rows, count, dim, 1, Engine(precision=Precision.INT8))
    return CoarseRows(near.values, torch.from_numpy(near.scale.astype(np.float32)))


class _Work:
    """A block of right rows at one stage."""

    def __init__(self, block: Block, stage: Stage, measure: Measure, engine: Engine) -> None:
        self._block, self._stage, self._engine = block, stage, engine
        self._rows = coarse_rows(ExactRows(block.vectors, measure.right_mean, measure.unit), len(block), stage)
        padding = -len(block) % CHUNK
        values = torch.cat([self._rows.values, self._rows.values.new_zeros(padding, self._rows.values.shape[1])])
        self._values = values.to(engine.device)
        self._scale = torch.cat([self._rows.scale, torch.zeros(padding)]).to(engine.device)

    def scan(self, side: _Side) -> None:
        """Give `side` the rows of this block that are among its best so far."""
        whole = whole_products(side.coarse[self._stage].values.to(self._engine.device), self._values, self._engine)
        ordered = whole if self._stage is Stage.BINARY else _ordered(whole.float().mul_(self._scale))
        if side.is_open:
            side.add_all(ordered[:, : len(self._block)].cpu(), self._block.first)
            return
        chunked = ordered.view(len(ordered), -1, CHUNK)
        bound = side.bound.to(ordered.device)  # a later row with the same score comes after
        rows, chunks = (chunked.amax(dim=2) > bound[:, None]).nonzero(as_tuple=True)
        values = chunked[rows, chunks]
        picked, within = (values > bound[rows][:, None]).nonzero(as_tuple=True)
        columns = chunks[picked] * CHUNK + within
        real = columns < len(self._block)
        at, found = rows[picked][real].cpu(), values[picked, within][real].cpu()
        side.add(at, found, self._block.first + columns[real].cpu())

    def score_again(self, side: _Side) -> None:
        """Score the candidates of this block by this stage."""
        at, right = side.within(self._block)
        mine = side.coarse[self._stage]
        for begin in range(0, len(at), _PAIRS_AT_ONCE):
            some = slice(begin, begin + _PAIRS_AT_ONCE)
            rows, columns = torch.from_numpy(at[some]), torch.from_numpy(right[some] - self._block.first)
            x = mine.values.index_select(0, rows).to(torch.int32)
            whole = x.mul_(self._rows.values.index_select(0, columns)).sum(1)
            side.score_again(at[some], right[some], _ordered(whole.float() * self._rows.scale[columns]))


class _Last:
    """A block of right rows whose candidates get their final scores."""

    def __init__(self, block: Block, measure: Measure) -> None:
        self._block, self._measure = block, measure
        self._exact = ExactRows(block.vectors, measure.right_mean, measure.unit)

    def score(self, side: _Side) -> None:
        at, right = side.within(self._block)
        columns = right - self._block.first
        c = exact.products(side.tile.exact, at, self._exact, columns)
        add = self._measure.right(self._block.first, len(self._block))[columns]
        side.tile.add(at, right, self._measure.score(c, side.tile.terms.of(at), add).astype(np.float32))


def whole_products(left: torch.Tensor, right: torch.Tensor, engine: Engine) -> torch.Tensor:
    """int32 (left, right): the products of int8 rows, exactly; where there are none of int8, by float32 in parts."""
    if engine.precision is Precision.INT8:
        return engine.products(left, right)
    total = torch.zeros(len(left), len(right), dtype=torch.int32, device=left.device)
    for at in range(0, left.shape[1], _EXACT_DIM):
        some = slice(at, at + _EXACT_DIM)
        total += (left[:, some].float() @ right[:, some].float().T).to(torch.int32)
    return total


def _keys(ordered: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """int64: greater for a greater score, and for an earlier right row of the same score."""
    keys: torch.Tensor = (ordered.long() << _ROW_BITS) + (2**_ROW_BITS - 1 - right)
    return keys


def _ordered(scores: torch.Tensor) -> torch.Tensor:
    """float32 as int32 in the same order."""
    bits = scores.view(torch.int32)
    ordered: torch.Tensor = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return ordered
