"""An index file: a job's vectors as FAISS or USearch load them, and which id each number stands for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import Refused
from schemas.failures import one_line
from similarity.exact import unit_length
from similarity.vectors import VectorSource
from storage.extras import require_extra
from storage.private_files import private_name

#: Rows that an index is trained with, where its kind asks for training: 256 for each of 1,024 lists.
_TRAINED_WITH = 262_144
_SEED = 20_261_123
Add = Callable[[int, np.ndarray], None]  # the number of the first, and vectors
Save = Callable[[str], object]  # to a file of this name


@dataclass(frozen=True, slots=True)
class IndexFile:
    """What was written."""

    path: Path
    ids: Path  # Parquet: number, id, modality
    vectors: int
    kind: str


def faiss_index(sources: Sequence[VectorSource], path: Path, kind: str) -> IndexFile:
    """Write an index for `faiss.read_index`, of vectors of unit length by inner product: its scores are cosines.

    `kind` is FAISS's own word (`Flat`, `HNSW32`, `IVF1024,PQ48`). Raises Refused for a kind that FAISS does not know,
    for a path that exists, and where the package is missing.
    """
    faiss = require_extra("faiss", "faiss")
    try:
        index = faiss.index_factory(sources[0].dim, kind, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as err:
        reason = str(err).rpartition("Error: ")[2] or str(err)
        raise Refused(f"--factory {kind} for vectors of {sources[0].dim}: FAISS says {one_line(reason)}") from err
    if not index.is_trained:
        try:
            index.train(_sample(sources))
        except RuntimeError as err:
            rows = sum(source.rows for source in sources)
            raise Refused(f"--factory {kind} cannot be trained with {rows:,} vectors; fewer lists, or Flat") from err

    def add(first: int, vectors: np.ndarray) -> None:
        index.add(vectors)

    return _written(sources, path, kind, add, lambda to: faiss.write_index(index, to))


def usearch_index(sources: Sequence[VectorSource], path: Path) -> IndexFile:
    """Write an index for `usearch.index.Index.restore`: HNSW by cosine, in float32; its keys are the numbers.

    Raises Refused for a path that exists, and where the package is missing.
    """
    usearch = require_extra("usearch.index", "usearch")
    index = usearch.Index(ndim=sources[0].dim, metric="cos", dtype="f32")

    def add(first: int, vectors: np.ndarray) -> None:
        index.add(np.arange(first, first + len(vectors), dtype=np.uint64), vectors)

    return _written(sources, path, "HNSW", add, index.save)


def _written(sources: Sequence[VectorSource], path: Path, kind: str, add: Add, save: Save) -> IndexFile:
    ids = path.with_name(f"{path.name}.ids.parquet")
    for there in (path, ids):
        if there.exists():
            raise Refused(f"{there} exists; give another name, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    for first, vectors in _unit_blocks(sources):
        add(first, vectors)
        count = first + len(vectors)
    _put(ids, lambda to: pq.write_table(_numbered(sources), to, compression="zstd"))
    _put(path, save)  # the last of the two: where it is, its ids are
    return IndexFile(path, ids, count, kind)


def _put(path: Path, write: Save) -> None:
    """Write a file under a name of its own first: nobody finds half of it."""
    private = path.with_name(private_name())
    try:
        write(str(private))
        private.replace(path)
    finally:
        private.unlink(missing_ok=True)


def _unit_blocks(sources: Sequence[VectorSource]) -> Iterator[tuple[int, np.ndarray]]:
    before = 0
    for source in sources:
        for block in source.blocks():
            yield before + block.first, unit_length(block.vectors.astype(np.float64)).astype(np.float32)
        before += source.rows


def _sample(sources: Sequence[VectorSource]) -> np.ndarray:
    rng, total = np.random.default_rng(_SEED), sum(source.rows for source in sources)
    picked = np.sort(rng.choice(total, min(total, _TRAINED_WITH), replace=False))
    parts, before = [], 0
    for source in sources:
        mine = picked[(picked >= before) & (picked < before + source.rows)] - before
        parts.append(unit_length(source.take(mine).astype(np.float64)).astype(np.float32))
        before += source.rows
    return np.concatenate(parts)


def _numbered(sources: Sequence[VectorSource]) -> pa.Table:
    ids = [stretch for source in sources for _, stretch in source.ids()]
    modalities = [source.modality for source in sources for _ in range(source.rows)]
    column = pa.chunked_array(ids, pa.string())
    kinds = pa.array(modalities, pa.string()).dictionary_encode()
    return pa.table({"number": pa.array(np.arange(len(column))), "id": column, "modality": kinds})
