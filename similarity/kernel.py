"""The kernel: which right rows score best with each left row, exactly, whatever the blocks, threads and machine.

A block of fast products only says which pairs may count. Each of these is scored again in float64 and rounded to
float32: that is its score. How far the two may be apart is bounded (similarity/scanning.py), so none is missed.
Order: score descending, then right row ascending.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from schemas.errors import Refused
from schemas.join import Precision
from similarity import exact
from similarity.engine import Engine
from similarity.exact import ExactRows
from similarity.measure import COSINE, ROUNDOFF, Measure
from similarity.scanning import CHUNK, gamma, product_error, scanned

#: Chunks that are looked into at a time: more would only take memory.
_CHUNKS_AT_ONCE = 16_384
#: Pairs that are looked at again in float32 at a time.
_PAIRS_AT_ONCE = 512
#: Blocks of right rows in memory as they are scanned, beside the one that is made ready.
_SCANS_AT_ONCE = 1
_NO_ROW = np.iinfo(np.int64).max
Work = TypeVar("Work")

#: Right rows of a tile of which the best are looked for before there is a bound.
_FIRST_COLUMNS = 4096


@dataclass(frozen=True, slots=True)
class Block:
    """Some right rows in a row: float32 (n, dim), and the number of the first."""

    first: int
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of rows, by left row, then score descending, then right row."""

    left: np.ndarray  # int64
    right: np.ndarray  # int64
    scores: np.ndarray  # float32

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which pairs are wanted: the `top_k` best of each left row, those of at least `threshold`, or both at once.

    `after_self`: only right rows with a greater number than the left one (a set joined with itself, each pair once);
    `not_self`: all but the row itself.
    """

    top_k: int | None = None
    threshold: float | None = None
    after_self: bool = False
    not_self: bool = False

    @property
    def floor(self) -> np.float32:
        """The least score that counts."""
        return np.float32(-np.inf if self.threshold is None else self.threshold)


def join(
    left: Block,
    right: Iterable[Block],
    wanted: Wanted,
    *,
    measure: Measure = COSINE,
    engine: Engine | None = None,
    limit: Callable[[int], None] = lambda pairs: None,
) -> Pairs:
    """The wanted pairs of the rows of `left` with those of `right`, whose blocks come in the order of their rows.

    `limit` is told how many pairs are held after each block, and may raise. Raises Refused for a score beyond float32.
    """
    engine = engine or Engine()
    with engine.pool() as pool:
        rows = min(engine.tile_left, -(-len(left) // engine.threads) or 1)  # a thread has one tile at a time
        tiles = list(pool.map(lambda block: _ScannedTile(block, wanted, measure, engine), parts(left, rows)))
        scans = (_Scan(part, measure, engine) for block in right for part in parts(block, engine.tile_right))
        under_way: deque[list[Future[None]]] = deque()
        for scan in one_ahead(scans):  # a thread without a tile of this scan begins with the next one
            under_way.append([pool.submit(scan.of, tile) for tile in tiles])
            if len(under_way) > _SCANS_AT_ONCE:
                _wait(under_way.popleft())
            limit(sum(tile.held for tile in tiles))
        while under_way:
            _wait(under_way.popleft())
        limit(sum(tile.held for tile in tiles))
    return joined_pairs([tile.pairs() for tile in tiles])


def _wait(futures: "list[Future[None]]") -> None:
    for future in futures:
        future.result()


def parts(block: Block, size: int) -> Iterator[Block]:
    """A block in blocks of at most `size` rows."""
    for at in range(0, len(block), size):
        yield Block(block.first + at, block.vectors[at : at + size])


def one_ahead(works: Iterator[Work]) -> Iterator[Work]:
    """Each work, while the next one is read and made ready beside it."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming = pool.submit(next, works, None)
        while (work := coming.result()) is not None:
            coming = pool.submit(next, works, None)
            yield work


