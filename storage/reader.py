"""A reader: what a job published, as Arrow tables and NumPy arrays.

from storage import open_job

job = open_job("out/demo")
ids, vectors = job.vectors("text")
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from schemas.errors import Refused
from storage import layout
from storage.failures import open_failures
from storage.jobs import Job
from storage.jobs import open_job as job_in
from storage.parquet import ID, VECTOR, is_vector_column, open_parquet
from storage.shards import footer_of, published_shards
from storage.store import canonical_location, open_store

#: The column that readers make of the folder's name, as Hive's partitions are read.
MODALITY = "modality"


def open_job(location: str) -> "JobReader":
    """The job at `location`: a folder, or an address such as s3://bucket/prefix; raises SpecMismatch where none is."""
    return JobReader(job_in(open_store(canonical_location(location))))


class JobReader:
    """What a job has published so far: whole shards, in their order, each row once."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._parts = [(shard, key) for shard, key, _ in sorted(published_shards(job.store))]

    @property
    def model(self) -> str:
        return self._job.record.spec.model

    @property
    def dim(self) -> int:
        """The length of a vector; of binary vectors, in bits."""
        return self._job.record.space.dim

    @property
    def space(self) -> str:
        """The digest of the space: vectors may be compared where it is the same."""
        return self._job.record.space.digest

    @property
    def modalities(self) -> list[str]:
        return sorted({layout.modality_of(key) for _, key in self._parts})

    def __len__(self) -> int:
        """Published rows, by the files' footers."""
        return sum(self._rows(key) for key in self._keys(None))

    def tables(self, modality: str | None = None, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Each published shard as a table, with the column `modality`; memory holds one at a time.

        Raises Refused for a modality that there is not, or a column.
        """
        for key in self._keys(modality):
            with open_parquet(self._job.store, key) as file:
                asked = None if columns is None else self._in_file(columns, file.schema_arrow)
                table = file.read(columns=asked, use_threads=False)
            if columns is None or MODALITY in columns:
                name = pa.array([layout.modality_of(key)])
                table = table.append_column(MODALITY, pa.DictionaryArray.from_arrays(np.zeros(len(table), "i4"), name))
            yield table.replace_schema_metadata(None)

    def table(self, modality: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """All that is published as one table, a chunk for each shard; nothing is copied together."""
        tables = list(self.tables(modality, columns))
        return pa.concat_tables(tables, promote_options="default").unify_dictionaries() if tables else pa.table({})

    def vectors(self, modality: str | None = None, column: str = VECTOR) -> tuple[pa.ChunkedArray, np.ndarray]:
        """The ids, and their vectors (n, elements) in the order of the ids, as the column holds them.

        The array is filled shard by shard: nothing else of its size is ever in memory. Raises Refused where there are
        no vectors: of a modality that there is not, or of a job of scores.
        """
        keys = self._keys(modality)
        ids, vectors, at = [], np.empty((0, self.dim), np.float32), 0
        for number, key in enumerate(keys):
            with open_parquet(self._job.store, key) as file:
                self._in_file([column], file.schema_arrow)
                kind = file.schema_arrow.field(column).type
                if not is_vector_column(kind):
                    raise Refused(f"{column} of {self._job.store.url} holds no vectors but {kind}; see tables()")
                table = file.read(columns=[ID, column], use_threads=False)
            if not number:
                shape = (sum(map(self._rows, keys)), kind.list_size)
                vectors = np.empty(shape, kind.value_type.to_pandas_dtype())
            for chunk in table[column].chunks:
                vectors[at : at + len(chunk)] = np.asarray(chunk.flatten()).reshape(len(chunk), kind.list_size)
                at += len(chunk)
            ids += table[ID].chunks
        return pa.chunked_array(ids, pa.string()), vectors

    def failures(self) -> pa.Table:
        """Rows that failed, by line: id, code, stage, message; of rows that a retry did again, what came of it last."""
        footers = [footer_of(self._job.store, key) for _, key in self._parts]
        return open_failures(self._job, footers).replace_schema_metadata(None).sort_by("line")

    def _keys(self, modality: str | None) -> list[str]:
        if modality is not None and modality not in self.modalities:
            there = ", ".join(self.modalities) or "no rows yet"
            raise Refused(f"{self._job.store.url} has no rows of modality {modality!r}; there is: {there}")
        return [key for _, key in self._parts if modality in (None, layout.modality_of(key))]

    def _rows(self, key: str) -> int:
        with open_parquet(self._job.store, key) as file:
            return int(file.metadata.num_rows)

    def _in_file(self, columns: Sequence[str], schema: pa.Schema) -> list[str]:
        missing = [name for name in columns if name not in schema.names and name != MODALITY]
        if missing:
            raise Refused(f"{self._job.store.url} has no column {missing[0]!r}; there are: {', '.join(schema.names)}")
        return [name for name in columns if name != MODALITY]
