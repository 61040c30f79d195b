"""Published vectors, for a look: which files are looked into where there are too many, and what their rows hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from schemas.columns import START
from schemas.recipe import OutputType
from similarity.vector_column import VectorColumn
from storage import layout
from storage.parquet import ID, open_parquet

_T = TypeVar("_T")
_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some rows of a published file."""

    key: str
    shard: int
    first: int  # number of the first row in its file
    ids: pa.Array
    starts: list[float | None]  # of segments
    vectors: np.ndarray  # float32 (n, dim), of unit length
    table: pa.Table | pa.RecordBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedVectors(VectorColumn):
    """A job's vectors, read as a report looks at them: a file, or some rows of one, at a time."""

    @property
    def row_bytes(self) -> int:
        """What a vector takes up in its file, unpacked."""
        per_value = {OutputType.FLOAT32: 4.0, OutputType.FLOAT16: 2.0, OutputType.INT8: 1.0, OutputType.BINARY: 0.125}
        return int(self.job.record.space.dim * per_value[self.stored])

    def unit(self, column: pa.ChunkedArray) -> np.ndarray:
        """float32 (n, dim) of unit length."""
        vectors = self.floats(column)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float64).tiny), np.float32)

    def pieces(self, key: str, more: Sequence[str] = ()) -> Iterator[Piece]:
        """The rows of a file with these columns beside their ids and vectors."""
        with open_parquet(self.job.store, key) as file:
            columns, at = self._columns(file.schema_arrow, more), 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                yield self._piece(key, at, batch, pa.chunked_array([batch[self.name]]))
                at += len(batch)

    def some(self, key: str, count: int, rng: np.random.Generator, more: Sequence[str] = ()) -> Piece:
        """Up to `count` rows of a file, drawn from one of its row groups."""
        with open_parquet(self.job.store, key) as file:
            sizes = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
            group = int(rng.integers(len(sizes)))
            table = file.read_row_group(group, columns=self._columns(file.schema_arrow, more), use_threads=False)
        rows = np.sort(rng.permutation(table.num_rows)[:count])
        table = table.take(pa.array(rows)).combine_chunks()
        return self._piece(key, sum(sizes[:group]), table, table[self.name])

    def _columns(self, schema: pa.Schema, more: Sequence[str]) -> list[str]:
        return [name for name in (ID, self.name, START, *more) if name in schema.names]

    def _piece(self, key: str, first: int, table: pa.Table | pa.RecordBatch, vectors: pa.ChunkedArray) -> Piece:
        ids = table[ID]
        starts: list[Any] = table[START].to_pylist() if START in table.schema.names else [None] * len(ids)
        return Piece(
            key=key,
            shard=layout.shard_of(key) or 0,
            first=first,
            ids=ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids,
            starts=starts,
            vectors=self.unit(vectors),
            table=table,
        )


def spread(items: Sequence[_T]) -> list[_T]:
    """`items` in an order whose every beginning is spread evenly over them: by the bits of their numbers, reversed."""
    width = max(1, (len(items) - 1).bit_length())
    return [items[n] for n in sorted(range(len(items)), key=lambda n: int(f"{n:0{width}b}"[::-1], 2))]
