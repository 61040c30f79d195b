"""Plans: the rows of a job, cut into shards; one row group a shard."""

import hashlib
import operator
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import StoreError
from schemas.failures import FailureCode, Reject
from schemas.job import KeptColumn, PlanRecord
from schemas.rows import ManifestRow, Modality, Part
from schemas.shard import ShardEntry
from schemas.text_run import TextRun
from storage import layout
from storage.parquet import open_parquet, plain_file
from storage.parquet_seal import leave_room, seal
from storage.store import Store

#: A plan file holds so many row groups, or so many bytes: small enough to upload in one piece.
_GROUPS_PER_FILE = 256
_BYTES_PER_FILE = 64 * 2**20

#: Columns of a plan before the kept ones.
_OWN_COLUMNS = 6
#: What a mixed row is made of. Parquet's own name for the items of a list, so that tables read back have the same type.
PARTS = pa.list_(pa.field("element", pa.struct(dict.fromkeys(("modality", "text", "uri"), pa.string()))))
_MODALITIES = tuple(Modality)
_ARROW = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}

INDEX_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("cost", pa.float64(), nullable=False),
        pa.field("file", pa.int32(), nullable=False),
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
    ]
)
REJECTS_SCHEMA = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)


def kept_schema(keep: Iterable[KeptColumn]) -> pa.Schema:
    """The Arrow schema of the kept columns."""
    return pa.schema([pa.field(k.name, _ARROW[k.type]) for k in keep])


def rows_schema(keep: Iterable[KeptColumn]) -> pa.Schema:
    """The schema of plan/rows-*.parquet; kept columns are prefixed so that none can clash with ours."""
    own = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("parts", PARTS),  # null but for mixed rows
        pa.field("defect", pa.string()),
    ]
    return pa.schema(own + [field.with_name(f"keep.{field.name}") for field in kept_schema(keep)])


def rows_table(rows: list[ManifestRow], keep: Iterable[KeptColumn], runs: Iterable[TextRun] = ()) -> pa.Table:
    """The rows as a table of the plan's schema, in their order, then those of `runs`; rows_of reads it."""
    schema = rows_schema(keep)
    return pa.table(_columns(rows, runs, len(schema) - _OWN_COLUMNS), schema=schema)


def _columns(rows: list[ManifestRow], runs: Iterable[TextRun], kept: int) -> list[list[object]]:
    columns: list[list[object]] = [
        [r.id for r in rows],
        [r.line for r in rows],
        [r.text for r in rows],
        [r.uri for r in rows],
        [_part_values(r.parts) if r.parts else None for r in rows],
        [None if r.defect is None else str(r.defect) for r in rows],
    ]
    columns += [[r.kept[i] for r in rows] for i in range(kept)]
    for run in runs:
        nothing = [None] * len(run)
        for column, values in zip(
            columns, (run.ids, run.lines, run.texts, nothing, nothing, nothing, *run.kept), strict=True
        ):
            column += values
    return columns


def _sorted_table(rows: list[ManifestRow], schema: pa.Schema, runs: Iterable[TextRun]) -> pa.Table:
    """The same as a table of that schema, all of them sorted by id."""
    columns = _columns(rows, runs, len(schema) - _OWN_COLUMNS)
    ids: list[str] = columns[0]  # type: ignore[assignment]  # ids are strings
    order = sorted(range(len(ids)), key=ids.__getitem__)
    if order != list(range(len(ids))):
        pick = operator.itemgetter(*order)
        columns = [list(pick(column)) for column in columns]
    return pa.table(columns, schema=schema)


def _part_values(parts: Iterable[Part]) -> list[dict[str, str | None]]:
    return [{"modality": str(part.modality), "text": part.text, "uri": part.uri} for part in parts]


