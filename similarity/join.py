"""A join: the wanted pairs of two vector sources, published panel by panel; killed at any moment, it goes on."""

import hashlib
import math
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from schemas.errors import Conflict, Refused, SpecMismatch, Stopped, StoreError
from schemas.join import Device, JoinRecord, JoinSpec, PanelFooter, Precision
from schemas.sealed import sealed, unsealed
from schemas.shard import FOOTER_KEY
from similarity import kernel
from similarity.advice import threshold_advice
from similarity.engine import Engine, engine_for
from similarity.funnel import Funnel, funnel
from similarity.kernel import Block, Pairs, Wanted
from similarity.measure import Measure
from similarity.recall import Recall, sampled_rows, shares_found
from similarity.scores import NEIGHBOURS, OF_NEIGHBOURS, base_of, measure_of, random_pairs, threshold_for
from similarity.vectors import VectorSource
from storage import layout
from storage.jobs import now
from storage.parquet import ID, open_parquet, plain_file, read_sealed
from storage.phases import Phase, panels_of
from storage.shards import content_sha256
from storage.store import LocalStore, Store

PAIR_COLUMNS = ("left_id", "right_id", "score", "rank")
_THRESHOLD = "stage/threshold.json"
_WORST = "worst-right"
_VERSIONED = ("embedmill", "torch", "numpy", "pyarrow")

