"""Registered: which published files a table format is told of."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from schemas.errors import Refused
from storage import layout
from storage.jobs import Job
from storage.parquet import open_parquet
from storage.shards import published_shards
from storage.store import LocalStore


@dataclass(frozen=True, slots=True)
class TableFile:
    """One published file, as it lies on disk."""

    path: Path
    modality: str
    rows: int


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of a registration."""

    location: str  # what a reader is given
    files: int  # of the table
    added: int  # of these, now


def published_files(job: Job) -> tuple[Path, list[TableFile], pa.Schema]:
    """The folder of a finished job, its files that hold rows, and the schema that they share.

    Raises Refused for a job that has not ended, or lies in an object store.
    """
    if not isinstance(job.store, LocalStore):
        raise Refused(f"{job.store.url}: --delta and --iceberg are for jobs in a folder of this machine; copy it here")
    if not job.has_ended():
        raise Refused(
            f"{job.store.url}: job {job.id} has not ended; a table of it would change. `embedmill run` goes on"
        )
    files, schemas = [], []
    for _, key, _ in sorted(published_shards(job.store)):
        with open_parquet(job.store, key) as file:
            if file.metadata.num_rows:
                files.append(TableFile(job.store.path(key), layout.modality_of(key), file.metadata.num_rows))
                schemas.append(file.schema_arrow.remove_metadata())
    if not files:
        raise Refused(f"{job.store.url}: job {job.id} has no row to register; every one of them failed")
    return job.store.path(layout.JOB).parent, files, pa.unify_schemas(schemas)
