"""Neighbours: the rows nearest to some, exactly, over as many published vectors as there is time for."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from report.pool import Seen
from report.published import Piece, PublishedVectors, spread
from schemas.rows import Modality

#: Raw bytes of vectors that are read for it, and seconds that it may take.
_BYTES, _SECONDS = 1.5 * 2**30, 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A row near another one."""

    row: Seen
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """What was found for each row that was asked for."""

    asked: list[Seen]
    same: list[list[Near]]  # of its own modality, the nearest first
    other: list[list[Near]]  # of the others
    searched: int  # vectors that were looked at
    of: int  # vectors that are published


def find_nearest(
    column: PublishedVectors,
    asked: Sequence[Seen],
    vectors: np.ndarray,
    files: Mapping[Modality, Sequence[str]],
    of: int,
    *,
    same: int = 5,
    other: int = 3,
) -> Nearest:
    """The nearest rows of `asked`, whose vectors are float32 (n, dim) of unit length; files are taken evenly."""
    found = [_Best(same, other) for _ in asked]
    kept = [k.name for k in column.job.record.spec.keep]
    began, searched, left = time.monotonic(), 0, _BYTES
    for modality, key in spread([(modality, key) for modality, keys in files.items() for key in keys]):
        if left <= 0 or time.monotonic() - began > _SECONDS:
            break
        for piece in column.pieces(key, kept):
            scores = vectors @ piece.vectors.T
            for query, line, best in zip(asked, scores, found, strict=True):
                best.take(query, line, piece, modality, kept)
            searched += len(piece.vectors)
            left -= len(piece.vectors) * column.row_bytes
    return Nearest(
        asked=list(asked),
        same=[best.same for best in found],
        other=[best.other for best in found],
        searched=searched,
        of=of,
    )


class _Best:
    """The nearest rows of one row so far."""

    def __init__(self, same: int, other: int) -> None:
        self._most = {True: same, False: other}
        self.same: list[Near] = []
        self.other: list[Near] = []

    def take(self, query: Seen, line: np.ndarray, piece: Piece, modality: Modality, kept: Sequence[str]) -> None:
        is_same = query.modality is modality
        held, most = (self.same if is_same else self.other), self._most[is_same]
        least = held[-1].cosine if len(held) == most else -2.0
        some = np.argpartition(-line, most)[: most + 1] if len(line) > most + 1 else np.arange(len(line))
        for at in (int(n) for n in some if line[n] > least):
            id_, start = piece.ids[at].as_py(), piece.starts[at]
            if (id_, start, is_same) == (query.id, query.start_s, True):
                continue
            values = tuple(piece.table[name][at].as_py() for name in kept)
            row = Seen(id=id_, modality=modality, shard=piece.shard, start_s=start, kept=values)
            held.append(Near(row=row, cosine=float(min(1.0, line[at]))))
        held.sort(key=lambda near: (-near.cosine, near.row.id))
        del held[most:]