def joined_pairs(found: list[Pairs]) -> Pairs:
    """Pairs of different left rows, put together."""
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return Pairs(*(np.concatenate([getattr(part, name) for part in found]) for name in ("left", "right", "scores")))


class Tile:
    """Some left rows and the best pairs of theirs so far."""

    def __init__(self, rows: Block, wanted: Wanted, measure: Measure) -> None:
        self.rows, self._wanted, self._measure = rows, wanted, measure
        self.exact = ExactRows(rows.vectors, measure.left_mean, measure.unit)
        self.terms = measure.left(rows.first, len(rows))
        self._kept: list[Pairs] = []  # threshold alone: nothing is ever dropped
        k = wanted.top_k or 0
        self._scores = np.full((len(rows), k), -np.inf, np.float32)
        self._right = np.full((len(rows), k), _NO_ROW, np.int64)
        self.bound = np.full(len(rows), -np.inf if k else wanted.floor)  # by left row: no lesser score can count

    @property
    def top_k(self) -> int:
        return self._scores.shape[1]

    @property
    def held(self) -> int:
        return sum(map(len, self._kept)) + int((self._right != _NO_ROW).sum())

    @property
    def may_refuse(self) -> bool:
        """Whether there are pairs that are not wanted, whatever their score."""
        return self._wanted.after_self or self._wanted.not_self

    def allowed(self, at: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Which pairs of a row of this tile, by its place, and a right row are wanted at all."""
        own = self.rows.first + at
        if self._wanted.after_self:
            return right > own
        return right != own if self._wanted.not_self else np.ones(len(at), np.bool_)

    def own(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Where, among `count` right rows from `first` on, a row of this tile meets itself and that is not wanted."""
        rows = np.arange(max(first, self.rows.first), min(first + count, self.rows.first + len(self.rows)))
        rows = rows if self._wanted.not_self else rows[:0]
        return rows - self.rows.first, rows - first

    def may_skip(self, block: Block) -> bool:
        return self._wanted.after_self and block.first + len(block) <= self.rows.first + 1

    def add(self, at: np.ndarray, right: np.ndarray, scores: np.ndarray) -> None:
        """Take in pairs with their final scores."""
        good = (scores >= self.bound[at]) & self.allowed(at, right)
        at, right, scores = at[good], right[good], scores[good]
        if not len(at):
            return
        if self._wanted.top_k:
            self._merge(at, right, scores)
        else:
            self._kept.append(Pairs(at, right, scores))

    def _merge(self, at: np.ndarray, right: np.ndarray, scores: np.ndarray) -> None:
        touched, place = np.unique(at, return_inverse=True)
        k = self._scores.shape[1]
        rows = np.concatenate([np.repeat(np.arange(len(touched)), k), place])
        all_scores = np.concatenate([self._scores[touched].reshape(-1), scores])
        all_right = np.concatenate([self._right[touched].reshape(-1), right])
        order = np.lexsort((all_right, -all_scores, rows))
        begins = np.searchsorted(rows[order], np.arange(len(touched)))
        best = order[begins[:, None] + np.arange(k)]  # each row has k at least: its old ones
        self._scores[touched], self._right[touched] = all_scores[best], all_right[best]
        self.raise_bound(self._scores[:, -1])

    def raise_bound(self, scores: np.ndarray) -> None:
        """Take note of scores, by left row, that as many pairs as are wanted reach."""
        reached = np.minimum(scores, np.finfo(np.float32).max)  # what is beyond float32 must be seen, to be refused
        self.bound = np.maximum(self.bound, np.maximum(reached, self._wanted.floor))

    def pairs(self) -> Pairs:
        """All that was taken in, in order; raises Refused for a score that float32 cannot hold."""
        if self._wanted.top_k:
            found = self._right != _NO_ROW
            left = np.repeat(self.rows.first + np.arange(len(self.rows)), found.sum(axis=1))
            pairs = Pairs(left, self._right[found], self._scores[found])
        else:
            kept = joined_pairs(self._kept)
            order = np.lexsort((kept.right, -kept.scores, kept.left))
            pairs = Pairs(self.rows.first + kept.left[order], kept.right[order], kept.scores[order])
        if not np.isfinite(pairs.scores).all():
            row = int(pairs.left[~np.isfinite(pairs.scores)][0])
            raise Refused(
                f"left row {row} has a product beyond float32 (3.4e38); use --score cosine, or shorter vectors"
            )
        return pairs


class _ScannedTile(Tile):
    """Left rows as a scan multiplies them."""

    def __init__(self, rows: Block, wanted: Wanted, measure: Measure, engine: Engine) -> None:
        super().__init__(rows, wanted, measure)
        self.scanned = scanned(self.exact, len(rows), rows.vectors.shape[1], 1, engine)
        self.lock = threading.Lock()  # two scans may be at it, in any order: what is best does not depend on it


class _Scan:
    """A block of right rows, scanned against tiles of left rows."""

    def __init__(self, block: Block, measure: Measure, engine: Engine) -> None:
        self._block, self._measure, self._engine = block, measure, engine
        self._dim = block.vectors.shape[1]
        self._exact_rows = ExactRows(block.vectors, measure.right_mean, measure.unit)
        self._scanned = scanned(self._exact_rows, len(block), self._dim, CHUNK, engine)
        self._add = measure.right(block.first, len(block))
        padded = np.zeros(len(self._scanned.values))
        padded[: len(block)] = self._add
        self._most_add = np.abs(padded).reshape(-1, CHUNK).max(axis=1, initial=0.0)
        self._add_row = torch.from_numpy(padded.astype(np.float32)).to(engine.device)
        scale = np.repeat(self._scanned.scale, CHUNK)
        if not measure.unit:  # only the order of the columns is asked for, and float32 does not hold all lengths
            scale /= scale.max(initial=np.finfo(np.float64).tiny)
        self._column_scale = torch.from_numpy(scale.astype(np.float32)).to(engine.device)

    def of(self, tile: _ScannedTile) -> None:
        """Give `tile` the pairs of this block that count."""
        if len(self._block) and not tile.may_skip(self._block):
            with tile.lock:
                self._scan(tile)

    def _scan(self, tile: _ScannedTile) -> None:
        products = self._engine.products(tile.scanned.values, self._scanned.values)
        if tile.top_k and not np.isfinite(tile.bound).all():
            tile.raise_bound(self._reached(tile, products))
        values, least = self._least(tile, products)
        for at, columns in _above(values, least, len(self._block)):
            at, columns = self._looked_at_again(tile, at, columns)
            tile.add(at, self._block.first + columns, self._exact(tile, at, columns))

    def _least(self, tile: _ScannedTile, products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of pairs, and (left, chunks) what they must reach for their pair to count, on the device."""
        line = self._measure.line(tile.bound, tile.terms)
        near = gamma(self._engine.precision, self._dim)
        error = abs(line.times) * product_error(tile.scanned, self._scanned, near)
        if not line.weight.any():  # the right rows have no terms of their own
            scale = line.times * np.outer(tile.scanned.scale, self._scanned.scale)
            least = (line.least[:, None] - error) / scale
            return products, _rounded_down(least, products)
        one = abs(line.times) * np.outer(tile.scanned.length, self._scanned.length)
        error += 8 * ROUNDOFF * (one + np.outer(np.abs(line.weight), self._most_add))
        values = products.float() if products.dtype != torch.float32 else products
        values *= self._on_device(line.times * tile.scanned.scale)[:, None]
        values *= self._column_scale
        values.addcmul_(self._on_device(line.weight)[:, None], self._add_row)
        return values, _rounded_down(line.least[:, None] - error, values)

    def _on_device(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self._engine.device)

    def _reached(self, tile: _ScannedTile, products: torch.Tensor) -> np.ndarray:
        """A score, by left row, that `top_k` pairs of this block reach: without a bound all pairs would count.

        -inf where the block has too few rows that are wanted.
        """
        count = min(len(self._block), _FIRST_COLUMNS)
        some = min(tile.top_k * (2 if tile.may_refuse else 1), count)
        if some < tile.top_k:
            return np.full(len(tile.rows), -np.inf, np.float32)
        columns = self._nearest(products, count, some).cpu().numpy().reshape(-1)
        at = np.repeat(np.arange(len(tile.rows)), some)
        found = self._exact(tile, at, columns)
        found[~tile.allowed(at, self._block.first + columns)] = -np.inf
        reached: np.ndarray = np.partition(found.reshape(-1, some), some - tile.top_k, axis=1)[:, some - tile.top_k]
        return reached

    def _nearest(self, products: torch.Tensor, count: int, some: int) -> torch.Tensor:
        """int64 (left, some): columns, below `count`, of the greatest products, or nearly so: each of another chunk."""
        near = products[:, :count].float() * self._column_scale[:count]
        chunks = count // CHUNK
        if 2 * some > chunks:
            return torch.topk(near, some, dim=1, sorted=False).indices
        most, column = near[:, : chunks * CHUNK].view(len(near), chunks, CHUNK).max(dim=2)
        best = torch.topk(most, some, dim=1, sorted=False).indices
        return best * CHUNK + column.gather(1, best)

    def _looked_at_again(
        self, tile: _ScannedTile, at: np.ndarray, columns: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Those of the pairs that count in float32 too, which is coarser than float64 and takes a third of the time."""
        if self._engine.precision is Precision.FP32:
            return at, columns
        one, other = tile.scanned, self._scanned
        chunks = columns // CHUNK
        c = np.empty(len(at))
        for begin in range(0, len(at), _PAIRS_AT_ONCE):
            some = slice(begin, begin + _PAIRS_AT_ONCE)
            x = one.near.index_select(0, torch.from_numpy(at[some]))
            y = other.near.index_select(0, torch.from_numpy(columns[some]))
            c[some] = x.mul_(y).sum(1).numpy()
        c *= one.near_scale[at] * other.near_scale[chunks]
        length, longest = one.length[at], other.length[chunks]
        c += (gamma(Precision.FP32, self._dim) + 4 * ROUNDOFF) * 1.01 * length * longest
        most = self._measure.score(c, tile.terms.of(at), self._add[columns])
        good = most + 4 * ROUNDOFF * np.abs(most) >= tile.bound[at]
        return at[good], columns[good]

    def _exact(self, tile: _ScannedTile, at: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """float32: the scores of pairs, by their places in the tile and in this block; rounded once."""
        c = exact.products(tile.exact, at, self._exact_rows, columns)
        with np.errstate(over="ignore"):  # a score beyond float32 is refused, if it is among those that are wanted
            return self._measure.score(c, tile.terms.of(at), self._add[columns]).astype(np.float32)


def _rounded_down(least: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """`least` as values of the type of `like`, or float32, that are no greater."""
    if like.dtype == torch.int32:
        whole = np.clip(np.floor(least), -(2.0**31), 2.0**31 - 1).astype(np.int32)
        return torch.from_numpy(whole).to(like.device)
    with np.errstate(over="ignore"):
        near = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
    return torch.from_numpy(near).to(like.device)


def _above(values: torch.Tensor, least: torch.Tensor, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The places (row, column) of values that reach the `least` of their row and chunk, for columns below `count`."""
    chunked = values.view(len(values), -1, CHUNK)
    rows, chunks = (chunked.amax(dim=2) >= least).nonzero(as_tuple=True)
    for begin in range(0, len(rows), _CHUNKS_AT_ONCE):
        part, of = rows[begin : begin + _CHUNKS_AT_ONCE], chunks[begin : begin + _CHUNKS_AT_ONCE]
        picked, within = (chunked[part, of] >= least[part, of][:, None]).nonzero(as_tuple=True)
        columns = of[picked] * CHUNK + within
        real = columns < count
        yield part[picked][real].cpu().numpy(), columns[real].cpu().numpy()
