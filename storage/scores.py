"""Scores: the columns of a published shard of pairs, and their ranks."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.rerank import JOIN_SCORE
from schemas.rows import PAIR_MARK
from storage.parquet import ID, column_file

QUERY, ITEM, SCORE, RANK = "query_id", "item_id", "score", "rank"


def is_scores(table: pa.Table) -> bool:
    """Whether a published table holds scores of pairs."""
    return {QUERY, ITEM, SCORE} <= set(table.column_names)


def ids_in(table: pa.Table) -> pa.ChunkedArray:
    """The ids of a published table's rows, as they were planned."""
    if not is_scores(table):
        return table[ID]
    return pc.binary_join_element_wise(table[QUERY], table[ITEM], PAIR_MARK)


def scores_in(table: pa.Table) -> np.ndarray:
    """float32 (n, 1); NaN where a pair was not scored."""
    found = np.array(table[SCORE].combine_chunks().fill_null(np.nan), np.float32)
    found[np.isnan(found)] = np.nan  # of one bit pattern, for digests
    return found.reshape(-1, 1)


def joined_in(table: pa.Table) -> np.ndarray | None:
    """The join scores that were kept, float64 (n,); None where they were not."""
    return np.asarray(table[JOIN_SCORE], np.float64) if JOIN_SCORE in table.column_names else None


Band = tuple[float, float] | None


def in_band(joined: np.ndarray, band: Band) -> np.ndarray:
    """Which pairs are scored, bool (n,): those whose join score is within the band, or all."""
    return np.ones(len(joined), np.bool_) if band is None else (joined >= band[0]) & (joined <= band[1])


def ranks(ids: Sequence[str], scores: np.ndarray, joined: np.ndarray | None = None, band: Band = None) -> list[int]:
    """Each pair's place within its query, 1 for the highest score; of equal scores the smaller item id comes first.

    With a band, pairs above it come first and those below it last, both by their join score, float64 (n,).
    `ids` are those of pairs, sorted; `scores` float32 (n, 1).
    """
    flat = scores.reshape(-1).astype(np.float64)
    above = np.zeros(len(ids), np.int8)
    if band is not None and joined is not None:
        above = (joined > band[1]).astype(np.int8) - (joined < band[0]).astype(np.int8)
        flat = np.where(in_band(joined, band), flat, joined)
    queries = [id_.partition(PAIR_MARK)[0] for id_ in ids]
    begins = [0] * len(ids)
    numbers = [0] * len(ids)  # of each pair's query
    for at in range(1, len(ids)):
        same = queries[at] == queries[at - 1]
        begins[at], numbers[at] = (begins[at - 1], numbers[at - 1]) if same else (at, numbers[at - 1] + 1)
    order = np.lexsort((np.arange(len(ids)), -flat, -above, np.array(numbers, np.int64)))
    found = np.empty(len(ids), np.int64)
    found[order] = np.arange(len(ids))
    return [int(place) - begin + 1 for place, begin in zip(found, begins, strict=True)]


def scores_file(
    ids: Sequence[str], scores: np.ndarray, ranked: Sequence[int | None], kept: pa.Table, metadata: dict[bytes, bytes]
) -> bytes:
    """A shard of scores as one sealed Parquet file; `ids` are those of the pairs, sorted."""
    sides = [id_.partition(PAIR_MARK) for id_ in ids]
    columns = [
        (pa.field(QUERY, pa.string(), nullable=False), [query for query, _, _ in sides]),
        (pa.field(ITEM, pa.string(), nullable=False), [item for _, _, item in sides]),
        (pa.field(SCORE, pa.float32()), pa.array(scores.reshape(-1), from_pandas=True)),  # null where it is NaN
        (pa.field(RANK, pa.int32()), ranked),
    ]
    fields = [field for field, _ in columns] + list(kept.schema)
    arrays = [pa.array(values, field.type) for field, values in columns] + list(kept.columns)
    return column_file(pa.table(arrays, schema=pa.schema(fields, metadata=metadata)), floats=[SCORE])