#: (panels done, panels in all, pairs) of the pass that is named first.
Progress = Callable[[str, int, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a join may take up; nothing here changes a pair."""

    threads: int = 1
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO  # of the scan; scores are exact
    block_rows: int = 8192  # right rows that are in memory at a time
    max_pairs: int = 50_000_000


def pin(store: Store, spec: JoinSpec) -> JoinRecord:
    """The join at `store`: the one that is there, if it is of the same spec, or a new one.

    Raises SpecMismatch, and names what differs, where another is there.
    """
    versions = {name: version(name) for name in _VERSIONED}
    record = JoinRecord(id=f"join-{secrets.token_hex(6)}", created_at=now(), spec=spec, versions=versions)
    if any(store.size(key) is not None for key in (layout.JOB, layout.DEDUP)):
        raise SpecMismatch(f"{store.url} holds a job or a dedup; give the join a folder of its own with --out")
    if store.size(layout.JOIN) is None and store.create(layout.JOIN, record.to_json()):
        return record
    pinned = JoinRecord.from_json(store.get(layout.JOIN))
    differing = pinned.spec.differences(replace(spec, panel_rows=pinned.spec.panel_rows))
    if differing:
        raise SpecMismatch(f"{store.url} holds another join: {'; '.join(differing)}; give another --out")
    return pinned


class Join:
    """One join and its two sides."""

    def __init__(
        self,
        store: Store,
        record: JoinRecord,
        left: VectorSource,
        right: VectorSource,
        *,
        effort: Effort = Effort(),
        progress: Progress = lambda *seen: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called again and again while a panel is computed; what it raises ends that."""
        self.store, self.record, self.spec = store, record, record.spec
        self._sides = {"left": left, "right": right}
        self._effort, self._progress, self._check = effort, progress, check
        self._pairs = 0  # published

    def run(self) -> int:
        """Publish what is missing; returns how many pairs there are.

        Raises Stopped where there are more than `max_pairs`, StoreError where a source or the store cannot be used.
        """
        for panel in range(self.spec.panels):
            footer = self.published(panel)
            if footer is None:
                footer = self.publish(panel)
            self._pairs += footer.pairs
            self._progress("pairs", panel + 1, self.spec.panels, self._pairs)
        self._finish()
        return self._pairs

    def rounds(self) -> Iterator[list[Phase]]:
        """What the score must know first, then the pairs."""
        if self.spec.score in OF_NEIGHBOURS:
            yield [self._near("left"), self._near("right")]
        if self.spec.mutual:
            yield [self._phase(_WORST, "right", self._worst)]
        rows = panels_of(self._sides["left"].rows, self.spec.panel_rows)
        yield [Phase("pairs", rows, layout.panel_key, self._do, lambda panel: self._there(panel).pairs)]

    def published(self, panel: int) -> PanelFooter | None:
        """What the published panel says of itself; None before it is there."""
        key = layout.panel_key(panel)
        if self.store.size(key) is None:
            return None
        with open_parquet(self.store, key) as file:
            footer = PanelFooter.from_json((file.schema_arrow.metadata or {})[FOOTER_KEY])
        if (footer.join, footer.panel) != (self.record.id, panel):
            raise Conflict(f"{key} is panel {footer.panel} of {footer.join}, not of this join; use another --out")
        return footer

    def publish(self, panel: int) -> PanelFooter:
        """Compute one panel and create its file, unless someone was first."""
        table, footer = self.compute(panel)
        data = plain_file(table.replace_schema_metadata({FOOTER_KEY: footer.to_json()}))
        if not self.store.create(layout.panel_key(panel), data):
            return self.published(panel) or footer
        return footer

    def compute(self, panel: int) -> tuple[pa.Table, PanelFooter]:
        """The pairs of one panel (PAIR_COLUMNS and kept columns), and what its file says of itself."""
        left = self._sides["left"]
        first, count = self._rows_of("left", panel)
        block = Block(first, left.vectors(first, count))
        pairs = self._through_funnel(block) if self.spec.funnel else self._exact(block)
        if self.spec.mutual:
            pairs = self._mutual(pairs)
        table = self._table(pairs)
        shares = self._shares_found(pairs, first, count)
        footer = PanelFooter(
            join=self.record.id,
            panel=panel,
            first=first,
            rows=count,
            pairs=len(pairs),
            score=str(self.spec.score),
            threshold=self.threshold,
            left_space=self.spec.left.space,
            right_space=self.spec.right.space,
            forced=self.spec.forced,
            content_sha256=pairs_sha256(table),
            sampled=len(shares),
            recall_sum=math.fsum(shares),
        )
        return table, footer

    def _exact(self, left: Block) -> Pairs:
        return kernel.join(
            left, self._blocks("right"), self._wanted, measure=self.measure, engine=self._engine, limit=self._limit
        )

    def _through_funnel(self, left: Block) -> Pairs:
        assert self.spec.top_k is not None
        plan = Funnel.of(self.spec.funnel, self.spec.top_k, self.spec.oversample, self._sides["right"].rows)
        right = partial(self._blocks, "right")
        return funnel(left, right, self._wanted, plan, measure=self.measure, engine=self._engine, limit=self._limit)

    def _shares_found(self, pairs: Pairs, first: int, count: int) -> np.ndarray:
        """Of each sampled row of a panel, the share of its exact pairs that are among these."""
        if not self.spec.funnel:
            return np.zeros(0)
        left, right = self._sides["left"], partial(self._blocks, "right")
        rows = sampled_rows(left.rows, first, count)
        return shares_found(pairs, rows, left, right, self._wanted, measure=self.measure, engine=self._engine)

    @property
    def recall(self) -> Recall | None:
        """What the panels say of what the funnel missed; None where there is none."""
        if not self.spec.funnel:
            return None
        return Recall.of(self._there(panel) for panel in range(self.spec.panels))

    @cached_property
    def measure(self) -> Measure:
        """How pairs are scored; what it needs to know of both sides is found once, and kept beside the pairs."""
        return measure_of(self.spec.score, self._base, self)

    @cached_property
    def _base(self) -> Measure:
        return base_of(self.spec.score, self._sides["left"], self._sides["right"])

    @cached_property
    def threshold(self) -> float | None:
        """The least score of a pair: what the user said, or what their share of random pairs means."""
        if self.spec.fpr is None:
            return self.spec.threshold
        if self.store.size(_THRESHOLD) is None:
            left, right = self._sides["left"], self._sides["right"]
            value = threshold_for(self.spec.fpr, left, right, self.measure, seed=0)
            told = {"fpr": self.spec.fpr, "threshold": value, "random_pairs": random_pairs(left, right)}
            self.store.create(_THRESHOLD, sealed(told))
        try:
            return float(unsealed(self.store.get(_THRESHOLD))["threshold"])
        except (ValueError, LookupError) as err:
            raise StoreError(
                f"{_THRESHOLD} is not what embedmill wrote ({err}); remove it, and it is found again"
            ) from err

    @cached_property
    def _engine(self) -> Engine:
        return engine_for(self._effort.device, self._effort.precision, self._effort.threads)

    @cached_property
    def _wanted(self) -> Wanted:
        spec = self.spec
        return Wanted(top_k=spec.top_k, threshold=self.threshold, after_self=spec.after_self, not_self=spec.not_self)

    def _limit(self, held: int) -> None:
        if self._pairs + held > self._effort.max_pairs:
            raise Stopped(
                f"stopped: more than {self._effort.max_pairs:,} pairs; allow more with --max-pairs, "
                f"or ask for fewer with --top-k or a higher threshold, in another --out{self._advice()}"
            )

    def _advice(self) -> str:
        left, right = self._sides["left"], self._sides["right"]
        if self.spec.top_k is not None:
            return f"; --top-k {self.spec.top_k} gives up to {self.spec.top_k * left.rows:,} pairs"
        own = left.rows if self.spec.not_self else 0
        return threshold_advice(self._effort.max_pairs, left.rows * right.rows - own, left, right, self.measure)

    def _rows_of(self, side: str, panel: int) -> tuple[int, int]:
        first = panel * self.spec.panel_rows
        return first, min(self.spec.panel_rows, self._sides[side].rows - first)

    def _blocks(self, side: str) -> Iterator[Block]:
        for block in self._sides[side].blocks(size=self._effort.block_rows):
            self._check()
            yield block

    def means(self, side: str) -> np.ndarray:
        """float64 (rows,): the mean score of each row's NEIGHBOURS nearest rows on the other side."""
        return np.concatenate([np.asarray(table["mean"]) for table in self._tables(self._near(side))])

    def _near(self, side: str) -> Phase:
        return self._phase(f"near-{side}", side, partial(self._means, side))

    def _means(self, side: str, panel: int) -> pa.Table:
        pairs = self._nearest(side, panel, self._base, NEIGHBOURS)
        first, count = self._rows_of(side, panel)
        at = pairs.left - first
        found = np.bincount(at, minlength=count)
        sums = np.bincount(at, weights=pairs.scores.astype(np.float64), minlength=count)
        return pa.table({"mean": sums / np.maximum(found, 1)})

    def _nearest(self, side: str, panel: int, measure: Measure, top_k: int) -> Pairs:
        other = "left" if side == "right" else "right"
        first, count = self._rows_of(side, panel)
        return kernel.join(
            Block(first, self._sides[side].vectors(first, count)),
            self._blocks(other),
            Wanted(top_k=top_k, not_self=self.spec.not_self or self.spec.after_self),
            measure=measure if side == "left" else measure.mirrored(),
            engine=self._engine,
        )

    def _phase(self, name: str, side: str, compute: Callable[[int], pa.Table]) -> Phase:
        """What is found of each panel of `side`, and kept beside the pairs."""
        key = partial(layout.stage_key, name)

        def do(panel: int) -> int:
            if self.store.size(key(panel)) is None:
                table = compute(panel).replace_schema_metadata({FOOTER_KEY: self.record.id})
                self.store.create(key(panel), plain_file(table))
                self._progress(name, panel + 1, len(rows), 0)
            return 0

        rows = panels_of(self._sides[side].rows, self.spec.panel_rows)
        return Phase(name, rows, key, do)

    def _tables(self, phase: Phase) -> Iterator[pa.Table]:
        """What was found of each panel, in order; what is not there yet is computed."""
        for panel in range(len(phase)):
            phase.do(panel)
            table = read_sealed(self.store, phase.key(panel))
            if (table.schema.metadata or {}).get(FOOTER_KEY) != self.record.id.encode():
                raise Conflict(f"{phase.key(panel)} is of another join than {self.record.id}; use another --out")
            yield table

    def _do(self, panel: int) -> int:
        return (self.published(panel) or self.publish(panel)).pairs

    def _there(self, panel: int) -> PanelFooter:
        footer = self.published(panel)
        if footer is None:
            raise Conflict(f"{layout.panel_key(panel)} was there, and is gone; nothing but embedmill may write there")
        return footer

    def _mutual(self, pairs: Pairs) -> Pairs:
        """Those pairs whose left row is also among the best of their right one."""
        least, last = self._worst_of_right
        mine = (pairs.scores > least[pairs.right]) | (
            (pairs.scores == least[pairs.right]) & (pairs.left <= last[pairs.right])
        )
        return Pairs(pairs.left[mine], pairs.right[mine], pairs.scores[mine])

    @cached_property
    def _worst_of_right(self) -> tuple[np.ndarray, np.ndarray]:
        """The last of each right row's `top_k` left rows: its score, float32, and its number."""
        tables = list(self._tables(self._phase(_WORST, "right", self._worst)))
        return tuple(np.concatenate([np.asarray(t[name]) for t in tables]) for name in ("score", "left"))  # type: ignore[return-value]

    def _worst(self, panel: int) -> pa.Table:
        pairs = self._nearest("right", panel, self.measure, self.spec.top_k or 1)
        first, count = self._rows_of("right", panel)
        score, left = np.full(count, np.inf, np.float32), np.full(count, -1, np.int64)
        at = pairs.left - first
        score[at], left[at] = pairs.scores, pairs.right  # in order: the last one stays
        return pa.table({"score": score, "left": left})

    def _table(self, pairs: Pairs) -> pa.Table:
        columns: dict[str, pa.Array | pa.ChunkedArray] = {}
        kept: dict[str, pa.ChunkedArray] = {}
        for side, numbers in (("left", pairs.left), ("right", pairs.right)):
            rows, place = np.unique(numbers, return_inverse=True)
            names = [ID, *getattr(self.spec, side).keep]
            table = self._sides[side].columns(names, rows).take(pa.array(place))
            columns[f"{side}_id"] = table[ID]
            kept |= {f"{side}.{name}": table[name] for name in names[1:]}
        columns["score"] = pa.array(pairs.scores)
        columns["rank"] = pa.array(_ranks(pairs.left))
        return pa.table(columns | kept)

    def _finish(self) -> None:
        if self.store.size(layout.manifest_key(0)) is None:
            files = [_listed(layout.panel_key(n), self.store) for n in range(self.spec.panels)]
            told = {"v": 1, "join": self.record.id, "finished_at": now(), "pairs": self._pairs, "files": files}
            if self.recall:
                told["recall"] = self.recall.to_dict()
            self.store.create(layout.manifest_key(0), sealed(told))
        if isinstance(self.store, LocalStore):
            self.store.sweep()


def comparable(left: VectorSource, right: VectorSource, differing: list[str], *, force: bool) -> tuple[str, ...]:
    """The fields in which two sources differ although they must not; raises Refused for any, unless `force`."""
    told = "; ".join(_difference(left, right, name) for name in differing)
    if left.dim != right.dim:
        more = f" ({told})" if told else ""
        raise Refused(f"the vectors differ in dim: {left.dim} and {right.dim}; embed both sides alike{more}")
    if differing and not force:
        raise Refused(f"the vectors are of different spaces and mean nothing to each other ({told})")
    return tuple(differing)


def _difference(left: VectorSource, right: VectorSource, name: str) -> str:
    mine, theirs = (side.space_fields.get(name) for side in (left, right))
    if name != "model_digest":
        return f"{name}: {mine} / {theirs}"
    if left.model != right.model:
        return f"model: {left.model} / {right.model}"
    return f"revision of model {left.model}: files {str(mine)[:12]} / {str(theirs)[:12]}"


def pairs_sha256(table: pa.Table) -> str:
    """The digest of ids, scores and ranks in row order, whatever the file's encoding."""
    scores, ranks = np.asarray(table["score"], np.float32), np.asarray(table["rank"], np.int32)
    parts = [
        content_sha256(table["left_id"].to_pylist(), {"score": scores}),
        content_sha256(table["right_id"].to_pylist(), {"rank": ranks}),
    ]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _ranks(left: np.ndarray) -> np.ndarray:
    """int32: 1 for the first of each run of equal numbers, and so on."""
    if not len(left):
        return np.zeros(0, np.int32)
    begins = np.flatnonzero(np.r_[True, left[1:] != left[:-1]])
    lengths = np.diff(np.r_[begins, len(left)])
    return (np.arange(len(left)) - np.repeat(begins, lengths) + 1).astype(np.int32)


def _listed(key: str, store: Store) -> dict[str, object]:
    data = store.get(key)
    return {"key": key, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
