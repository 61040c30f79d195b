"""The pair index: pairs grouped by query, and the rows that their ids name, in a file: memory stays flat."""

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from schemas.failures import FailureCode
from schemas.rows import ManifestRow, Modality, PairRow, Part

#: What SQLite may hold of the file in memory, KiB.
_CACHE_KIB = 65_536

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
CREATE TABLE pairs (query TEXT, item TEXT, line INTEGER, kept TEXT);
CREATE TABLE queries (id TEXT PRIMARY KEY, content TEXT) WITHOUT ROWID;
CREATE TABLE items (id TEXT PRIMARY KEY, content TEXT) WITHOUT ROWID;
"""
_WANTED = """
INSERT INTO queries (id) SELECT DISTINCT query FROM pairs ORDER BY query;
INSERT INTO items (id) SELECT DISTINCT item FROM pairs ORDER BY item;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPair:
    """A pair as its manifest names it."""

    query: str
    item: str
    line: int
    kept: tuple[object, ...] = ()


class PairIndex:
    """Takes the pairs, then the rows of both sides, and gives the pairs back by query.

    Use it as a context manager; what it wrote goes with it.
    """

    def __enter__(self) -> "PairIndex":
        self._folder = tempfile.TemporaryDirectory(prefix="embedmill-pairs-")
        self._file = sqlite3.connect(Path(self._folder.name) / "pairs.sqlite", isolation_level=None)
        self._file.executescript(f"PRAGMA cache_size = -{_CACHE_KIB};{_SCHEMA}")
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._folder.cleanup()

    def add_pairs(self, pairs: Iterable[NamedPair]) -> None:
        """Take all pairs; once, and before the sides."""
        named = ((pair.query, pair.item, pair.line, json.dumps(pair.kept) if pair.kept else None) for pair in pairs)
        self._many("INSERT INTO pairs VALUES (?, ?, ?, ?)", named)
        self._file.executescript(_WANTED)

    def add_queries(self, rows: Iterable[ManifestRow]) -> None:
        """Take the rows that pairs name as queries, of several with one id the first."""
        self._fill("queries", rows)

    def add_items(self, rows: Iterable[ManifestRow]) -> None:
        """Take the rows that pairs name as items, like `add_queries`."""
        self._fill("items", rows)

    def by_query(self) -> Iterator[list[NamedPair]]:
        """The pairs of each query by item, then line; queries by id. None is left out, however often it is there."""
        found = self._file.execute("SELECT query, item, line, kept FROM pairs ORDER BY query, item, line")
        named = (
            NamedPair(query=query, item=item, line=line, kept=tuple(json.loads(kept)) if kept else ())
            for query, item, line, kept in found
        )
        for _, pairs in groupby(named, key=lambda pair: pair.query):
            yield list(pairs)

    def resolved(self, pairs: list[NamedPair]) -> list[PairRow]:
        """Pairs of one query with the rows of their ids; a row with a defect stands for one that is not there."""
        query = self._row("queries", pairs[0].query, pairs[0].line)
        return [
            PairRow(line=pair.line, query=query, item=self._row("items", pair.item, pair.line), kept=pair.kept)
            for pair in pairs
        ]

    def _fill(self, table: str, rows: Iterable[ManifestRow]) -> None:
        wanted = (row for row in rows if self._is_wanted(table, row.id))
        # The table's name is ours; ids and contents are parameters.
        self._many(f"UPDATE {table} SET content = ? WHERE id = ?", ((_packed(row), row.id) for row in wanted))  # noqa: S608

    def _is_wanted(self, table: str, id_: str) -> bool:
        found = self._file.execute(f"SELECT 1 FROM {table} WHERE id = ? AND content IS NULL", (id_,))  # noqa: S608
        return found.fetchone() is not None

    def _row(self, table: str, id_: str, line: int) -> ManifestRow:
        content = self._file.execute(f"SELECT content FROM {table} WHERE id = ?", (id_,)).fetchone()[0]  # noqa: S608
        if content is None:
            return ManifestRow(id=id_, line=line, modality=Modality.TEXT, defect=FailureCode.ID_UNKNOWN)
        return _unpacked(id_, line, json.loads(content))

    def _many(self, statement: str, values: Iterable[tuple[Any, ...]]) -> None:  # Any: what SQLite takes
        self._file.execute("BEGIN")
        self._file.executemany(statement, values)
        self._file.execute("COMMIT")


def _packed(row: ManifestRow) -> str:
    parts = [(part.modality, part.text, part.uri) for part in row.parts]
    return json.dumps((row.modality, row.text, row.uri, row.defect, parts))


def _unpacked(id_: str, line: int, packed: list[Any]) -> ManifestRow:
    modality, text, uri, defect, parts = packed
    return ManifestRow(
        id=id_,
        line=line,
        modality=Modality(modality),
        text=text,
        uri=uri,
        defect=None if defect is None else FailureCode(defect),
        parts=tuple(Part(modality=Modality(kind), text=text, uri=uri) for kind, text, uri in parts),
    )
