"""Judged pairs: which items people found to fit a query, and how well."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.errors import Refused
from similarity.record_files import Values, find_files, id_of, number_of

#: The names that the two ids of a pair go by: of a rerank, of a join.
PAIR_NAMES = (("query_id", "item_id"), ("left_id", "right_id"))
#: Grades beyond this are no grades: a gain of 2^1000 is no number.
_MOST = 50.0


@dataclass(frozen=True, slots=True)
class Judged:
    """Pairs that people judged; a query or pair that is not here was never looked at."""

    queries: list[str]  # in the order of the file; each has at least one relevant item
    pairs: pa.Table  # query int64 (index into queries), item string, grade float64 > 0; each pair once
    without_relevant: int  # queries that were judged, and nothing fits: nothing can be measured with them


def read_judged(location: str) -> Judged:
    """Read `query_id, item_id[, relevance]`, or `id, relevant: [item, ...]`, from JSONL, CSV or Parquet.

    A pair without `relevance` is relevant (1); grades may be fractions, 0 is "does not fit".
    Raises Refused naming file and line for what is none of this, and for a pair that is judged in two ways.
    """
    grades: dict[str, dict[str, float]] = {}
    for where, query, item, grade in _judgements(location):
        known = grades.setdefault(query, {})
        if item is not None and known.setdefault(item, grade) != grade:
            raise Refused(f"{where}: item {item} is judged {grade:g} for query {query}, and {known[item]:g} elsewhere")
    fitting = {query: {i: g for i, g in items.items() if g > 0} for query, items in grades.items()}
    queries = [query for query, items in fitting.items() if items]
    if not queries:
        raise Refused(f"{location}: no query has an item that is judged to fit; nothing can be measured with it")
    return Judged(queries, _table([fitting[query] for query in queries]), len(fitting) - len(queries))


def _table(fitting: list[dict[str, float]]) -> pa.Table:
    counts = [len(items) for items in fitting]
    return pa.table(
        {
            "query": np.repeat(np.arange(len(fitting)), counts),
            "item": pa.array([item for items in fitting for item in items], pa.string()),
            "grade": np.array([grade for items in fitting for grade in items.values()], np.float64),
        }
    )


def _judgements(location: str) -> Iterator[tuple[str, str, str | None, float]]:
    """Where it stands, query, item and grade of each judgement; item None: the query alone."""
    for file in find_files(location):
        for number, values in file.records():
            where = f"{file.name} {'row' if file.is_parquet else 'line'} {number}"
            for query, item, grade in _judgements_in(values, where):
                yield where, query, item, grade


def _judgements_in(values: Values, where: str) -> Iterator[tuple[str, str | None, float]]:
    if "relevant" in values:
        yield from _listed(values, where)
        return
    for query, item in PAIR_NAMES:
        if query in values and item in values:
            grade = _grade(values["relevance"], f"{where}: relevance") if "relevance" in values else 1.0
            yield id_of(values[query], f"{where}: {query}"), id_of(values[item], f"{where}: {item}"), grade
            return
    raise Refused(f"{where}: neither query_id and item_id, nor id and relevant; see `embedmill eval --help`")


def _listed(values: Values, where: str) -> Iterator[tuple[str, str | None, float]]:
    """The judgements of a query with the list of what fits."""
    name = "query_id" if "query_id" in values else "id"
    query, items = id_of(values.get(name), f"{where}: {name}"), values["relevant"]
    if not isinstance(items, list):
        raise Refused(f"{where}: relevant is a {type(items).__name__}; give a list of item ids")
    yield query, None, 0.0
    for item in items:
        yield query, id_of(item, f"{where}: an item of relevant"), 1.0


def _grade(value: object, where: str) -> float:
    grade = number_of(value, where)
    if not 0 <= grade <= _MOST:
        raise Refused(f"{where} is {grade:g}; give 0 (does not fit) up to {_MOST:g}")
    return grade
