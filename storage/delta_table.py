"""A Delta table over a job's files: a log beside them, in `_delta_log/`; no file is rewritten or moved.

The protocol: https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.errors import Refused
from storage.extras import require_extra
from storage.jobs import Job
from storage.registered import Registration, TableFile, published_files

if TYPE_CHECKING:
    from deltalake.transaction import AddAction, RemoveAction

_PARTITION = "modality"


def register_delta(job: Job) -> Registration:
    """Make the job's folder a Delta table, or tell the table of what a retry added; again, nothing changes.

    Raises Refused for a job that has not ended or is not on this machine's disk, or where the package is missing.
    """
    require_extra("deltalake", "delta")
    from deltalake import DeltaTable, Schema

    folder, files, schema = published_files(job)
    if "%" in str(folder) or not str(folder).isprintable():
        raise Refused(
            f"{folder}: Delta's addresses cannot hold % or control characters; move the job to a folder without them"
        )
    delta = Schema.from_arrow(schema.append(pa.field(_PARTITION, pa.string())))
    if DeltaTable.is_deltatable(str(folder)):
        table = DeltaTable(str(folder))
    else:
        table = DeltaTable.create(str(folder), delta, partition_by=[_PARTITION], name=job.id)
    known = set(pa.table(table.get_add_actions())["path"].to_pylist())
    new = [file for file in files if _key(file, folder) not in known]
    if new:
        actions: list[AddAction | RemoveAction] = [_add_action(file, folder) for file in new]
        table.create_write_transaction(actions, mode="append", schema=delta, partition_by=[_PARTITION])
    return Registration(str(folder), len(files), len(new))


def _key(file: TableFile, folder: Path) -> str:
    """As the log names it: nothing in it is ever to be escaped, whatever the folder is called."""
    return file.path.relative_to(folder).as_posix()


def _add_action(file: TableFile, folder: Path) -> "AddAction":
    from deltalake.transaction import AddAction

    about = file.path.stat()
    return AddAction(
        path=_key(file, folder),
        size=about.st_size,
        partition_values={_PARTITION: file.modality},
        modification_time=about.st_mtime_ns // 1_000_000,
        data_change=True,
        stats=json.dumps({"numRecords": file.rows}),
    )
