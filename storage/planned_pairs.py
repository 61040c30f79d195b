"""Planned pairs: the rows of a plan whose job scores pairs, as a table and back."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from schemas.failures import FailureCode
from schemas.job import JobSpec, KeptColumn
from schemas.model_cards import Kind
from schemas.rows import PAIR_MARK, ManifestRow, Modality, PairRow, Part
from storage.plans import PARTS, kept_schema, rows_schema

#: One side of a pair, without its id, which the pair's tells.
_SIDE = pa.struct(
    [
        pa.field("modality", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("parts", PARTS),
        pa.field("defect", pa.string()),
    ]
)


def pairs_schema(keep: Iterable[KeptColumn]) -> pa.Schema:
    """The schema of plan/rows-*.parquet of a job that scores pairs."""
    own = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("query", _SIDE, nullable=False),
        pa.field("item", _SIDE, nullable=False),
    ]
    return pa.schema(own + [field.with_name(f"keep.{field.name}") for field in kept_schema(keep)])


def planned_schema(spec: JobSpec) -> pa.Schema:
    """The schema of a job's planned rows."""
    return rows_schema(spec.keep) if spec.kind is Kind.EMBED else pairs_schema(spec.keep)


def pairs_table(pairs: list[PairRow], keep: Iterable[KeptColumn]) -> pa.Table:
    """The pairs as a table of the plan's schema, sorted by id; pairs_of reads it."""
    schema, pairs = pairs_schema(keep), sorted(pairs, key=lambda pair: pair.id)
    columns: list[list[object]] = [
        [pair.id for pair in pairs],
        [pair.line for pair in pairs],
        [_values(pair.query) for pair in pairs],
        [_values(pair.item) for pair in pairs],
    ]
    columns += [[pair.kept[n] for pair in pairs] for n in range(len(schema) - len(columns))]
    return pa.table(columns, schema=schema)


def pairs_of(table: pa.Table) -> list[PairRow]:
    """The pairs of a table of the plan's schema; equal sides of one table are one object."""
    kept = [name for name in table.column_names if name.startswith("keep.")]
    kept_rows: Iterator[tuple[object, ...]] = zip(*(table[name].to_pylist() for name in kept), strict=True)
    queries: dict[str, ManifestRow] = {}
    items: dict[str, ManifestRow] = {}
    pairs = []
    columns = (table[name].to_pylist() for name in ("id", "line", "query", "item"))
    for id_, line, query, item in zip(*columns, strict=True):
        query_id, _, item_id = id_.partition(PAIR_MARK)
        if query_id not in queries:
            queries[query_id] = _side(query_id, line, query)
        if item_id not in items:
            items[item_id] = _side(item_id, line, item)
        kept_values = next(kept_rows) if kept else ()
        pairs.append(PairRow(line=line, query=queries[query_id], item=items[item_id], kept=kept_values))
    return pairs


def _values(side: ManifestRow) -> dict[str, object]:
    parts = [{"modality": str(part.modality), "text": part.text, "uri": part.uri} for part in side.parts]
    return {
        "modality": str(side.modality),
        "text": side.text,
        "uri": side.uri,
        "parts": parts or None,
        "defect": None if side.defect is None else str(side.defect),
    }


def _side(id_: str, line: int, values: dict[str, Any]) -> ManifestRow:  # Any: as Arrow gives it
    return ManifestRow(
        id=id_,
        line=line,
        modality=Modality(values["modality"]),
        text=values["text"],
        uri=values["uri"],
        parts=tuple(Part(**part | {"modality": Modality(part["modality"])}) for part in values["parts"] or ()),
        defect=None if values["defect"] is None else FailureCode(values["defect"]),
    )
