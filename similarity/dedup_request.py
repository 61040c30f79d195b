"""A dedup from the words of its user to its last file, on this machine."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from schemas.counted import counted
from schemas.dedup import DedupSpec
from schemas.errors import Refused
from schemas.redaction import redact
from similarity.dedup import Dedup, Effort, Progress, Tally, pin
from similarity.engine import TILE_RIGHT
from similarity.join_request import WORKER_MEMORY, JoinRequest, SideRequest, plan_join, require_room
from similarity.vectors import VectorSource
from storage.store import canonical_location, open_store

#: Bytes of a pair as it is found: if all rows of a panel were copies of all those of a tile, memory would hold them.
_FOUND_BYTES = 48
_LEAST_PANEL_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupRequest:
    """What the user asked for."""

    side: SideRequest
    threshold: float
    keep_by: str = ""  # COLUMN, COLUMN:max or COLUMN:min
    memory: int = 2**30  # bytes
    threads: int = 1
    max_pairs: int = 50_000_000
    distributed: bool = False


@dataclass(frozen=True, slots=True)
class Deduped:
    """What a dedup came to."""

    tally: Tally
    out: str
    threshold: float
    seconds: float
    was_done: bool  # by an earlier run

    def to_dict(self) -> dict[str, Any]:
        told = asdict(self)
        tally: dict[str, Any] = told.pop("tally")
        return tally | {"exact": self._exact, "near": self._near} | told

    @property
    def line(self) -> str:
        """What happened, in one line."""
        tally = self.tally
        told = (
            f"{tally.dedup}: {counted(tally.rows, 'row')}, {tally.kept:,} kept; left out {self._exact:,} exact and "
            f"{counted(self._near, 'near copy', 'near copies')} (cosine >= {self.threshold:g}) in "
            f"{counted(tally.clusters, 'cluster')}; {self.out}"
        )
        return told + ("; all of it was there before" if self.was_done else f"; {self.seconds:.1f} s")

    @property
    def _exact(self) -> int:
        return self.tally.rows - self.tally.distinct

    @property
    def _near(self) -> int:
        return self.tally.distinct - self.tally.kept


def dedup_here(
    request: DedupRequest, out: str, *, progress: Progress, spread: Callable[[Dedup], None] = lambda dedup: None
) -> Deduped:
    """Pin the dedup at `out`, or go on with it, and publish what is missing; `spread` may have others do that first.

    Raises Refused for what would give wrong answers, Stopped where there are more pairs than may be.
    """
    started = time.monotonic()
    if not 0 < request.threshold <= 1:
        raise Refused(f"--threshold {request.threshold:g} is no cosine of near copies; give one above 0, up to 1")
    location = canonical_location(out)
    source, spec = plan_dedup(request)
    if source.holds(location):
        raise Refused(f"--out {out} holds the vectors; give the dedup a folder of its own")
    store = open_store(location)
    record = pin(store, spec)
    if not request.distributed:
        require_room(record.spec.source, record.spec.panel_rows, memory=request.memory, threads=request.threads)
    effort = Effort(threads=request.threads, memory=request.memory, max_pairs=request.max_pairs)
    dedup = Dedup(store, record, source, effort=effort, progress=progress)
    was_done = dedup.published() is not None
    if not was_done:
        spread(dedup)
    tally = dedup.run()
    return Deduped(tally, redact(store.url), record.spec.threshold, round(time.monotonic() - started, 2), was_done)


def plan_dedup(request: DedupRequest) -> tuple[VectorSource, DedupSpec]:
    """Look at the data set and make the spec; raises Refused, with the reason, for what cannot be."""
    keep_by, _, how = request.keep_by.rpartition(":")
    if how not in ("min", "max") or not keep_by:
        keep_by, how = request.keep_by, "max"
    planned = plan_join(
        JoinRequest(
            left=request.side,
            right=request.side,
            threshold=request.threshold,
            after_self=True,
            memory=request.memory,
            threads=request.threads,
            distributed=request.distributed,
        )
    )
    source = planned.left
    _require_column(source, keep_by)
    if source.is_cut:
        raise Refused(f"{source.location}: its rows are segments, several of one id; dedup a job without --segment")
    memory = WORKER_MEMORY if request.distributed else request.memory
    panel_rows = min(planned.spec.panel_rows, max(_LEAST_PANEL_ROWS, memory // (TILE_RIGHT * _FOUND_BYTES)))
    spec = DedupSpec(
        source=planned.spec.left,
        threshold=request.threshold,
        keep_by=keep_by,
        keep_least=how == "min" and bool(keep_by),
        panel_rows=panel_rows,
    )
    return source, spec


def _require_column(source: VectorSource, keep_by: str) -> None:
    if not keep_by:
        return
    if keep_by not in source.types:
        there = ", ".join(sorted(source.types)) or "none beside ids and vectors"
        raise Refused(f"--keep-by {keep_by}: {source.location} has no such column; it has {there}")
    kind = source.types[keep_by]
    simple = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string, pa.types.is_temporal)
    if not any(is_kind(kind) for is_kind in (*simple, pa.types.is_large_string, pa.types.is_decimal)):
        raise Refused(f"--keep-by {keep_by}: the column is {kind}; give one of numbers, texts or times")
