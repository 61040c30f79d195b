"""A vector source: the rows of one modality of a job, or of any Parquet with vectors, read stretch by stretch."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.columns import START
from schemas.errors import Refused
from schemas.failures import one_line
from schemas.join import Integers
from schemas.model_cards import Kind
from schemas.rows import Modality
from schemas.shard import FOOTER_KEY
from similarity.declared import declared
from similarity.kernel import Block
from storage import layout
from storage.duplicates import DuplicateFinder
from storage.jobs import open_job
from storage.parquet import ID, VECTOR, open_parquet
from storage.ranges import Ranges
from storage.shards import footer_of, published_shards
from storage.store import Store, canonical_location, open_store

_READERS = 16
_READ_AT_ONCE = 2**23
#: Rows of a file that are in memory at a time where the caller names no number.
_STREAMED, _STREAMED_VALUES = 8192, 2**22
_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class _Group:
    """One row group of one file, and the number of its first row."""

    key: str
    number: int
    first: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSource:
    """Rows with ids and vectors, numbered from 0 in the order of their files; nothing of them is in memory."""

    store: Store
    location: str
    groups: tuple[_Group, ...]
    id_column: str
    column: str
    dim: int
    kind: str  # float32 | float64 | float16 | int8 | uint8 | binary
    digest: str  # sha256 over the files' own digests
    modality: str = ""  # "" where nobody says
    space: str = ""  # its digest, likewise
    space_fields: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    is_job: bool = False
    ranges: Ranges | None = None
    types: Mapping[str, pa.DataType] = field(default_factory=dict)  # of the columns beside id and vectors

    @property
    def rows(self) -> int:
        return self.groups[-1].first + self.groups[-1].rows if self.groups else 0

    @property
    def is_cut(self) -> bool:
        """Whether rows are segments: several may have one id, and differ in where they begin."""
        return self.is_job and START in self.types

    def holds(self, location: str) -> bool:
        """Whether what is written at `location` would lie among the files that are read."""
        mine = f"{self.location}/{layout.DATA}" if self.is_job else self.location
        return location == self.location or f"{location}/".startswith(f"{mine}/")

    @property
    def stretch(self) -> int:
        """Rows that are read at a time where the caller names no number: 16 MiB of float32, at most."""
        return max(64, min(_STREAMED, _STREAMED_VALUES // self.dim))

    def blocks(self, first: int = 0, count: int | None = None, *, size: int = 0) -> Iterator[Block]:
        """The vectors of `count` rows from `first` on as float32 blocks of at most `size` rows (0: some).

        Raises Refused for a vector that is null or not finite, StoreError where the files cannot be read.
        """
        end = self.rows if count is None else first + count
        for group in self.groups:
            if group.first < end and group.first + group.rows > first:
                for block in self._stream(group, size or self.stretch):
                    begin, stop = max(0, first - block.first), min(len(block), end - block.first)
                    if begin < stop:
                        yield Block(block.first + begin, block.vectors[begin:stop])

    def vectors(self, first: int, count: int) -> np.ndarray:
        """float32 (count, dim): the vectors of some rows in a row."""
        parts = [block.vectors for block in self.blocks(first, count)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """float32 (n, dim): the vectors of these rows, which must be in ascending order."""
        parts = [self._taken(group, wanted) for group, wanted in self._by_group(rows)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def columns(self, names: Sequence[str], rows: np.ndarray) -> pa.Table:
        """These columns of these rows, which must be in ascending order; `id` is a name like any other."""
        real = [self.id_column if name == ID else name for name in names]
        schema = pa.schema([pa.field(n, pa.string() if n == ID else self.types[n]) for n in names])
        parts = [schema.empty_table()]
        for group, wanted in self._by_group(rows):
            for first, batch in self._batches(group, list(dict.fromkeys(real)), _STREAMED):
                begin, end = np.searchsorted(wanted, [first, first + len(batch)])
                taken = batch.take(pa.array(wanted[begin:end] - first))
                arrays = [taken[name].cast(f.type) for name, f in zip(real, schema, strict=True)]
                parts.append(pa.table(arrays, schema))
        return pa.concat_tables(parts)

    def ids(self) -> Iterator[tuple[int, pa.Array]]:
        """The ids of all rows as strings, in stretches, each with the number of its first row."""
        for group in self.groups:
            for first, batch in self._batches(group, [self.id_column], _STREAMED):
                yield first, batch[self.id_column].cast(pa.string())

    def _by_group(self, rows: np.ndarray) -> Iterator[tuple[_Group, np.ndarray]]:
        for group in self.groups:
            begin, end = np.searchsorted(rows, [group.first, group.first + group.rows])
            if begin < end:
                yield group, rows[begin:end]

    def _stream(self, group: _Group, size: int) -> Iterator[Block]:
        """A row group, which may be of any length in files of others, as blocks of at most `size` rows."""
        for at, batch in self._batches(group, [self.column], size):
            vectors = self._decoded(_matrix(batch.column(0), self._width, f"{self.location}: {group.key}"))
            if not np.isfinite(vectors).all():
                bad = at + int((~np.isfinite(vectors).all(axis=1)).argmax())
                raise Refused(f"{self.location}: row {bad} of {group.key} has a value that is not finite")
            yield Block(at, vectors)

    def _batches(self, group: _Group, columns: list[str], size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Stretches of a row group, each with the number of its first row."""
        at = group.first
        with open_parquet(self.store, group.key) as file:
            for batch in file.iter_batches(size, row_groups=[group.number], columns=columns, use_threads=False):
                yield at, batch
                at += len(batch)

    def _taken(self, group: _Group, rows: np.ndarray) -> np.ndarray:
        parts = [np.zeros((0, self.dim), np.float32)]
        for block in self._stream(group, self.stretch):
            begin, end = np.searchsorted(rows, [block.first, block.first + len(block)])
            parts.append(block.vectors[rows[begin:end] - block.first])
        return np.concatenate(parts)

    @property
    def _width(self) -> int:
        return -(-self.dim // 8) if self.kind == "binary" else self.dim

    def _decoded(self, values: np.ndarray) -> np.ndarray:
        if self.kind == "binary":  # a bit is a sign: the cosine of signs is 1 - 2 hamming / dim
            if values.dtype == np.int8:
                values = (values.astype(np.int16) + 128).astype(np.uint8)
            return np.unpackbits(values, axis=1, count=self.dim).astype(np.float32) * 2 - 1
        if self.kind == "int8" and self.ranges is not None:
            return self.ranges.values(values)
        return values.astype(np.float32, copy=False)


def open_vectors(
    location: str,
    *,
    modality: str | None = None,
    id_column: str = ID,
    column: str = VECTOR,
    known: str = "",
    integers: Integers | None = None,
) -> VectorSource:
    """The vectors at `location`: a job's folder or URL, or a Parquet file or a folder of such.

    `known` is the digest of files whose ids were looked at before; `integers` says what int8 and uint8 columns are that
    no job wrote.
    Raises Refused, and names what is wrong, where there are none that can be compared.
    """
    location = canonical_location(location)
    if location.endswith(_PARQUET):
        folder, _, name = location.rpartition("/")
        store = open_store(folder or "/")
        if store.size(name) is None:
            raise Refused(f"{location} does not exist; give a job's folder, or Parquet with ids and vectors")
        keys = [name]
    else:
        store = open_store(location)
        if store.size(layout.JOB) is not None:
            return _of_job(store, location, modality, column)
        keys = sorted(item.key for item in store.walk("") if item.key.endswith(_PARQUET) and _is_visible(item.key))
    if not keys:
        raise Refused(f"{location} holds neither a job nor Parquet; give a job's folder, or Parquet with vectors")
    source = _foreign(store, location, keys, id_column, column, known, integers)
    if modality not in (None, source.modality):
        told = f"are of {source.modality}" if source.modality else "do not say what they are of"
        raise Refused(f"{location}: modality {modality} is for the folder of a job; these files {told}")
    return source


def _is_visible(key: str) -> bool:
    """Whether a file is data by its name: what others are writing lies in _temporary/ and the like."""
    return not any(part.startswith(("_", ".")) for part in key.split("/"))


def _of_job(store: Store, location: str, modality: str | None, column: str) -> VectorSource:
    job = open_job(store)
    if not job.has_ended():
        raise Refused(f"{location}: job {job.id} is not finished; `embedmill run` goes on with it")
    if job.record.spec.kind is Kind.RERANK:
        raise Refused(f"{location}: job {job.id} scores pairs and has no vectors; give the job that embedded its rows")
    keys = [key for _, key, _ in sorted(published_shards(store))]
    with ThreadPoolExecutor(_READERS) as pool:
        footers = list(pool.map(lambda key: footer_of(store, key), keys))
    found = sorted({str(f.modality) for f in footers if f.vectors})
    if modality is None and len(found) > 1:
        options = "--modality of a dedup, --left-modality or --right-modality of a join"
        raise Refused(f"{location} holds vectors of {', '.join(found)}: say which: {options}")
    chosen = modality or (found[0] if found else str(Modality.TEXT))
    if chosen not in found:
        there = f"only of {', '.join(found)}" if found else "and none at all: every row of it failed"
        raise Refused(f"{location} holds no vectors of modality {chosen}, {there}")
    mine = [(k, f) for k, f in zip(keys, footers, strict=True) if f.modality == chosen and f.vectors]
    schema, groups, _ = _groups(store, [key for key, _ in mine])
    kind = _kind(schema, column, location)
    return VectorSource(
        store=store,
        location=location,
        groups=groups,
        id_column=ID,
        column=column,
        dim=job.record.space.dim,
        kind="binary" if kind == "uint8" else kind,
        digest=_digest(f.content_sha256 for _, f in mine),
        modality=chosen,
        space=job.record.space.digest,
        space_fields=job.record.space.fields(),
        model=job.record.spec.model,
        is_job=True,
        ranges=Ranges.from_json(store.get(layout.RANGES)) if kind == "int8" else None,
        types=_types(schema, ID),
    )


def _foreign(
    store: Store,
    location: str,
    keys: list[str],
    id_column: str,
    column: str,
    known: str,
    integers: Integers | None,
) -> VectorSource:
    schema, groups, footers = _groups(store, keys)
    if id_column not in schema.names:
        raise Refused(f"{location} has no column {id_column}; say which holds the ids ({_names(schema)})")
    _require_ids(schema.field(id_column), location)
    if not any(group.rows for group in groups):
        raise Refused(f"{location} has no rows; there is nothing to compare")
    kind, width = _kind(schema, column, location), _dim(store, groups, schema, column, location)
    told = declared(footers, location)
    if kind in ("int8", "uint8") and integers is None:
        raise Refused(
            f"{location}: nothing says what the {kind} of column {column} mean; say --integers numbers if they are "
            "plain numbers, --integers bits if each holds eight signs, or give the folder of the job that wrote them"
        )
    are_bits = kind in ("int8", "uint8") and integers is Integers.BITS
    source = VectorSource(
        store=store,
        location=location,
        groups=groups,
        id_column=id_column,
        column=column,
        dim=width * 8 if are_bits else width,
        kind="binary" if are_bits else kind,
        digest=_digest(_file_digest(store, key) for key in keys),
        modality=told.modality if told else "",
        space=told.space if told else "",
        space_fields=told.space_fields if told else {},
        model=told.model if told else "",
        types=_types(schema, id_column),
    )
    if source.digest != known:
        _require_distinct(source)
    return source


def _groups(store: Store, keys: list[str]) -> tuple[pa.Schema, tuple[_Group, ...], list[bytes | None]]:
    """The schema of the files, their row groups, and what embedmill wrote in the footer of each."""

    def read(key: str) -> tuple[pa.Schema, list[int], bytes | None]:
        with open_parquet(store, key) as file:
            told: pq.FileMetaData = file.metadata
            counts = [told.row_group(n).num_rows for n in range(told.num_row_groups)]
            return file.schema_arrow, counts, (file.schema_arrow.metadata or {}).get(FOOTER_KEY)

    groups, footers, first = [], [], 0
    schema: pa.Schema | None = None
    with ThreadPoolExecutor(_READERS) as pool:
        for key, (its_schema, counts, footer) in zip(keys, pool.map(read, keys), strict=True):
            schema = schema or its_schema
            if its_schema.names != schema.names:
                raise Refused(f"{store.url}: {key} has other columns than {keys[0]}; give files of one dataset")
            schema = _common(schema, its_schema)
            footers.append(footer)
            for number, rows in enumerate(counts):
                groups.append(_Group(key, number, first, rows))
                first += rows
    assert schema is not None  # at least one key
    return schema, tuple(groups), footers


def _common(schema: pa.Schema, other: pa.Schema) -> pa.Schema:
    """`schema`, with the type null for columns that have another type in `other`."""
    pairs = zip(schema, other, strict=True)
    return pa.schema([mine if mine.type == its.type else pa.field(mine.name, pa.null()) for mine, its in pairs])


def _require_ids(column: pa.Field, location: str) -> None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        raise Refused(f"{location}: column {column.name} has nothing but nulls, or another type in each file")
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise Refused(f"{location}: column {column.name} is of type {column.type}; ids are texts or integers")


def _kind(schema: pa.Schema, column: str, location: str) -> str:
    """The type of the vectors' elements; raises Refused where `column` holds none."""
    if column not in schema.names:
        raise Refused(f"{location} has no column {column}; name the vectors' column ({_names(schema)})")
    kind = schema.field(column).type
    lists = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    if any(is_list(kind) for is_list in lists):
        names = {pa.float32(): "float32", pa.float64(): "float64", pa.float16(): "float16", pa.int8(): "int8"}
        names[pa.uint8()] = "uint8"
        if kind.value_type in names:
            return names[kind.value_type]
    if pa.types.is_null(kind):
        raise Refused(f"{location}: column {column} is not of one type in all files; give files of one dataset")
    raise Refused(f"{location}: column {column} is {kind}, no list of float32, float16, float64 or int8")


def _dim(store: Store, groups: tuple[_Group, ...], schema: pa.Schema, column: str, location: str) -> int:
    kind = schema.field(column).type
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    for group in groups:
        if group.rows:
            with open_parquet(store, group.key) as file:
                first = file.read_row_group(group.number, columns=[column], use_threads=False)[column][0].as_py()
            if first:
                return len(first)
    raise Refused(f"{location}: its first row has no vector; leave rows without one out")


def _matrix(column: pa.Array, width: int, where: str) -> np.ndarray:
    """The (n, width) values of a list column without a copy; raises Refused for a null, or another length."""
    flat = column.flatten()
    lengths = pc.list_value_length(column)
    wrong = len(column) * width != len(flat) or flat.null_count or (len(column) and pc.min(lengths).as_py() != width)
    if column.null_count or wrong:
        raise Refused(f"{where}: a vector is null, or has another length than {width}; leave such rows out")
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, width)


