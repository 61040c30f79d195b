"""The pool: vectors of a sample of a job's rows, from which maps, distributions, copies and outliers are taken."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from report.published import Piece, PublishedVectors, spread
from schemas.rows import Modality

#: Multiplications that comparing all vectors of a modality with each other may take, and rows that are enough.
_PRODUCTS, _MOST_ROWS = 3e10, 8192
#: Files that a modality's rows are drawn from, at most.
_FILES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One row of the pool: where it lies, and what it is called."""

    id: str
    modality: Modality
    shard: int
    start_s: float | None  # of a segment
    kept: tuple[object, ...]  # values of the job's kept columns, in their order


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The rows of one modality."""

    modality: Modality
    rows: list[Seen]
    vectors: np.ndarray  # float32 (n, dim), of unit length
    of: int  # vectors of the modality that are published

    @property
    def is_all(self) -> bool:
        return len(self.rows) >= self.of


@dataclass(slots=True)
class _Drawn:
    rows: list[Seen] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)


def pool_rows(dim: int) -> int:
    """Rows of a modality that are enough, and not too many to compare each with each."""
    return int(min(_MOST_ROWS, math.sqrt(_PRODUCTS / dim)))


def draw_pool(
    column: PublishedVectors, modality: Modality, keys: Sequence[str], of: int, *, wanted: int = 0, seed: int = 0
) -> Pool:
    """Rows of `modality` from the files `keys`, which hold `of` vectors: all, or `wanted` of them (0: enough)."""
    wanted, drawn = wanted or pool_rows(column.job.record.space.dim), _Drawn()
    kept = [k.name for k in column.job.record.spec.keep]
    rng = np.random.default_rng(seed)
    if of <= wanted:
        for key in keys:
            for piece in column.pieces(key, kept):
                _add(drawn, piece, modality, kept)
    else:
        each = math.ceil(wanted / min(len(keys), _FILES))
        for key in spread(keys):
            if len(drawn.rows) >= wanted:
                break
            _add(drawn, column.some(key, each, rng, kept), modality, kept)
    vectors = np.concatenate(drawn.vectors) if drawn.vectors else np.zeros((0, column.job.record.space.dim), np.float32)
    return Pool(modality=modality, rows=drawn.rows[:wanted], vectors=vectors[:wanted], of=of)


def _add(drawn: _Drawn, piece: Piece, modality: Modality, kept: Sequence[str]) -> None:
    values = list(zip(*(piece.table[name].to_pylist() for name in kept), strict=True)) if kept else []
    drawn.vectors.append(piece.vectors)
    for n, id_ in enumerate(piece.ids.to_pylist()):
        drawn.rows.append(
            Seen(
                id=id_,
                modality=modality,
                shard=piece.shard,
                start_s=piece.starts[n],
                kept=values[n] if values else (),
            )
        )
