"""Dedup: the clusters of near copies in a data set, and the rows that stay; killed at any moment, it goes on.

First rows with the same vector, bit for bit, are put together by their hash. Those that are left are compared each with
all that come after it, panel by panel; of a panel's pairs only what hangs together is kept. So memory holds the pairs
of some rows at a time, and some numbers a row, whatever the clusters.
"""

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.dedup import DedupRecord, DedupSpec
from schemas.errors import Conflict, EmbedmillError, SpecMismatch, Stopped
from schemas.join import Device, Precision
from schemas.shard import FOOTER_KEY
from similarity import kernel
from similarity.advice import threshold_advice
from similarity.clusters import Clusters, clusters_table, keep_table, make_clusters
from similarity.components import Components
from similarity.distinct import Distinct, first_alike
from similarity.engine import TILE_RIGHT, Engine, engine_for
from similarity.kernel import Block, Wanted
from similarity.measure import COSINE
from similarity.vectors import VectorSource
from storage import layout
from storage.jobs import now
from storage.parquet import open_parquet, plain_file, read_sealed
from storage.phases import Phase, panels_of
from storage.store import LocalStore, Store

_VERSIONED = ("embedmill", "torch", "numpy", "pyarrow")
#: Bytes that a pair takes up while it is found, sorted and copied.
_PAIR_BYTES = 64

#: What is done: its name, panels done, panels in all, pairs.
Progress = Callable[[str, int, int, int], None]


