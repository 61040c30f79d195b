"""Row order: the places that rows have for their user, in the manifest of a job or in the files of a data set."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import StoreError
from similarity.vectors import VectorSource
from storage import layout
from storage.jobs import open_job
from storage.parquet import ID
from storage.plans import PlanReader
from storage.shards import footer_of


def manifest_order(source: VectorSource, rows: np.ndarray) -> np.ndarray:
    """int64: sorts these rows, given in ascending order, as the manifest of their job has them; its lines.

    Rows of plain Parquet are in order by their own numbers. Reads the plan of the shards that hold the rows.
    """
    if not source.is_job:
        return rows
    job, plans = open_job(source.store), dict[str, PlanReader]()
    lines = [np.zeros(0, np.int64)]
    for key, wanted in _by_file(source, rows):
        digest = footer_of(source.store, key).plan
        if digest not in plans:
            plans[digest] = job.plan(digest)
        shard = layout.shard_of(key)
        assert shard is not None  # a source of a job has nothing but shards
        lines.append(_lines(plans[digest], shard, source.columns([ID], wanted)[ID], key))
    return np.concatenate(lines)


def _lines(plan: PlanReader, shard: int, ids: pa.ChunkedArray, key: str) -> np.ndarray:
    table = plan.read_table(shard)
    at = pc.index_in(ids, table["id"].combine_chunks())
    if at.null_count:
        raise StoreError(f"{key} holds an id that the plan of shard {shard} does not have")
    return np.asarray(table["line"].take(at).combine_chunks())


def _by_file(source: VectorSource, rows: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The files that hold some of `rows`, and which."""
    ends: dict[str, int] = {group.key: group.first + group.rows for group in source.groups}  # of each file's last group
    cuts = np.searchsorted(rows, np.array(list(ends.values()), np.int64))
    parts = np.split(rows, cuts)[: len(ends)]
    return [(key, part) for key, part in zip(ends, parts, strict=True) if len(part)]
