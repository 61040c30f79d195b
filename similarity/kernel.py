"""The kernel: which right rows score best with each left row, exactly, whatever the blocks, threads and machine.

A block of products in float32 only says which pairs may count. Each of these is scored again in float64 and rounded to
float32: that is its score. How far the two may be apart is bounded (`Measure.error`), so none is missed.
Order: score descending, then right row ascending.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from similarity.measure import COSINE, Measure

#: Rows of a tile of scores: 16 MiB of float32 together with TILE_RIGHT.
TILE_LEFT = 1024
TILE_RIGHT = 4096
#: Scores are looked at by their greatest in so many: reading it costs a sixteenth of reading them.
_CHUNK = 64
#: Chunks that are looked into, and values of vectors that are scored again, at a time: more would only take memory.
_CHUNKS_AT_ONCE = 16_384
_VALUES_AT_ONCE = 2**20
_NO_ROW = -1


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
    threads: int = 1,
    limit: Callable[[int], None] = lambda pairs: None,
) -> Pairs:
    """The wanted pairs of the rows of `left` with those of `right`, whose blocks come in the order of their rows.

    `limit` is told how many pairs are held after each block, and may raise.
    """
    tiles = [
        _Tile(Block(left.first + at, left.vectors[at : at + TILE_LEFT]), wanted, measure)
        for at in range(0, len(left), TILE_LEFT)
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads of one each beat one of two: docs/joins.md
    try:
        with ThreadPoolExecutor(threads) as pool:
            for scan in _one_ahead(_Scan(part, measure) for block in right for part in _parts(block)):
                list(pool.map(scan.of, tiles))
                limit(sum(tile.held for tile in tiles))
    finally:
        torch.set_num_threads(before)
    return _joined([tile.pairs() for tile in tiles])


def _parts(block: Block) -> Iterator[Block]:
    for at in range(0, len(block), TILE_RIGHT):
        yield Block(block.first + at, block.vectors[at : at + TILE_RIGHT])


def _one_ahead(scans: Iterator["_Scan"]) -> Iterator["_Scan"]:
    """Each scan, while the next one is read and made ready beside it."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, scans, None)
        while (scan := coming.result()) is not None:
            coming = pool.submit(next, scans, None)
            yield scan


def _joined(parts: list[Pairs]) -> Pairs:
    if not parts:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("left", "right", "scores")))


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """float64 (n, dim) `vectors` of length one; those of length zero as they are."""
    lengths = _lengths(vectors)[:, None]
    unit: np.ndarray = vectors / np.where(lengths > 0, lengths, 1.0)
    return unit


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(_dots(vectors, vectors)))


def _dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 (n,): the dot products of the rows, summed by halves: the same bits on every machine."""
    sums, width = x * y, x.shape[1]
    while width > 1:
        half = (width + 1) // 2
        sums[:, : width - half] += sums[:, half:width]
        width = half
    return np.array(sums[:, 0] if width else np.zeros(len(sums)))


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float32 (n,): the cosines of the rows of two (n, dim) arrays, with the very bits that a join gives a pair."""
    return _dots(unit_length(x.astype(np.float64)), unit_length(y.astype(np.float64))).astype(np.float32)


class _Side:
    """Vectors as the measure takes them: float32 for the scan, float64 for the score of a pair."""

    def __init__(self, vectors: np.ndarray, mean: np.ndarray | None, unit: bool) -> None:
        self._vectors, self._mean = vectors, mean
        self._unit = unit
        exact = self.exact(slice(None))
        self.lengths = _lengths(exact)
        self.scanned = torch.from_numpy(exact.astype(np.float32))

    def exact(self, rows: np.ndarray | slice) -> np.ndarray:
        """float64 (n, dim) of these rows, of unit length where the measure is the cosine."""
        wide = self._vectors[rows].astype(np.float64)
        if self._mean is not None:
            wide = unit_length(wide) - self._mean
        return unit_length(wide) if self._unit else wide


