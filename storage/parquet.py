"""Parquet in and out: how embedmill writes tables, and how it reads them from any store.

The encodings and their measurements: docs/architecture.md, "The files".
"""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.columns import CONTENT
from schemas.errors import NotFound, StoreError
from schemas.failures import one_line
from storage.parquet_seal import check_seal, leave_room, seal
from storage.store import LocalStore, Store

VECTOR = "embedding"

#: Arrow's own threads would call back into Python for an object's bytes, and abort a process that is ending.
_ARROW_THREADS = False
ID = "id"


def vectors_to_arrow(vectors: np.ndarray) -> pa.Array:
    """A (n, dim) array as one Arrow column `fixed_size_list<element not null>[dim]`, without a copy."""
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    kind = pa.list_(pa.field("element", flat.type, nullable=False), vectors.shape[1])
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


def vectors_from_arrow(column: pa.ChunkedArray) -> np.ndarray:
    """The (n, dim) array of a vector column, of the column's own type."""
    dim, dtype = column.type.list_size, column.type.value_type.to_pandas_dtype()
    chunks = [np.asarray(chunk.flatten(), dtype=dtype).reshape(-1, dim) for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.empty((0, dim), dtype)


def is_vector_column(kind: pa.DataType) -> bool:
    """Whether a column of this type holds vectors: no other column is a list."""
    return bool(pa.types.is_fixed_size_list(kind))


def rows_per_group(dim: int) -> int:
    """Rows in a row group of about 16 MiB of raw vectors, a power of two within 256..16384."""
    return int(min(16384, max(256, 2 ** ((16 * 2**20 // (4 * dim)).bit_length() - 1))))


def vector_file(table: pa.Table, *, dim: int, metadata: dict[bytes, bytes]) -> bytes:
    """`table` (id, embedding, kept columns) as one Parquet file.

    Byte-stream split and zstd 1 for the vectors, without dictionary and statistics.
    The file is sealed, read back and counted; raises StoreError when it is not what was given.
    """
    table = table.replace_schema_metadata(metadata)
    vectors = [field.name for field in table.schema if is_vector_column(field.type)]
    others = [name for name in table.column_names if name not in vectors]
    wide = [f"{name}.list.element" for name in vectors if table.schema.field(name).type.value_type.bit_width > 8]
    data = _sealed_file(
        table,
        rows_per_group(dim),
        use_dictionary=[name for name in others if name not in (ID, CONTENT)],
        use_byte_stream_split=wide,  # of bytes there is nothing to split
        column_encoding=None,
        write_statistics=[name for name in others if name != CONTENT],
    )
    footer = pq.read_metadata(io.BytesIO(data))
    if footer.num_rows != table.num_rows or footer.metadata.get(next(iter(metadata))) is None:
        raise StoreError("a Parquet file came out with other rows than it was given; nothing was published")
    return data


def column_file(table: pa.Table, *, floats: list[str]) -> bytes:
    """`table`, published without vectors, as one sealed Parquet file; `floats` are its columns of many values."""
    others = [name for name in table.column_names if name not in floats]
    data = _sealed_file(table, 2**17, use_dictionary=others, use_byte_stream_split=floats, column_encoding=None)
    if pq.read_metadata(io.BytesIO(data)).num_rows != table.num_rows:
        raise StoreError("a Parquet file came out with other rows than it was given; nothing was published")
    return data


def plain_file(table: pa.Table) -> bytes:
    """A small table (failures, a sample, an index) as one Parquet file."""
    return _sealed_file(table, None)


def _sealed_file(table: pa.Table, row_group_size: int | None, **encoding: object) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", compression_level=1, **encoding) as writer:
        writer.write_table(table, row_group_size)
        leave_room(writer)
    return seal(sink.getvalue())


class StoredFile(io.RawIOBase):
    """An object of a store as a read-only, seekable file: Parquet readers fetch only what they need."""

    def __init__(self, store: Store, key: str) -> None:
        super().__init__()
        size = store.size(key)
        if size is None:
            store.get_range(key, 0, 1)  # raises NotFound with the store's own words
            raise StoreError(f"{key} has no size")
        self._store, self._key, self._size, self._at = store, key, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        length = left if size is None or size < 0 else min(size, left)
        if length == 0:
            return b""
        data = self._store.get_range(self._key, self._at, length)
        self._at += len(data)
        return data


@contextlib.contextmanager
def open_parquet(store: Store, key: str) -> Iterator[pq.ParquetFile]:
    """A Parquet object, opened by its footer alone; raises NotFound, or StoreError for a broken file."""
    with _sound(key):
        if isinstance(store, LocalStore):
            if store.size(key) is None:
                raise NotFound(f"{key} does not exist")
            with pq.ParquetFile(store.path(key)) as file:
                yield file
        else:
            with pq.ParquetFile(pa.PythonFile(StoredFile(store, key), mode="r"), pre_buffer=False) as file:
                yield file


@contextlib.contextmanager
def _sound(key: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as err:
        why = one_line((str(err).splitlines() or [""])[0])
        raise StoreError(f"{key} is no sound Parquet file: {why}") from err


def read_parquet(store: Store, key: str) -> pa.Table:
    """A whole Parquet object; raises like `open_parquet`."""
    with open_parquet(store, key) as file:
        return file.read(use_threads=_ARROW_THREADS)


def read_sealed(store: Store, key: str) -> pa.Table:
    """A whole Parquet object that embedmill wrote; raises StoreError where one bit of it is not as it was written."""
    data = store.get(key)
    _, broken = check_seal(data, key)
    if broken:
        raise StoreError(broken)
    return parse_parquet(data, key)


def parse_parquet(data: bytes, key: str) -> pa.Table:
    """The table of a Parquet object whose bytes are `data`; raises StoreError for a broken one."""
    with _sound(key), pq.ParquetFile(pa.BufferReader(data)) as file:
        return file.read(use_threads=_ARROW_THREADS)