def _require_distinct(source: VectorSource) -> None:
    """Raise Refused for a row without an id, or with one that is there before; ids are on disk, not in memory."""
    seen = DuplicateFinder()
    for first, ids in source.ids():
        if ids.null_count:
            row = first + pc.index(ids.is_null(), True).as_py()
            raise Refused(f"{source.location}: row {row} has no id; every row needs one")
        seen.add_run(ids.to_pylist(), first)
    again = seen.duplicate_pairs()
    if len(again):
        row, before = map(int, again[0])
        twice = one_line(str(source.columns([ID], np.array([row]))[ID][0]))
        rows = f"more than one row ({before} and {row})"
        raise Refused(f"{source.location}: id {twice} stands for {rows}; a pair would not say which")


def _types(schema: pa.Schema, id_column: str) -> dict[str, pa.DataType]:
    """The columns that can be copied: of one type in all files, and not nested."""
    plain = (f for f in schema if not (pa.types.is_nested(f.type) or pa.types.is_null(f.type)))
    return {f.name: f.type for f in plain if f.name != id_column}


def _digest(parts: Iterator[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()


def _file_digest(store: Store, key: str) -> str:
    """The sha256 of an object that may be larger than the memory."""
    digest, size = hashlib.sha256(), store.size(key) or 0
    for at in range(0, size, _READ_AT_ONCE):
        digest.update(store.get_range(key, at, min(_READ_AT_ONCE, size - at)))
    return digest.hexdigest()


def _names(schema: pa.Schema) -> str:
    return ", ".join(schema.names[:12])
