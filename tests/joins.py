"""Joins for tests: vectors in Parquet, and joins of them that end, or are left in their middle."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import Stopped
from similarity.join import Join, pin
from similarity.join_request import JoinRequest, SideRequest, plan_join
from storage.store import open_store

MEMORY = 2**29


def vectors_file(path: Path, vectors: np.ndarray, ids: list[Any] | pa.Array, **more: Any) -> Path:
    """Parquet with ids, float32 vectors, and other columns."""
    flat = pa.array(vectors.astype(np.float32).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    pq.write_table(pa.table({"id": ids, "embedding": column, **more}), path)
    return path


def random_file(path: Path, prefix: str, rows: int, *, seed: int, dim: int = 8) -> Path:
    """Random vectors, with the ids `prefix`000, `prefix`001, ..."""
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    return vectors_file(path, vectors, [f"{prefix}{n:03d}" for n in range(rows)])


def join_of(left: Path, right: Path, out: Path, *, panel_rows: int, max_pairs: int = 10**6, **asked: Any) -> bool:
    """A join of so many left rows a panel; False where `max_pairs` stopped it."""
    request = JoinRequest(
        left=SideRequest(location=str(left)), right=SideRequest(location=str(right)), memory=MEMORY, **asked
    )
    planned, store = plan_join(request), open_store(str(out))
    record = pin(store, replace(planned.spec, panel_rows=panel_rows))
    try:
        Join(store, record, planned.left, planned.right, effort=planned.effort(1, max_pairs)).run()
    except Stopped:
        return False
    return True
