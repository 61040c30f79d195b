"""Spending: what a job may cost and until when it may work, and the watch over both."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

from producer.duration import duration
from producer.outcomes import published_files
from schemas.counted import counted
from schemas.errors import LimitReached
from schemas.parsed_json import parsed_json
from schemas.spent import Step
from storage.jobs import Job

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendLimit:
    """When a job stops, whole shards published and the rest to be taken up again."""

    max_cost: float = 0.0  # in the unit of `price`; 0: any
    price: float = 0.0  # of a worker of the job's size, an hour
    deadline: float = 0.0  # seconds since 1970; 0: none

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: bytes) -> "SpendLimit":
        """What a submitted job says; no limit for what an older version wrote, or somebody else."""
        try:
            told = parsed_json(data)["spend_limit"]
            return cls(**{name: float(told[name]) for name in ("max_cost", "price", "deadline")})
        except (ValueError, TypeError, LookupError, OverflowError):
            return cls()


class Spending:
    """Adds up the time that workers hold shards of a job, and says when that is enough."""

    def __init__(
        self,
        limit: SpendLimit,
        *,
        spent_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`spent_s` is what workers spent before, as `spent_before` finds it."""
        self._limit, self._spent_s, self._clock, self._now = limit, spent_s, clock, now
        self._in_work: dict[int, float] = {}  # shards, and when they were first seen there

    def note(self, leased: Iterable[int]) -> None:
        """These shards are in work now; what left without a report has cost what it was seen for."""
        at, leased = self._clock(), set(leased)
        for shard in self._in_work.keys() - leased:
            self._spent_s += at - self._in_work.pop(shard)
        self._in_work |= dict.fromkeys(leased - self._in_work.keys(), at)

    def report(self, shard: int, seconds: float) -> None:
        """A worker is done with a shard, and says how long it took."""
        self._in_work.pop(shard, None)
        self._spent_s += seconds

    def stop_if_exceeded(self, left: int) -> None:
        """Raise LimitReached once a limit is, unless the shards that are left are all in work already."""
        why = self._exceeded()
        if why and left > len(self._in_work):
            raise LimitReached(
                f"stopped: {why}, with {counted(left, 'shard')} left; the same command with a higher limit goes on"
            )

    @property
    def spent_s(self) -> float:
        """Seconds of workers, so far."""
        at = self._clock()
        return self._spent_s + sum(at - since for since in self._in_work.values())

    def _exceeded(self) -> str:
        limit, spent_s = self._limit, self.spent_s
        cost = spent_s / _HOUR_S * limit.price
        if limit.max_cost and cost >= limit.max_cost:
            work = f"{duration(spent_s)} of work at {limit.price:g} an hour"
            return f"{cost:.4g} is spent ({work}), and --max-cost is {limit.max_cost:g}"
        if limit.deadline and self._now() >= limit.deadline:
            return (
                f"the --deadline ({datetime.fromtimestamp(limit.deadline).astimezone():%Y-%m-%d %H:%M:%S %z}) is over"
            )
        return ""


def spending_of(job: Job, limit: SpendLimit) -> Spending:
    """The watch over a job that may have been worked on before."""
    return Spending(limit, spent_s=spent_before(job) if limit.max_cost else 0.0)


def spent_before(job: Job) -> float:
    """Seconds that workers spent on the shards that are published."""
    parts = (file.footer.spent for file in published_files(job))
    return sum(spent.of(Step.WALL) - spent.of(Step.QUEUE_WAIT) for spent in parts)