class _TooMany(EmbedmillError):
    """More pairs of these rows than memory holds; fewer rows have fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a dedup may take up; nothing here changes a cluster."""

    threads: int = 1
    device: Device = Device.AUTO
    memory: int = 2**30  # bytes
    max_pairs: int = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a dedup came to, as the footers of its files have it."""

    dedup: str
    rows: int
    distinct: int  # vectors
    pairs: int  # of distinct vectors, at the threshold or above
    clusters: int  # of two rows and more
    kept: int


def pin(store: Store, spec: DedupSpec) -> DedupRecord:
    """The dedup at `store`: the one that is there, if it is of the same spec, or a new one.

    Raises SpecMismatch, and names what differs, where something else is there.
    """
    for other in (layout.JOB, layout.JOIN):
        if store.size(other) is not None:
            raise SpecMismatch(
                f"{store.url} holds a {other.removesuffix('.json')}; give a folder of its own with --out"
            )
    versions = {name: version(name) for name in _VERSIONED}
    record = DedupRecord(id=f"dedup-{secrets.token_hex(6)}", created_at=now(), spec=spec, versions=versions)
    if store.size(layout.DEDUP) is None and store.create(layout.DEDUP, record.to_json()):
        return record
    pinned = DedupRecord.from_json(store.get(layout.DEDUP))
    differing = pinned.spec.differences(replace(spec, panel_rows=pinned.spec.panel_rows))
    if differing:
        raise SpecMismatch(f"{store.url} holds another dedup: {'; '.join(differing)}; give another --out")
    return pinned


class Dedup:
    """One dedup and its data set."""

    def __init__(
        self,
        store: Store,
        record: DedupRecord,
        source: VectorSource,
        *,
        effort: Effort = Effort(),
        progress: Progress = lambda *seen: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called again and again while a panel is computed; what it raises ends that."""
        self.store, self.record, self.spec = store, record, record.spec
        self._source, self._effort, self._progress, self._check = source, effort, progress, check

    def run(self) -> Tally:
        """Publish what is missing.

        Raises Stopped where there are more than `max_pairs`, StoreError where the source or the store cannot be used.
        """
        tally = self.published()
        if tally is None:
            tally = self._publish()
        if isinstance(self.store, LocalStore):
            self.store.sweep()
        return tally

    def published(self) -> Tally | None:
        """What the published files say; None before both are there."""
        tallies = [self._tally_of(key) for key in (layout.CLUSTERS, layout.KEEP)]
        return tallies[0] if all(tallies) else None

    @property
    def panels(self) -> int:
        return -(-len(self._distinct) // self.spec.panel_rows)

    def rounds(self) -> Iterator[list[Phase]]:
        """Exact copies, which one worker finds; then the near copies among those that are left."""
        yield [Phase(layout.ALIKE, [self._source.rows], partial(layout.stage_key, layout.ALIKE), self._find_alike)]
        rows = panels_of(len(self._distinct), self.spec.panel_rows)
        yield [Phase(layout.NEAR, rows, partial(layout.stage_key, layout.NEAR), self.panel, self.panel)]

    def panel(self, number: int) -> int:
        """Compare the rows of a panel with all that come after them, unless that is done; returns the pairs."""
        key = layout.stage_key(layout.NEAR, number)
        if self.store.size(key) is None:
            first = number * self.spec.panel_rows
            edges, pairs = self._edges(first, min(self.spec.panel_rows, len(self._distinct) - first))
            table = _connected(edges)
            self.store.create(key, plain_file(self._sealed(table, pairs=pairs)))
        with open_parquet(self.store, key) as file:
            return int(self._told(file.schema_arrow, key)["pairs"])

    # --- the steps

    def _publish(self) -> Tally:
        hang, pairs = Components(len(self._distinct)), 0
        for number in range(self.panels):
            pairs += self.panel(number)
            if pairs > self._effort.max_pairs:
                raise Stopped(self._too_many())
            table = read_sealed(self.store, layout.stage_key(layout.NEAR, number))
            hang.connect(np.asarray(table["row"]), np.asarray(table["first"]))
            self._progress("near copies", number + 1, self.panels, pairs)
        clusters = self._clusters(hang)
        tally = Tally(
            dedup=self.record.id,
            rows=self._source.rows,
            distinct=len(self._distinct),
            pairs=pairs,
            clusters=clusters.count,
            kept=self._source.rows - len(clusters.rows) + clusters.count,
        )
        told = {name: getattr(tally, name) for name in Tally.__slots__ if name != "dedup"}
        told["threshold"] = self.spec.threshold
        for key, table in (
            (layout.CLUSTERS, clusters_table(clusters, self._source)),
            (layout.KEEP, keep_table(clusters, self._source)),
        ):
            self.store.create(key, plain_file(self._sealed(table, **told)))
        return tally

    def _clusters(self, hang: Components) -> Clusters:
        at = np.searchsorted(self._distinct.rows, self._alike)  # of each row, its vector
        labels = self._distinct.rows[hang.labels()][at]
        return make_clusters(
            self._source,
            labels,
            alike=self._alike,
            keep_by=self.spec.keep_by,
            keep_least=self.spec.keep_least,
            memory=self._effort.memory,
        )

    def _find_alike(self, panel: int = 0) -> int:
        key = layout.stage_key(layout.ALIKE, panel)
        if self.store.size(key) is None:
            table = pa.table({"first": first_alike(self._source)})
            self.store.create(key, plain_file(self._sealed(table)))
            self._progress("exact copies", 1, 1, 0)
        return 0

    @cached_property
    def _alike(self) -> np.ndarray:
        """int64 (rows,): of each row the first with the same vector; found once, and kept beside the panels."""
        self._find_alike()
        key = layout.stage_key(layout.ALIKE, 0)
        table = read_sealed(self.store, key)
        self._told(table.schema, key)
        return np.asarray(table["first"].combine_chunks())

    @cached_property
    def _engine(self) -> Engine:
        return engine_for(self._effort.device, Precision.AUTO, self._effort.threads)

    @cached_property
    def _distinct(self) -> Distinct:
        return Distinct(self._source, np.flatnonzero(self._alike == np.arange(len(self._alike))))

    def _edges(self, first: int, count: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
        """The pairs of some rows with those that come after; in halves where memory does not hold them."""
        try:
            pairs = kernel.join(
                self._distinct.block(first, count),
                self._blocks(first),
                Wanted(threshold=self.spec.threshold, after_self=True),
                engine=self._engine,
                limit=self._limit if count > 1 else lambda held: None,
            )
        except _TooMany:
            half = count // 2
            one, other = self._edges(first, half), self._edges(first + half, count - half)
            return one[0] + other[0], one[1] + other[1]
        return [(pairs.left, pairs.right)], len(pairs)

    def _blocks(self, first: int) -> Iterator[Block]:
        for block in self._distinct.blocks(first, size=TILE_RIGHT):
            self._check()
            yield block

    def _limit(self, held: int) -> None:
        if held > self._effort.max_pairs:
            raise Stopped(self._too_many())
        if held > self._effort.memory // 4 // _PAIR_BYTES:
            raise _TooMany

    def _too_many(self) -> str:
        most, rows = self._effort.max_pairs, self._source.rows
        advice = threshold_advice(most, rows * (rows - 1) // 2, self._source, self._source, COSINE)
        return (
            f"stopped: more than {most:,} pairs of near copies; the threshold is too low for these vectors: give a "
            f"higher one with another --out, or allow more with --max-pairs{advice}"
        )

    # --- what files say of themselves

    def _sealed(self, table: pa.Table, **told: float) -> pa.Table:
        footer = json.dumps({"dedup": self.record.id, **told}, sort_keys=True).encode()
        return table.replace_schema_metadata({FOOTER_KEY: footer})

    def _told(self, schema: pa.Schema, key: str) -> dict[str, Any]:  # Any: an id and numbers
        """The footer of one of our files; raises Conflict for one that is not of this dedup."""
        told: dict[str, Any] = json.loads((schema.metadata or {}).get(FOOTER_KEY, b"{}"))
        if told.get("dedup") != self.record.id:
            raise Conflict(f"{key} is not of {self.record.id}; use another --out")
        return told

    def _tally_of(self, key: str) -> Tally | None:
        if self.store.size(key) is None:
            return None
        with open_parquet(self.store, key) as file:
            told = self._told(file.schema_arrow, key)
        return Tally(dedup=self.record.id, **{n: int(told[n]) for n in Tally.__slots__ if n != "dedup"})


def _connected(edges: list[tuple[np.ndarray, np.ndarray]]) -> pa.Table:
    """Each row of the pairs, ascending, and the least row that it hangs together with by them."""
    left, right = (np.concatenate([edge[side] for edge in edges]) for side in (0, 1))
    rows, at = np.unique(np.concatenate([left, right]), return_inverse=True)
    hang = Components(len(rows))
    hang.connect(at[: len(left)], at[len(left) :])
    return pa.table({"row": rows, "first": rows[hang.labels()]})
