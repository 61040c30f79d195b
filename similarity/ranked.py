"""Ranked lists: for each judged query the items that a join or a rerank gave it, the best first."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import Refused
from schemas.failures import one_line
from similarity.judged import PAIR_NAMES, Judged
from similarity.record_files import RecordFile, find_files, id_column, id_of, number_column, number_of

_PIECE_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The relevant items that were found, and where; all else that was found only takes up places."""

    query: np.ndarray  # int64 (n,): index into Judged.queries
    place: np.ndarray  # int64 (n,): from 1, within the query's list
    grade: np.ndarray  # float64 (n,), above 0
    pairs: int  # of the output, all of them
    found: np.ndarray  # bool (queries,): whether the output has any pair of the query
    unjudged: int  # pairs of the output whose query nobody judged
    by: str  # "rank" or "score"
    ties: int  # pairs in the same place as another of their query; the order of their ids decided
    repeated: int  # pairs that were there before, as with segments of one film: the best place counts


def read_ranked(location: str, judged: Judged) -> Ranked:
    """The lists of the judged queries in the output at `location`; memory holds their pairs, no others.

    Ordered by the column `rank` where there is one, else by `score`, the highest first; ties by the item's id.
    Raises Refused where there are not two id columns, or neither rank nor score, or where no judged query occurs.
    """
    files = find_files(location)
    wanted = pa.array(judged.queries, pa.string())
    kept, orders, count, example = [], set(), 0, ""
    for file in files:
        for by, piece in _pieces(file):
            orders.add(by)
            count += piece.num_rows
            query = pc.index_in(piece["query"], wanted)
            example = example or str(piece["query"][0])
            kept.append(pa.table([query, piece["item"], piece["order"]], ["query", "item", "order"]).drop_null())
    if len(orders) > 1:
        raise Refused(f"{location}: some of its files have a rank, others only a score; give them one by one")
    table = pa.concat_tables(kept) if kept else _EMPTY
    if count and not table.num_rows:
        raise Refused(
            f"{location}: none of the {len(judged.queries)} judged queries is in it; query ids there are like "
            f"{one_line(example)}, those of the judged pairs like {one_line(judged.queries[0])}"
        )
    return _ranked(table, judged, pairs=count, by=orders.pop() if orders else "rank")


_EMPTY = pa.table({"query": pa.array([], pa.int32()), "item": pa.array([], pa.string()), "order": pa.array([], "f8")})


def _ranked(table: pa.Table, judged: Judged, *, pairs: int, by: str) -> Ranked:
    query, order = _numbers(table["query"]).astype(np.int64), _numbers(table["order"])
    item, known, names = _codes(table["item"], judged.pairs["item"])
    by_place = np.lexsort((item, order, query))
    query, item, order = query[by_place], item[by_place], order[by_place]
    ties = int(np.count_nonzero((query[1:] == query[:-1]) & (order[1:] == order[:-1]))) if len(query) else 0
    key = query * names + item
    first = np.sort(np.unique(key, return_index=True)[1])  # of a pair that occurs again, the best place
    query, key = query[first], key[first]
    starts = np.searchsorted(query, query)  # sorted: where its list begins
    grade = _grades(key, _numbers(judged.pairs["query"]) * names + known, _numbers(judged.pairs["grade"]))
    hit = grade > 0
    return Ranked(
        query=query[hit],
        place=(np.arange(len(query)) - starts + 1)[hit],
        grade=grade[hit],
        pairs=pairs,
        found=np.isin(np.arange(len(judged.queries)), query),
        unjudged=pairs - table.num_rows,
        by=by,
        ties=ties,
        repeated=len(by_place) - len(first),
    )


def _codes(found: pa.ChunkedArray, judged: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, int]:
    """The items of both as numbers that sort as their ids do, and how many different ones there are."""
    both = pa.chunked_array([*found.chunks, *judged.chunks], pa.string()).combine_chunks().dictionary_encode()
    by_id = np.asarray(pc.array_sort_indices(both.dictionary))
    place = np.empty(len(by_id), np.int64)
    place[by_id] = np.arange(len(by_id))
    codes = place[np.asarray(both.indices)]
    return codes[: len(found)], codes[len(found) :], len(by_id)


def _grades(keys: np.ndarray, judged: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """The grade of each key; 0 where it is not among the judged."""
    by_key = np.argsort(judged)
    at = np.searchsorted(judged[by_key], keys)
    at = by_key[np.minimum(at, len(by_key) - 1)]
    return np.where(judged[at] == keys, grades[at], 0.0)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.combine_chunks())


# --- reading


def _pieces(file: RecordFile) -> Iterator[tuple[str, pa.Table]]:
    """`rank` or `score`, and pieces of the pairs: query, item, order (the less, the better)."""
    if file.is_parquet:
        query, item, by = _columns_of(file.column_names(), file.name)
        for batch in file.batches([query, item, by]):
            order = number_column(batch, by, file)
            yield by, _piece(id_column(batch, query, file), id_column(batch, item, file), order, by)
    else:
        yield from _text_pieces(file)


def _text_pieces(file: RecordFile) -> Iterator[tuple[str, pa.Table]]:
    query = item = by = ""
    held: list[tuple[str, str, float]] = []
    for number, values in file.records():
        where = f"{file.name} line {number}"
        if not by:
            query, item, by = _columns_of(list(values), where)
        ids = id_of(values.get(query), f"{where}: {query}"), id_of(values.get(item), f"{where}: {item}")
        held.append((*ids, number_of(values.get(by), f"{where}: {by}")))
        if len(held) >= _PIECE_ROWS:
            yield by, _text_piece(held, by)
            held = []
    if held:
        yield by, _text_piece(held, by)


def _text_piece(held: list[tuple[str, str, float]], by: str) -> pa.Table:
    queries, items, orders = zip(*held, strict=True)
    return _piece(pa.array(queries, pa.string()), pa.array(items, pa.string()), pa.array(orders, pa.float64()), by)


def _piece(query: pa.Array, item: pa.Array, order: pa.Array, by: str) -> pa.Table:
    return pa.table({"query": query, "item": item, "order": order if by == "rank" else pc.negate(order)})


def _columns_of(names: list[str], where: str) -> tuple[str, str, str]:
    """The columns of query and item, and `rank` or `score`."""
    ids = next((pair for pair in PAIR_NAMES if set(pair) <= set(names)), None)
    if ids is None:
        raise Refused(f"{where}: no pairs; they have query_id and item_id, or left_id and right_id")
    by = next((name for name in ("rank", "score") if name in names), None)
    if by is None:
        raise Refused(f"{where}: neither rank nor score; one of them says which item comes first")
    return *ids, by