class PlanWriter:
    """Writes shards to a private folder on this machine, then publishes them under the plan's digest.

    Use it as a context manager; what is not finished leaves nothing behind.
    """

    def __init__(self, keep: Iterable[KeptColumn], *, first_shard: int = 0, schema: pa.Schema | None = None) -> None:
        """`schema` is that of the tables, where they do not hold rows of a manifest."""
        self._schema = rows_schema(keep) if schema is None else schema
        self._first = first_shard
        self._folder = tempfile.TemporaryDirectory(prefix="embedmill-plan-")
        self._files: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._groups = self._bytes = 0
        self._index = _Index()
        self._rejects_path = Path(self._folder.name) / "rejects.parquet"
        self._rejects_writer: pq.ParquetWriter | None = None
        self._rejects: list[Reject] = []
        self.rejects = 0
        self.rows = 0
        # Kept columns that no row has filled yet.
        self.empty_columns = {name for name in self._schema.names if name.startswith("keep.")}

    def __enter__(self) -> "PlanWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self._close_file()
        self._folder.cleanup()

    def add_shard(
        self, modality: Modality, rows: list[ManifestRow], cost: float, *, runs: Iterable[TextRun] = ()
    ) -> None:
        """Append `rows`, and those of `runs`, as the next shard, sorted by id; `cost` in estimated tokens."""
        self.add_built(modality, _sorted_table(rows, self._schema, runs), cost)

    def add_table(self, modality: Modality, table: pa.Table, cost: float) -> None:
        """Append a table of the plan's schema, sorted by id, as the next shard."""
        self.add_built(modality, _compact(table), cost)

    def add_built(self, modality: Modality, table: pa.Table, cost: float) -> None:
        """Append a table of the plan's schema, sorted by id and built from lists, as the next shard."""
        writer = self._open_writer()
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        digest = _table_digest(modality, table)
        self._index.add(modality, table.num_rows, round(cost, 1), len(self._files) - 1, self._groups, digest)
        self.empty_columns = {name for name in self.empty_columns if table[name].null_count == table.num_rows}
        self._groups += 1
        self._bytes += table.nbytes
        self.rows += table.num_rows

    def add_reject(self, reject: Reject) -> None:
        """Record a line that is no row."""
        self.rejects += 1
        self._rejects.append(reject)
        if len(self._rejects) >= 10_000:
            self._flush_rejects()

    def publish(self, store: Store, *, skipped: int = 0) -> PlanRecord:
        """Upload the plan's files under names that carry its digest; nothing refers to them yet."""
        self._close_file()
        digest = _plan_digest(self._first, self._index.digests.hex())
        files = tuple(layout.rows_key(digest, n) for n in range(len(self._files)))
        for key, path in zip(files, self._files, strict=True):
            store.create(key, seal(path.read_bytes()))  # one that exists is of an earlier run of the same plan
        index_data = plain_file(self._index.table(self._first))
        index_sha256 = hashlib.sha256(index_data).hexdigest()
        index = layout.index_key(index_sha256)
        store.create(index, index_data)
        return PlanRecord(
            digest=digest,
            first_shard=self._first,
            shards=len(self._index),
            rows=self.rows,
            rejects=self.rejects,
            skipped=skipped,
            files=files,
            index=index,
            index_sha256=index_sha256,
            rejects_file=self._publish_rejects(store, digest),
        )

    def _open_writer(self) -> pq.ParquetWriter:
        if self._groups >= _GROUPS_PER_FILE or self._bytes >= _BYTES_PER_FILE:
            self._close_file()
        if self._writer is None:
            path = Path(self._folder.name) / f"rows-{len(self._files):05d}.parquet"
            self._files.append(path)
            # Ids and texts differ, and nobody asks for ranges: dictionaries and statistics cost half of the writing.
            self._writer = pq.ParquetWriter(
                path,
                self._schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=False,
                write_statistics=False,
            )
        return self._writer

    def _close_file(self) -> None:
        if self._writer is not None:
            leave_room(self._writer)
            self._writer.close()
        self._writer, self._groups, self._bytes = None, 0, 0

    def _flush_rejects(self) -> None:
        if self._rejects_writer is None:
            self._rejects_writer = pq.ParquetWriter(self._rejects_path, REJECTS_SCHEMA, compression="zstd")
        rows = [{"line": r.line, "id": r.id, "code": str(r.code), "message": r.message} for r in self._rejects]
        self._rejects_writer.write_table(pa.Table.from_pylist(rows, REJECTS_SCHEMA))
        self._rejects = []

    def _publish_rejects(self, store: Store, digest: str) -> str | None:
        if not self.rejects:
            return None
        self._flush_rejects()
        assert self._rejects_writer is not None
        leave_room(self._rejects_writer)
        self._rejects_writer.close()
        data = seal(self._rejects_path.read_bytes())
        key = layout.rejects_key(hashlib.sha256(digest.encode() + data).hexdigest())
        store.create(key, data)
        return key


