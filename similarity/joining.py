"""A join from the words of its user to its last file, on this machine."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from schemas.counted import counted
from schemas.errors import Refused
from similarity.join import Join, Progress, pin
from similarity.join_request import JoinRequest, plan_join, require_room
from similarity.recall import Recall
from storage import layout
from storage.store import canonical_location, open_store


@dataclass(frozen=True, slots=True)
class Joined:
    """What a join came to."""

    join: str
    out: str
    left_rows: int
    right_rows: int
    pairs: int
    threshold: float | None
    seconds: float
    published_before: int  # panels that an earlier run had left
    panels: int
    forced: tuple[str, ...] = ()
    recall: Recall | None = None  # of a funnel

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def line(self) -> str:
        """What happened, in one line."""
        compared = self.left_rows * self.right_rows
        of = f"{self.left_rows:,} x {self.right_rows:,} rows"
        told = f"{self.join}: {counted(self.pairs, 'pair')} of {of} in {self.out}/data"
        if self.threshold is not None:
            told += f", scores of {self.threshold:.4g} and more"
        if self.recall is not None:
            told += f", {self.recall.line}"
        if self.published_before:
            return f"{told}; {self.published_before} of {self.panels} panels were there before"
        return f"{told}; {self.seconds:.1f} s, {compared / max(self.seconds, 1e-3):,.0f} comparisons a second"


def join_here(
    request: JoinRequest,
    out: str,
    *,
    max_pairs: int,
    progress: Progress,
    spread: Callable[[Join], None] = lambda join: None,
) -> Joined:
    """Pin the join at `out`, or go on with it, and publish what is missing; `spread` may have others do that first.

    Raises Refused for what would give wrong answers, Stopped where there are more than `max_pairs`.
    """
    started = time.monotonic()
    location = canonical_location(out)
    planned = plan_join(request)
    if planned.left.holds(location) or planned.right.holds(location):
        raise Refused(f"--out {out} holds the vectors; give the join a folder of its own")
    store = open_store(location)
    record = pin(store, planned.spec)
    if not request.distributed:
        spec, memory = record.spec, request.memory
        require_room(spec.left, spec.panel_rows, top_k=spec.top_k or 0, memory=memory, threads=request.threads)
    effort = planned.effort(request.threads, max_pairs)
    join = Join(store, record, planned.left, planned.right, effort=effort, progress=progress)
    before = sum(1 for item in store.walk(layout.DATA) if layout.panel_of(item.key) is not None)
    spread(join)
    pairs = join.run()
    return Joined(
        join=record.id,
        out=store.url,
        left_rows=planned.left.rows,
        right_rows=planned.right.rows,
        pairs=pairs,
        threshold=join.threshold,
        seconds=round(time.monotonic() - started, 2),
        published_before=before,
        panels=record.spec.panels,
        forced=record.spec.forced,
        recall=join.recall,
    )
