"""Clusters: rows that are copies of each other, the one of each that stays, and how near the others are to it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from similarity.exact import cosines
from similarity.row_order import manifest_order
from similarity.vectors import VectorSource
from storage.parquet import ID

#: Bytes for each dimension of a pair of rows whose cosine is taken: as read, in float64, of unit length, and products.
_PAIR_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """The rows of clusters of two rows and more; cluster after cluster, its representative first, then in row order."""

    rows: np.ndarray  # int64 (n,): numbers in the source
    cluster: np.ndarray  # int64 (n,): from 0, by the place of the cluster's first row
    representative: np.ndarray  # int64 (n,): the row that stays
    scores: np.ndarray  # float32 (n,): cosine to the representative
    count: int


def make_clusters(
    source: VectorSource, labels: np.ndarray, *, alike: np.ndarray, keep_by: str, keep_least: bool, memory: int
) -> Clusters:
    """The clusters of rows with equal labels; rows with equal `alike` have the same vector.

    The representative has the greatest value in the column `keep_by` (with `keep_least` the least; null and NaN lose),
    and among equals, or without a column, comes first in the order of its manifest, or of its files.
    """
    rows = np.flatnonzero(np.bincount(labels, minlength=len(labels))[labels] > 1)
    label = labels[rows]
    place = manifest_order(source, rows)
    by_place = np.lexsort((place, label))
    first_place = place[by_place][_first_of(label[by_place])]  # of each row, that of its cluster's first
    numbered = np.empty(len(rows), np.int64)
    numbered[by_place] = np.unique(first_place, return_inverse=True)[1]
    order = _order(source, rows, numbered, place, keep_by, keep_least)
    rows, cluster = rows[order], numbered[order]
    representative = rows[_first_of(cluster)]
    return Clusters(
        rows=rows,
        cluster=cluster,
        representative=representative,
        scores=_scores(source, rows, representative, alike, memory),
        count=int(cluster[-1]) + 1 if len(cluster) else 0,
    )


def clusters_table(clusters: Clusters, source: VectorSource) -> pa.Table:
    """id, cluster, representative, is_kept, score: every row that has copies."""
    ids = _ids(source, clusters.rows)
    return pa.table(
        {
            "id": ids,
            "cluster": clusters.cluster,
            "representative": ids.take(pa.array(_first_of(clusters.cluster))),
            "is_kept": clusters.rows == clusters.representative,
            "score": clusters.scores,
        }
    )


def keep_table(clusters: Clusters, source: VectorSource) -> pa.Table:
    """id, copies: each row that stays, in the order of the files, and how many rows it stands for, itself included."""
    copies = np.ones(source.rows, np.int64)
    copies[clusters.rows] = 0
    np.add.at(copies, clusters.representative, 1)
    kept = np.flatnonzero(copies)
    return pa.table({"id": source.columns([ID], kept)[ID], "copies": copies[kept]})


def _first_of(sorted_labels: np.ndarray) -> np.ndarray:
    """For each item the index of the first with its label; labels are in runs."""
    begins = np.ones(len(sorted_labels), np.bool_)
    begins[1:] = sorted_labels[1:] != sorted_labels[:-1]
    return np.flatnonzero(begins)[np.cumsum(begins) - 1] if len(begins) else np.zeros(0, np.int64)


def _order(
    source: VectorSource, rows: np.ndarray, cluster: np.ndarray, place: np.ndarray, keep_by: str, keep_least: bool
) -> np.ndarray:
    """Cluster after cluster: what stays first, the others by their places."""
    if not keep_by:
        return np.lexsort((place, cluster))
    values = source.columns([keep_by], rows)[keep_by].combine_chunks()
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    table = pa.table({"cluster": cluster, "value": values, "place": place})
    by_value = "ascending" if keep_least else "descending"
    keys = [("cluster", "ascending"), ("value", by_value), ("place", "ascending")]
    best = np.asarray(pc.sort_indices(table, sort_keys=keys))  # nulls come last
    is_first = np.zeros(len(rows), np.bool_)
    is_first[best[np.unique(_first_of(cluster[best]))]] = True
    return np.lexsort((place, ~is_first, cluster))


def _ids(source: VectorSource, rows: np.ndarray) -> pa.ChunkedArray:
    ascending, at = np.unique(rows, return_inverse=True)
    return source.columns([ID], ascending)[ID].take(pa.array(at))


def _scores(source: VectorSource, rows: np.ndarray, others: np.ndarray, alike: np.ndarray, memory: int) -> np.ndarray:
    """float32 cosines of pairs of rows; 1 for the same vector, also where its length is zero."""
    scores = np.ones(len(rows), np.float32)
    apart = np.flatnonzero(alike[rows] != alike[others])
    step = max(1, memory // (_PAIR_BYTES * source.dim))
    for begin in range(0, len(apart), step):
        some = apart[begin : begin + step]
        scores[some] = cosines(_vectors(source, rows[some]), _vectors(source, others[some]))
    return scores


def _vectors(source: VectorSource, rows: np.ndarray) -> np.ndarray:
    """float32 (n, dim): the vectors of rows in any order."""
    ascending, at = np.unique(rows, return_inverse=True)
    return source.take(ascending)[at]
