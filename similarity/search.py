"""Search: the rows of a job nearest to one vector, over its published shards, a piece at a time."""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.columns import START
from schemas.errors import Refused, StoreError
from schemas.recipe import OutputType
from schemas.rows import ManifestRow, Modality
from similarity.vector_column import VectorColumn
from storage import layout
from storage.jobs import Job
from storage.parquet import ID, open_parquet
from storage.plans import PlanReader
from storage.shards import footer_of, published_shards

_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One vector near the query; `score` is the cosine."""

    score: float
    row: ManifestRow  # as planned: its text, uri and kept columns
    start_s: float | None  # of the segment, where the row was cut into some


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came to."""

    hits: list[Hit]  # the nearest first; ties by id, then by the segment's start
    vectors: int  # that were looked at
    shards: int  # published, of all modalities
    planned: int  # shards of the job, retries included
    stored: OutputType  # the type of the vectors that were looked at


def search(job: Job, query: np.ndarray, *, k: int, modality: Modality | None = None) -> Found:
    """The `k` vectors nearest to float32 (dim,) `query`, of rows of `modality` (None: any), published so far.

    Cosines in float64, rounded to float32, so that equal vectors score alike wherever they lie.
    Raises Refused where nothing of that modality is published.
    """
    keys = [(shard, key) for shard, key, _ in sorted(published_shards(job.store))]
    wanted = [(shard, key) for shard, key in keys if modality is None or key == layout.data_key(modality, shard)]
    best: list[_Near] = []
    column, count = VectorColumn.of(job), 0
    for shard, key in wanted:
        for piece in _pieces(column, shard, key):
            count += len(piece.vectors)
            best = _nearest(best, piece, query, k)
    if not count:
        raise Refused(f"{job.id} has published no vector{f' of modality {modality}' if modality else ''} so far")
    planned = sum(plan.shards for plan in job.rounds())
    return Found(hits=_hits(job, best), vectors=count, shards=len(keys), planned=planned, stored=column.stored)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of a published file."""

    shard: int
    key: str
    ids: pa.Array
    starts: list[float | None]
    vectors: np.ndarray  # float64 (n, dim)


#: What is kept of a vector while the search goes on; sorts as hits do.
_Near = tuple[float, str, float, int, str]  # minus the score, id, start (minus one: none), shard, key


def _nearest(best: list[_Near], piece: _Piece, query: np.ndarray, k: int) -> list[_Near]:
    scores = cosines(piece.vectors, query)
    least = -best[-1][0] if len(best) == k else -math.inf
    if len(scores) > k:
        least = max(least, float(np.partition(scores, -k)[-k]))
    near = [
        (
            -float(scores[n]),
            piece.ids[n].as_py(),
            -1.0 if (at := piece.starts[n]) is None else at,
            piece.shard,
            piece.key,
        )
        for n in map(int, np.flatnonzero(scores >= least))
    ]
    return heapq.nsmallest(k, [*best, *near])


def cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The cosines of float64 (n, dim) `vectors` to (dim,) `query`, float32 (n,)."""
    asked = query.astype(np.float64)
    tiny = np.finfo(np.float64).tiny
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(asked)
    return np.asarray(vectors @ asked / np.maximum(lengths, tiny), dtype=np.float32)


def _pieces(column: VectorColumn, shard: int, key: str) -> Iterator[_Piece]:
    job = column.job
    if footer_of(job.store, key).space != job.record.space.digest:
        raise StoreError(f"{key} is of another space than {job.id}; it was not written by this job")
    with open_parquet(job.store, key) as file:
        cut = START in file.schema_arrow.names
        for batch in file.iter_batches(
            _BATCH_ROWS, columns=[ID, column.name, *([START] if cut else [])], use_threads=False
        ):
            vectors = column.floats(pa.chunked_array([batch[column.name]]))
            yield _Piece(shard, key, batch[ID], batch[START].to_pylist() if cut else [None] * len(batch), vectors)


def _hits(job: Job, best: list[_Near]) -> list[Hit]:
    """The rows of what was found, from the plans: each shard is read once."""
    plans: dict[str, PlanReader] = {}
    rows: dict[int, dict[str, ManifestRow]] = {}
    for _, _, _, shard, key in best:
        if shard not in rows:
            digest = footer_of(job.store, key).plan
            plan = plans.setdefault(digest, plans.get(digest) or job.plan(digest))
            wanted = {id_ for _, id_, _, other, _ in best if other == shard}
            rows[shard] = {row.id: row for row in plan.read_rows(shard) if row.id in wanted}
    return [
        Hit(score=-minus, row=rows[shard][id_], start_s=None if start < 0 else start)
        for minus, id_, start, shard, _ in best
    ]
