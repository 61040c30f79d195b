"""One panel of a join or a dedup, from its message to its published file."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas.errors import NotAllowed, Stopped
from schemas.message import ShardMessage
from schemas.settings import Settings
from schemas.shard import ShardReport
from storage.pair_limit import pair_limit
from storage.phases import Comparison, Phase, plan_digest, step
from workers.batching import Cancelled
from workers.lease import LeaseBoard, lease


@dataclass(slots=True)
class Told:
    """What the panel in work is told of: whether anyone still wants it."""

    should_stop: Callable[[], bool] = lambda: False

    def check(self) -> None:
        """Raise Cancelled where nobody does."""
        if self.should_stop():
            raise Cancelled


@dataclass(slots=True)
class OpenComparison:
    """A join or dedup that this process works on: what is read once and kept."""

    location: str  # as the coordinator says it
    comparison: Comparison
    told: Told
    max_pairs: int  # that it was opened with
    phases: dict[int, tuple[Phase, int]] = field(default_factory=dict)

    def step(self, number: int) -> tuple[Phase, int]:
        if number not in self.phases:
            self.phases[number] = step(self.comparison, number)
        return self.phases[number]


def compare_panel(
    opened: OpenComparison,
    message: ShardMessage,
    *,
    leases: LeaseBoard,
    settings: Settings,
    must_leave: Callable[[], bool] = lambda: False,
) -> ShardReport:
    """Compute the panel unless it is published, cancelled or another worker's; say what happened."""
    started, store = time.monotonic(), opened.comparison.store
    if message.plan != plan_digest(opened.comparison):
        raise NotAllowed(f"{opened.location} holds another comparison than the message names; it was dropped")
    phase, panel = opened.step(message.shard)

    def report(outcome: str, pairs: int = 0, error: str = "") -> ShardReport:
        return ShardReport(
            shard=message.shard,
            plan=message.plan,
            outcome=outcome,
            worker=settings.worker_name,
            size=settings.size,
            rows_ok=pairs,
            seconds={phase.name: round(time.monotonic() - started, 4)},
            error=error,
        )

    if store.size(phase.key(panel)) is not None:
        return report("skipped")
    with lease(leases, message.job, message.shard, settings.worker_name, settings.lease_s) as held:
        if held is None:
            return report("busy")
        opened.told.should_stop = lambda: held.stop.is_set() or must_leave()
        try:
            return report("published", phase.do(panel))
        except Stopped as err:  # more pairs than may be: so it would be for any worker
            if pair_limit(store) != opened.max_pairs:  # meanwhile they may be more
                raise Cancelled from err
            return report("stopped", error=str(err))
        finally:
            opened.told.should_stop = lambda: False
