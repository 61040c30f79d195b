"""Iceberg tables over a job's files, one a modality: metadata in `iceberg/<modality>/`; no file is rewritten or moved.

The format: https://iceberg.apache.org/spec/. It names files by absolute addresses: a folder that was moved is to be
registered anew, without its `iceberg/`.
"""

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.errors import Refused
from storage.extras import require_extra
from storage.jobs import Job
from storage.registered import Registration, published_files

if TYPE_CHECKING:
    from pyiceberg.table import Table

_FOLDER, _NAME = "iceberg", ("embedmill", "embeddings")
#: What readers without a catalog look into for the newest metadata.
_HINT = "version-hint.text"


def register_iceberg(job: Job) -> list[Registration]:
    """Make an Iceberg table of each modality's files, or tell it of what a retry added; again, nothing changes.

    The location of a result is that of the table's metadata file. Raises Refused for a job that has not ended or is
    not on this machine's disk, or where the package is missing.
    """
    require_extra("pyiceberg.catalog.sql", "iceberg")
    folder, files, schema = published_files(job)
    told = []
    for modality in sorted({file.modality for file in files}):
        paths = [_address(file.path) for file in files if file.modality == modality]
        told.append(_register(job, folder, f"{_FOLDER}/{modality}", paths, schema))
    return told


def _register(job: Job, folder: Path, key: str, files: list[str], schema: pa.Schema) -> Registration:
    from pyiceberg.catalog.sql import SqlCatalog

    logging.getLogger("pyiceberg").setLevel(logging.ERROR)  # vectors have no statistics, and need none
    hint = folder / key / "metadata" / _HINT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        catalog = SqlCatalog("memory", uri="sqlite:///:memory:")  # the table is its files: this catalog dies here
        catalog.create_namespace(_NAME[0])
        if hint.exists():
            newest = hint.with_name(f"{hint.read_text()}.metadata.json")
            table = catalog.register_table(_NAME, _address(newest))
        else:
            table = catalog.create_table(_NAME, schema=schema, location=_address(folder / key))
        added = _add(table, files)
        catalog.close()
    name = table.metadata_location.rpartition("/")[2]
    job.store.replace(f"{key}/metadata/{_HINT}", name.removesuffix(".metadata.json").encode())
    return Registration(str(hint.with_name(name)), len(files), added)


def _address(path: Path) -> str:
    """`path` as Iceberg names it, without escapes; raises Refused for one that cannot be said so."""
    if re.search("[#?%]", str(path)):
        raise Refused(f"{path}: Iceberg's addresses cannot hold #, ? or %; move the job to a folder without them")
    return f"file://{path}"


def _add(table: "Table", files: list[str]) -> int:
    known = set(table.inspect.files()["file_path"].to_pylist())
    new = [file for file in files if file not in known]
    if new:
        table.add_files(new)
    return len(new)
