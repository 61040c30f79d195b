"""Compacted: a job's rows in fewer, larger files, with the same columns and in the same order."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from schemas.errors import Conflict, Refused
from schemas.shard import FOOTER_KEY, Footer
from storage import layout
from storage.jobs import Job
from storage.parquet import column_file, vector_file
from storage.scores import SCORE, is_scores
from storage.shards import content_sha256, published_shards, read_shard
from storage.store import Store

#: What a compaction says of itself; there when all of its files are.
RECORD = "export.json"
#: A file is put together in memory.
MOST_BYTES = 4 * 2**30


@dataclass(frozen=True, slots=True)
class Compaction:
    """What came of it."""

    files: int
    rows: int  # vectors, or scores
    size: int  # bytes


def compact(job: Job, out: Store, size: int) -> Compaction:
    """Write the rows of a finished job to `out` as files of about `size` bytes; killed and begun again, it goes on.

    Each row is there once, as it was published; what a retry added comes last. Raises Refused for a job that has not
    ended or a `size` beyond memory, Conflict where `out` holds something else.
    """
    if not job.has_ended():
        raise Refused(f"{job.store.url}: job {job.id} has not ended; `embedmill run` goes on with it")
    if not 0 < size <= MOST_BYTES:
        raise Refused(f"--compact {size:,} bytes: a file is made in memory; give at most 4GB")
    if out.url == job.store.url or f"{out.url}/".startswith(f"{job.store.url}/{layout.DATA}/"):
        raise Refused(f"{out.url} is where the job's own files lie; give another --out")
    rows, total, files = 0, 0, list(_batched(job, size))
    for number, keys in enumerate(files):
        table, data = _file_of(job, keys, number)
        key = f"{layout.DATA}/modality={layout.modality_of(keys[0])}/part-{number:06d}.parquet"
        if not out.create(key, data) and out.get(key) != data:
            raise Conflict(
                f"{out.url}/{key} is there and is not of job {job.id} in files of this size; use another --out"
            )
        rows, total = rows + len(table), total + len(data)
    told = {"job": job.id, "model": job.record.spec.model, "space": job.record.space.digest}
    out.replace(RECORD, json.dumps({**told, "files": len(files), "rows": rows, "bytes": total}, indent=1).encode())
    return Compaction(len(files), rows, total)


def _batched(job: Job, size: int) -> Iterator[list[str]]:
    """The keys of the shards that become one file; a file is of one modality."""
    batch: list[str] = []
    filled = 0
    for _, key, its_size in sorted(published_shards(job.store), key=lambda s: (layout.modality_of(s[1]), s[0])):
        if batch and (filled + its_size > size or layout.modality_of(batch[0]) != layout.modality_of(key)):
            yield batch
            batch, filled = [], 0
        batch.append(key)
        filled += its_size
    if batch:
        yield batch


def _file_of(job: Job, keys: list[str], number: int) -> tuple[pa.Table, bytes]:
    shards = [read_shard(job.store, key) for key in keys]
    table = pa.concat_tables(
        [table.replace_schema_metadata(None) for _, _, _, table in shards], promote_options="default"
    ).combine_chunks()
    ids = [id_ for _, its, _, _ in shards for id_ in its]
    vectors = {name: np.concatenate([its[name] for _, _, its, _ in shards]) for name in shards[0][2]}
    footer = _footer([footer for footer, _, _, _ in shards], number, content_sha256(ids, vectors))
    metadata = {FOOTER_KEY: footer.to_json()}
    if is_scores(table):
        return table, column_file(table.replace_schema_metadata(metadata), floats=[SCORE])
    return table, vector_file(table, dim=job.record.space.dim, metadata=metadata)


def _footer(footers: list[Footer], number: int, content: str) -> Footer:
    """That of the first file, with the numbers of all of them; failures stay in the job."""
    return replace(
        footers[0],
        shard=number,
        rows_planned=sum(f.rows_ok for f in footers),
        rows_ok=sum(f.rows_ok for f in footers),
        vectors=sum(f.vectors for f in footers),
        failures={},
        content_sha256=content,
        notes=tuple(dict.fromkeys(note for f in footers for note in f.notes)),
        equal=sum(f.equal for f in footers),
        reused=sum(f.reused for f in footers),
    )
