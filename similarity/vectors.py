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

from schemas.errors import Refused
from schemas.join import Integers
from schemas.rows import Modality
from similarity.kernel import Block
from storage import layout
from storage.jobs import open_job
from storage.parquet import ID, VECTOR, open_parquet
from storage.ranges import Ranges
from storage.shards import footer_of, published_shards
from storage.store import Store, canonical_location, open_store

_READERS = 16
_READ_AT_ONCE = 2**23
#: Rows of a file that are in memory at a time where the caller names no number.
_STREAMED = 8192
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
    ranges: Ranges | None = None
    types: Mapping[str, pa.DataType] = field(default_factory=dict)  # of the columns beside id and vectors

    @property
    def rows(self) -> int:
        return self.groups[-1].first + self.groups[-1].rows if self.groups else 0

    def blocks(self, first: int = 0, count: int | None = None, *, size: int = 8192) -> Iterator[Block]:
        """The vectors of `count` rows from `first` on as float32 blocks of at most `size` rows.

        Raises Refused for a vector that is null or not finite, StoreError where the files cannot be read.
        """
        end = self.rows if count is None else first + count
        for group in self.groups:
            if group.first < end and group.first + group.rows > first:
                for block in self._stream(group, size):
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
            with open_parquet(self.store, group.key) as file:
                table = file.read_row_group(group.number, columns=list(dict.fromkeys(real)), use_threads=False)
            taken = table.take(pa.array(wanted - group.first))
            parts.append(pa.table([taken[name].cast(f.type) for name, f in zip(real, schema, strict=True)], schema))
        return pa.concat_tables(parts)

    def ids(self) -> Iterator[tuple[int, pa.ChunkedArray]]:
        """The ids, and the number of the first, stretch by stretch."""
        for group in self.groups:
            yield group.first, _ids_of(self, group)

    def _by_group(self, rows: np.ndarray) -> Iterator[tuple[_Group, np.ndarray]]:
        for group in self.groups:
            begin, end = np.searchsorted(rows, [group.first, group.first + group.rows])
            if begin < end:
                yield group, rows[begin:end]

    def _stream(self, group: _Group, size: int) -> Iterator[Block]:
        """A row group, which may be of any length in files of others, as blocks of at most `size` rows."""
        at = group.first
        with open_parquet(self.store, group.key) as file:
            for batch in file.iter_batches(size, row_groups=[group.number], columns=[self.column], use_threads=False):
                vectors = self._decoded(_matrix(batch.column(0), self._width, f"{self.location}: {group.key}"))
                if not np.isfinite(vectors).all():
                    bad = at + int((~np.isfinite(vectors).all(axis=1)).argmax())
                    raise Refused(f"{self.location}: row {bad} of {group.key} has a value that is not finite")
                yield Block(at, vectors)
                at += len(vectors)

    def _taken(self, group: _Group, rows: np.ndarray) -> np.ndarray:
        parts = [np.zeros((0, self.dim), np.float32)]
        for block in self._stream(group, _STREAMED):
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
        return _foreign(store, location, [name], id_column, column, known, integers)
    store = open_store(location)
    if store.size(layout.JOB) is not None:
        return _of_job(store, location, modality, column)
    keys = sorted(item.key for item in store.walk("") if item.key.endswith(_PARQUET))
    if not keys:
        raise Refused(f"{location} holds neither a job nor Parquet; give a job's folder, or Parquet with vectors")
    return _foreign(store, location, keys, id_column, column, known, integers)


def _of_job(store: Store, location: str, modality: str | None, column: str) -> VectorSource:
    job = open_job(store)
    if not all(job.is_finished(plan) for plan in job.rounds()):
        raise Refused(f"{location}: job {job.id} is not finished; `embedmill run` goes on with it")
    keys = [key for _, key, _ in sorted(published_shards(store))]
    with ThreadPoolExecutor(_READERS) as pool:
        footers = list(pool.map(lambda key: footer_of(store, key), keys))
    found = sorted({str(f.modality) for f in footers if f.vectors})
    if modality is None and len(found) > 1:
        raise Refused(f"{location} holds vectors of {', '.join(found)}: say which, with --left-/--right-modality")
    chosen = modality or (found[0] if found else str(Modality.TEXT))
    if chosen not in found:
        raise Refused(f"{location} holds no vectors of modality {chosen}, only of {', '.join(found) or 'none'}")
    mine = [(k, f) for k, f in zip(keys, footers, strict=True) if f.modality == chosen and f.vectors]
    schema, groups = _groups(store, [key for key, _ in mine])
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
    schema, groups = _groups(store, keys)
    if id_column not in schema.names:
        raise Refused(f"{location} has no column {id_column}; name the ids' with --id-column ({_names(schema)})")
    kind, width = _kind(schema, column, location), _dim(store, groups, schema, column, location)
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
        types=_types(schema, id_column),
    )
    if source.digest != known:
        _require_distinct(source)
    return source


def _groups(store: Store, keys: list[str]) -> tuple[pa.Schema, tuple[_Group, ...]]:
    def read(key: str) -> tuple[pa.Schema, list[int]]:
        with open_parquet(store, key) as file:
            told: pq.FileMetaData = file.metadata
            return file.schema_arrow, [told.row_group(n).num_rows for n in range(told.num_row_groups)]

    groups, first = [], 0
    schema: pa.Schema | None = None
    with ThreadPoolExecutor(_READERS) as pool:
        for key, (its_schema, counts) in zip(keys, pool.map(read, keys), strict=True):
            schema = schema or its_schema
            if its_schema.names != schema.names:
                raise Refused(f"{store.url}: {key} has other columns than {keys[0]}; give files of one dataset")
            for number, rows in enumerate(counts):
                groups.append(_Group(key, number, first, rows))
                first += rows
    assert schema is not None  # at least one key
    return schema, tuple(groups)


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
    ids = pa.chunked_array(
        [chunk for group in source.groups for chunk in _ids_of(source, group).chunks] or [pa.array([], pa.string())]
    )
    counted = pc.value_counts(ids)
    if ids.null_count or len(counted) != len(ids):
        twice = next((str(c["values"]) for c in counted if c["counts"].as_py() > 1), "null")
        raise Refused(f"{source.location}: id {twice} stands for more than one row; a pair would not say which")


def _ids_of(source: VectorSource, group: _Group) -> pa.ChunkedArray:
    with open_parquet(source.store, group.key) as file:
        return file.read_row_group(group.number, columns=[source.id_column])[source.id_column].cast(pa.string())


def _types(schema: pa.Schema, id_column: str) -> dict[str, pa.DataType]:
    nested = (pa.types.is_nested,)
    return {f.name: f.type for f in schema if f.name != id_column and not any(is_(f.type) for is_ in nested)}


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