class _Index:
    """The entries of shards, 60 bytes each: a plan may have millions."""

    def __init__(self) -> None:
        self._modalities, self._files, self._groups = array("b"), array("i"), array("i")
        self._rows, self._costs = array("q"), array("d")
        self.digests = bytearray()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, modality: Modality, rows: int, cost: float, file: int, row_group: int, digest: str) -> None:
        self._modalities.append(_MODALITIES.index(modality))
        self._rows.append(rows)
        self._costs.append(cost)
        self._files.append(file)
        self._groups.append(row_group)
        self.digests += bytes.fromhex(digest)

    def table(self, first_shard: int) -> pa.Table:
        """A table of INDEX_SCHEMA; the first entry is that of `first_shard`."""
        names = pa.array([str(modality) for modality in _MODALITIES], pa.string())
        offsets = np.arange(0, 64 * (len(self) + 1), 64, dtype=np.int32)
        digests = pa.py_buffer(self.digests.hex().encode())
        columns = [
            pa.array(np.arange(first_shard, first_shard + len(self))),
            names.take(pa.array(np.frombuffer(self._modalities, np.int8))),
            pa.array(np.frombuffer(self._rows, np.int64)),
            pa.array(np.frombuffer(self._costs, np.float64)),
            pa.array(np.frombuffer(self._files, np.int32)),
            pa.array(np.frombuffer(self._groups, np.int32)),
            pa.StringArray.from_buffers(len(self), pa.py_buffer(offsets), digests),
        ]
        return pa.table(columns, schema=INDEX_SCHEMA)


def _plan_digest(first_shard: int, digests: str) -> str:
    """The sha256 over those of all shards, one after the other."""
    return hashlib.sha256(f"{first_shard}:{digests}".encode()).hexdigest()


def _table_digest(modality: Modality, table: pa.Table) -> str:
    digest = hashlib.sha256(str(modality).encode())
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(name.encode())
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                digest.update(b"-" if buffer is None else buffer)
    return digest.hexdigest()


def _read_index(store: Store, plan: PlanRecord, columns: list[str] | None = None) -> pa.Table:
    data = store.get(plan.index)
    if hashlib.sha256(data).hexdigest() != plan.index_sha256:
        raise StoreError(f"{plan.index} is not what the job was planned with; restore it")
    return pq.read_table(pa.BufferReader(data), columns=columns, use_threads=False)


def planned_modalities(store: Store, plan: PlanRecord) -> tuple[tuple[Modality, ...], np.ndarray]:
    """The modalities of a plan, and each shard's place among them, int32 (shards,); raises like PlanReader."""
    return _places(_read_index(store, plan, ["modality"])["modality"].dictionary_encode().combine_chunks())


def _places(modalities: pa.DictionaryArray) -> tuple[tuple[Modality, ...], np.ndarray]:
    return tuple(map(Modality, modalities.dictionary.to_pylist())), np.asarray(modalities.indices)


