"""Nearest rows: exact, by cosine, over published Parquet; for a look by hand at what a job made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.errors import Refused
from schemas.space import incomparable
from storage.parquet import VECTOR
from storage.shards import published_shards, read_shard
from storage.store import Store


@dataclass(frozen=True, slots=True)
class Dataset:
    """The vectors of a job, whole in memory: float32 (n, dim), unit length."""

    ids: list[str]
    vectors: np.ndarray
    space: Mapping[str, Any]  # its fields


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One row near a query; `score` is the cosine."""

    id: str
    score: float


def load_dataset(store: Store, modality: str) -> Dataset:
    """The rows of one modality of a job; raises Refused where there are none."""
    ids: list[str] = []
    parts: list[np.ndarray] = []
    space: Mapping[str, Any] = {}
    for _, key, _ in sorted(published_shards(store)):
        if key.startswith(f"data/modality={modality}/"):
            footer, shard_ids, vectors, _ = read_shard(store, key)
            if VECTOR not in vectors:
                raise Refused(f"{store.url} holds scores of pairs and no vectors; give the folder of an embed job")
            ids += shard_ids
            if vectors[VECTOR].dtype.kind != "f":
                raise Refused(f"{store.url}: its column {VECTOR} is quantised; embed with --output-dtype float32 first")
            parts.append(vectors[VECTOR].astype(np.float32))
            space = footer.space_fields
    if not ids:
        raise Refused(f"{store.url} holds no vectors of modality {modality}")
    return Dataset(ids, _unit(np.concatenate(parts)), space)


def nearest(queries: Dataset, rows: Dataset, *, k: int) -> list[list[Neighbour]]:
    """For each query its `k` nearest rows, the nearest first; ties by id.

    Raises Refused for datasets of different spaces: their vectors mean nothing to each other.
    """
    differing = incomparable(queries.space, rows.space)
    if differing:
        raise Refused(f"the queries and the rows differ in {', '.join(differing)}: they cannot be compared")
    scores = queries.vectors @ rows.vectors.T
    ids = np.asarray(rows.ids)
    best = [np.lexsort((ids, -line))[:k] for line in scores]
    return [[Neighbour(str(ids[i]), float(line[i])) for i in order] for line, order in zip(scores, best, strict=True)]


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