class _Tile:
    """Some left rows and the best pairs of theirs so far."""

    def __init__(self, rows: Block, wanted: Wanted, measure: Measure) -> None:
        self.rows, self._wanted, self._measure = rows, wanted, measure
        self.side = _Side(rows.vectors, measure.left_mean, measure.unit)
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

    def allowed(self, at: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Which pairs of a row of this tile, by its place, and a right row are wanted at all."""
        own = self.rows.first + at
        if self._wanted.after_self:
            return right > own
        return right != own if self._wanted.not_self else np.ones(len(at), np.bool_)

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
        self.bound = np.maximum(self.bound, np.maximum(scores, self._wanted.floor))

    def pairs(self) -> Pairs:
        """All that was taken in, in order."""
        if self._wanted.top_k:
            found = self._right != _NO_ROW
            left = np.repeat(self.rows.first + np.arange(len(self.rows)), found.sum(axis=1))
            return Pairs(left, self._right[found], self._scores[found])
        kept = _joined(self._kept)
        order = np.lexsort((kept.right, -kept.scores, kept.left))
        return Pairs(self.rows.first + kept.left[order], kept.right[order], kept.scores[order])


class _Scan:
    """A block of right rows, scanned against tiles of left rows."""

    def __init__(self, block: Block, measure: Measure) -> None:
        self._block, self._measure = block, measure
        self._side = _Side(block.vectors, measure.right_mean, measure.unit)
        self._longest = float(self._side.lengths.max(initial=0.0))
        self._add = measure.right(block.first, len(block))

    def of(self, tile: _Tile) -> None:
        """Give `tile` the pairs of this block that count."""
        if tile.may_skip(self._block):
            return
        scores = self._scores(tile)
        dim = self._block.vectors.shape[1]
        error = self._measure.error(dim, tile.terms, self._add, tile.side.lengths * self._longest)
        if tile.top_k and not np.isfinite(tile.bound).all():
            tile.raise_bound(self._reached(tile, scores))
        least = np.nextafter((tile.bound - error).astype(np.float32), np.float32(-np.inf))
        for at, columns in _above(scores, least):
            tile.add(at, self._block.first + columns, self._exact(tile, at, columns))

    def _scores(self, tile: _Tile) -> torch.Tensor:
        """float32 (left, right) of the tile, near to the true ones."""
        products = tile.side.scanned @ self._side.scanned.T
        if self._measure.is_plain:
            return products
        scored = self._measure.score(products.numpy(), tile.terms.as_column(), self._add.astype(np.float32))
        return torch.from_numpy(np.asarray(scored, np.float32))

    def _reached(self, tile: _Tile, scores: torch.Tensor) -> np.ndarray:
        """A score, by left row, that `top_k` pairs of this block reach: without a bound all pairs would count.

        -inf where the block has too few rows that are wanted.
        """
        some = min(2 * tile.top_k, scores.shape[1])  # twice: some may not be wanted
        columns = torch.topk(scores, some, dim=1, sorted=False).indices.numpy().reshape(-1)
        at = np.repeat(np.arange(len(tile.rows)), some)
        found = self._exact(tile, at, columns)
        found[~tile.allowed(at, self._block.first + columns)] = -np.inf
        if some < tile.top_k:
            return np.full(len(tile.rows), -np.inf, np.float32)
        reached: np.ndarray = np.partition(found.reshape(-1, some), some - tile.top_k, axis=1)[:, some - tile.top_k]
        return reached

    def _exact(self, tile: _Tile, at: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The scores of pairs, by their places in the tile and in this block: float64, rounded to float32 once."""
        scores = np.empty(len(at), np.float32)
        step = max(64, _VALUES_AT_ONCE // self._block.vectors.shape[1])
        for begin in range(0, len(at), step):
            rows, those = at[begin : begin + step], columns[begin : begin + step]
            c = _dots(tile.side.exact(rows), self._side.exact(those))
            scores[begin : begin + step] = self._measure.score(c, tile.terms.of(rows), self._add[those])
        return scores


def _above(scores: torch.Tensor, least: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The places (row, column) of scores that reach their row's `least`, chunk by chunk of columns."""
    bound = torch.from_numpy(least)[:, None]
    whole = scores.shape[1] // _CHUNK * _CHUNK
    if whole:
        chunked = scores[:, :whole].reshape(len(scores), -1, _CHUNK)
        rows, chunks = (chunked.amax(dim=2) >= bound).nonzero(as_tuple=True)
        for begin in range(0, len(rows), _CHUNKS_AT_ONCE):
            part, of = rows[begin : begin + _CHUNKS_AT_ONCE], chunks[begin : begin + _CHUNKS_AT_ONCE]
            picked, within = (chunked[part, of] >= bound[part]).nonzero(as_tuple=True)
            yield part[picked].numpy(), (of[picked] * _CHUNK + within).numpy()
    if whole < scores.shape[1]:
        rows, columns = (scores[:, whole:] >= bound).nonzero(as_tuple=True)
        yield rows.numpy(), (columns + whole).numpy()