class PlanReader:
    """The shards of one plan, read from the store; the index is held in memory."""

    def __init__(self, store: Store, plan: PlanRecord) -> None:
        self._store, self.plan = store, plan
        table = _read_index(store, plan)
        self._modalities = table["modality"].dictionary_encode().combine_chunks()
        self._table = table
        self.rows = np.asarray(table["rows"])  # int64 (shards,)
        self.costs = np.asarray(table["cost"])  # float64 (shards,), estimated tokens

    def __len__(self) -> int:
        return self.plan.shards

    def entry(self, shard: int) -> ShardEntry:
        """The index entry of `shard`; raises StoreError for a shard of another plan."""
        at = shard - self.plan.first_shard
        if not 0 <= at < self.plan.shards:
            raise StoreError(f"shard {shard} is not in plan {self.plan.digest[:12]}")
        row = {name: self._table[name][at].as_py() for name in INDEX_SCHEMA.names}
        return ShardEntry(**row | {"modality": Modality(row["modality"])})

    def modality(self, shard: int) -> Modality:
        return Modality(self._modalities[shard - self.plan.first_shard].as_py())

    def modalities(self) -> tuple[tuple[Modality, ...], np.ndarray]:
        """Those that there are, and each shard's place among them, int32 (shards,)."""
        return _places(self._modalities)

    def shards(self) -> range:
        return range(self.plan.first_shard, self.plan.first_shard + self.plan.shards)

    def read_table(self, shard: int) -> pa.Table:
        """The shard's rows as planned, checked against the plan's digest; raises StoreError when changed."""
        entry = self.entry(shard)
        key = self.plan.files[entry.file]
        with open_parquet(self._store, key) as file:
            return _read_planned(file, entry, key)

    def tables(self, number: int, data: bytes) -> Iterator[tuple[ShardEntry, pa.Table]]:
        """Each shard of the plan's file `number`, whose bytes are `data`; raises like `read_table`."""
        key = self.plan.files[number]
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            for shard in self.shards_of(number):
                entry = self.entry(shard)
                yield entry, _read_planned(file, entry, key)

    def shards_of(self, number: int) -> list[int]:
        """The shards that lie in the plan's file `number`."""
        found = np.flatnonzero(np.asarray(self._table["file"]) == number) + self.plan.first_shard
        return [int(shard) for shard in found]

    def is_whole(self) -> bool:
        """Whether the index is the one that the plan's digest names, with all its shards, rows and files."""
        numbers = list(self.shards()) == self._table["shard"].to_pylist()
        files = set(self._table["file"].to_pylist()) == set(range(len(self.plan.files)))
        counted = numbers and files and int(self.rows.sum()) == self.plan.rows
        return (
            counted
            and _plan_digest(self.plan.first_shard, "".join(self._table["digest"].to_pylist())) == self.plan.digest
        )

    def read_rows(self, shard: int) -> list[ManifestRow]:
        """The shard's rows in id order."""
        return rows_of(self.read_table(shard), self.modality(shard))


def _read_planned(file: pq.ParquetFile, entry: ShardEntry, key: str) -> pa.Table:
    table = file.read_row_group(entry.row_group, use_threads=False)
    if _table_digest(entry.modality, _compact(table)) != entry.digest:
        raise StoreError(f"{key}: the rows of shard {entry.shard} are not those that were planned")
    return table


def rows_of(table: pa.Table, modality: Modality) -> list[ManifestRow]:
    """The rows of a table of the plan's schema."""
    kept = [name for name in table.column_names if name.startswith("keep.")]
    kept_rows: Iterator[tuple[object, ...]] = zip(*(table[name].to_pylist() for name in kept), strict=True)
    return [
        ManifestRow(
            id=id_,
            line=line,
            modality=modality,
            text=text,
            uri=uri,
            parts=parts,
            defect=None if defect is None else FailureCode(defect),
            kept=next(kept_rows) if kept else (),
        )
        for id_, line, text, uri, defect, parts in zip(
            *(table[name].to_pylist() for name in ("id", "line", "text", "uri", "defect")), _parts(table), strict=True
        )
    ]


def _parts(table: pa.Table) -> Iterable[tuple[Part, ...]]:
    """Each row's parts."""
    column = table["parts"]
    if column.null_count == len(column):  # as in every shard of one modality
        return repeat((), len(column))
    return [tuple(map(_part, values or ())) for values in column.to_pylist()]


def _part(values: dict[str, str]) -> Part:
    return Part(modality=Modality(values["modality"]), text=values["text"], uri=values["uri"])


def _compact(table: pa.Table) -> pa.Table:
    """`table` with the buffers that building it from lists gives, so that digests compare."""
    return pa.table([pa.array(column.to_pylist(), column.type) for column in table.columns], schema=table.schema)
