"""The vector column: that column of a job which tells most of its vectors, and what its values stand for."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from schemas.recipe import OutputType, vector_column
from storage import layout
from storage.jobs import Job
from storage.parquet import vectors_from_arrow
from storage.ranges import Ranges

#: The types of vector columns, the most exact first.
_BEST = (OutputType.FLOAT32, OutputType.FLOAT16, OutputType.INT8, OutputType.BINARY)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorColumn:
    """The column of a job that tells most of its vectors."""

    job: Job
    name: str
    stored: OutputType
    ranges: Ranges | None  # of int8

    @classmethod
    def of(cls, job: Job) -> Self:
        """That of `job`; raises StoreError where int8 vectors have no ranges."""
        outputs = job.record.space.recipe.outputs
        stored = next(output for output in _BEST if output in outputs)
        ranges = Ranges.from_json(job.store.get(layout.RANGES)) if stored is OutputType.INT8 else None
        return cls(job=job, name=vector_column(outputs, stored), stored=stored, ranges=ranges)

    def floats(self, column: pa.ChunkedArray) -> np.ndarray:
        """The (n, dim) vectors that the column's values stand for, float64; of bits -1 and 1."""
        stored = vectors_from_arrow(column)
        if self.stored is OutputType.BINARY:
            return np.unpackbits(stored, axis=1, count=self.job.record.space.dim) * 2.0 - 1.0
        if self.stored is OutputType.INT8:
            assert self.ranges is not None
            stored = self.ranges.values(stored)
        return stored.astype(np.float64)
