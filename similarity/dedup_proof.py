"""The proof of a dedup, offline: every file whole and its own, each row kept or left out for one that is kept."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.counted import counted
from schemas.dedup import DedupRecord
from schemas.errors import EmbedmillError, StoreError
from schemas.shard import FOOTER_KEY
from storage import layout
from storage.parquet import parse_parquet
from storage.parquet_seal import check_seal
from storage.store import Store

_DAMAGE = (EmbedmillError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException)


@dataclass(slots=True)
class DedupVerdict:
    """What the files of a dedup prove."""

    dedup: str
    files: int = 0
    rows: int = 0
    kept: int = 0
    published: bool = False  # both tables are there
    problems: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether both tables are there and nothing is wrong."""
        return self.published and not self.problems

    def lines(self) -> list[str]:
        """What is proved, or what is wrong."""
        told = f"{self.dedup}: {counted(self.files, 'file')}, {self.kept:,} of {self.rows:,} rows kept"
        if self.problems:
            return [
                f"{told}: {counted(len(self.problems), 'problem')}",
                *(f"  {problem}" for problem in self.problems[:20]),
            ]
        return [f"{told}: each byte as it was written" + ("" if self.published else "; it has not ended")]


def prove_dedup(store: Store) -> DedupVerdict:
    """Read every file of the dedup at `store`; raises SpecMismatch where its record is damaged."""
    record = DedupRecord.from_json(store.get(layout.DEDUP))
    verdict = DedupVerdict(record.id)
    tables: dict[str, pa.Table] = {}
    stages = sorted(item.key for item in store.walk("stage"))
    for key in [*stages, *(k for k in (layout.CLUSTERS, layout.KEEP) if store.size(k) is not None)]:
        try:
            table = _proved(store, key, record)
        except _DAMAGE as err:
            verdict.problems.append(f"{key}: {(str(err).splitlines() or [type(err).__name__])[0]}")
            continue
        verdict.files += 1
        if key not in stages:
            tables[key] = table
    verdict.published = len(tables) == 2
    if verdict.published:
        _compare(tables[layout.CLUSTERS], tables[layout.KEEP], record, verdict)
    return verdict


def _proved(store: Store, key: str, record: DedupRecord) -> pa.Table:
    data = store.get(key)
    _, broken = check_seal(data, key)
    if broken:
        raise StoreError(broken)
    table = parse_parquet(data, key)
    if _footer(table)["dedup"] != record.id:
        raise StoreError(f"it is not of {record.id}")
    return table


def _footer(table: pa.Table) -> dict[str, Any]:  # Any: an id and numbers
    told: dict[str, Any] = json.loads((table.schema.metadata or {})[FOOTER_KEY])
    return told


def _compare(clusters: pa.Table, keep: pa.Table, record: DedupRecord, verdict: DedupVerdict) -> None:
    """Add to the verdict what the two tables say of each other, and of the data set."""
    told = _footer(keep)
    verdict.rows, verdict.kept = record.spec.source.rows, keep.num_rows
    kept = clusters.filter(clusters["is_kept"])
    wrong = {
        "the two tables tell of different runs": _footer(clusters) != told,
        "keep.parquet has another number of rows than it says": keep.num_rows != told["kept"],
        "keep.parquet has an id twice": pc.count_distinct(keep["id"]).as_py() != keep.num_rows,
        "the copies are not the rows of the data set": pc.sum(keep["copies"]).as_py() != verdict.rows,
        "a cluster keeps no row, or more than one": (
            sorted(kept["cluster"].to_pylist()) != list(range(told["clusters"]))
            or len(np.unique(clusters["cluster"])) != told["clusters"]
        ),
        "a row that is kept is not its cluster's representative": (
            clusters["is_kept"].to_pylist() != pc.equal(clusters["id"], clusters["representative"]).to_pylist()
        ),
        "keep.parquet and clusters.parquet do not agree on what is kept": (
            pc.is_in(clusters["id"], keep["id"].combine_chunks()).to_pylist() != clusters["is_kept"].to_pylist()
        ),
    }
    verdict.problems += [problem for problem, is_so in wrong.items() if is_so]
