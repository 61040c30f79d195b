"""Settling: rows whose best float32 cannot tell from the rest are scanned in float64, ties and all."""

from collections.abc import Iterable

import numpy as np

from similarity.exact import RATIO_FLOOR, Form, exact_scores, scored
from similarity.rows import Rows
from similarity.threads import Each

_COLUMNS = 2048  # of a tile: 8 bytes * rows * columns for each thread
_ROWS = 128
_UNIT = 2.0**-53

_Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def settle(
    panel: Rows,
    at: np.ndarray,
    least: np.ndarray,
    blocks: Iterable[Rows],
    k: int,
    *,
    form: Form,
    no_self: bool,
    each: Each,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 (m, k) and scores float32 (m, k), best first, of the rows at the places `at` of `panel`.

    `least` float32 (m,) is a score that each of them is known to have `k` times, at the least.
    """
    rows, own = panel.take(at), panel.first + at
    best: _Found = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    for block in blocks:
        few = _without_further_copies(block, k + 1)
        for start in range(0, len(few), _COLUMNS):
            columns = few[start : start + _COLUMNS]
            found = _found(rows, own, least, block, columns, form=form, no_self=no_self, each=each)
            best = _best([best, *found], k)
    return best[1].reshape(-1, k), best[2].reshape(-1, k)


def _found(
    rows: Rows,
    own: np.ndarray,
    least: np.ndarray,
    block: Rows,
    columns: np.ndarray,
    *,
    form: Form,
    no_self: bool,
    each: Each,
) -> list[_Found]:
    right = block.take(columns)
    factor = right.vectors.astype(np.float64).T

    def look(start: int) -> _Found:
        places = np.arange(start, min(len(rows), start + _ROWS))
        dots = rows.vectors[places].astype(np.float64) @ factor
        scores = scored(dots, rows, places[:, None], right, np.arange(len(right))[None, :], form)
        below = np.nextafter(least[places], np.float32(-np.inf)).astype(np.float64)
        near = scores >= below[:, None] - _slack(rows.take(places), right, form)
        if no_self:
            near &= own[places][:, None] != (block.first + columns)[None, :]
        left, hit = np.nonzero(near)
        exact = exact_scores(rows, places[left], right, hit, form)
        kept = exact >= least[places[left]]
        return places[left[kept]], block.first + columns[hit[kept]], exact[kept]

    return list(each(look, range(0, len(rows), _ROWS)))


def _slack(rows: Rows, right: Rows, form: Form) -> float:
    """How far a float64 score may be from the exact one, at most."""
    factor = (rows.dim + 32) * _UNIT * 4
    if form is Form.DOT:
        return factor * float(rows.norms.max() * right.norms.max())
    if form is Form.RATIO:
        return factor / RATIO_FLOOR
    offsets = sum(float(np.abs(side.offset).max()) for side in (rows, right) if side.offset is not None)
    scales = [float(side.scale.max()) for side in (rows, right) if side.scale is not None]
    return factor * (float(np.prod(scales)) + offsets)


def _best(found: list[_Found], k: int) -> _Found:
    """The `k` best of each left row, in order."""
    left, right, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((right, -scores, left))
    left, right, scores = left[order], right[order], scores[order]
    starts = np.flatnonzero(np.r_[True, left[1:] != left[:-1]]) if len(left) else np.empty(0, np.int64)
    rank = np.arange(len(left)) - np.repeat(starts, np.diff(np.r_[starts, len(left)]))
    kept = rank < k
    return left[kept], right[kept], scores[kept]


def _without_further_copies(block: Rows, copies: int) -> np.ndarray:
    """The places of a block's rows, ascending, but of rows alike to the bit only the first `copies`.

    The others come after those in every order, so none of them is among a row's best.
    """
    constants = [np.ascontiguousarray(c)[:, None].view(np.uint8) for c in (block.scale, block.offset) if c is not None]
    bits = np.ascontiguousarray(np.concatenate([block.vectors.view(np.uint8), *constants], axis=1))
    _, group = np.unique(bits.view(np.dtype((np.void, bits.shape[1])))[:, 0], return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])
    rank = np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))
    return np.sort(order[rank < copies])
