"""A Redis in virtual time: leases, reports, claims, presences and queues that fail, forget and repeat themselves."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import redis

from schemas.errors import BrokerError
from schemas.message import ShardMessage
from schemas.presence import TTL_S, WorkerPresence
from schemas.queues import queue_of
from schemas.shard import ShardReport
from tests.virtual_store import Faults

CLAIM_TTL_S = 15.0


@dataclass
class VirtualRedis:
    """The server: what it holds, by what passes for keys here."""

    clock: Callable[[], float]
    faults: Faults
    away: bool = False
    leases: dict[tuple[str, int], tuple[str, float]] = field(default_factory=dict)  # owner, until
    claims: dict[str, tuple[object, float]] = field(default_factory=dict)
    presences: dict[str, tuple[WorkerPresence, float]] = field(default_factory=dict)
    locations: dict[str, str] = field(default_factory=dict)
    submitted: dict[str, str] = field(default_factory=dict)
    reports: dict[str, list[ShardReport]] = field(default_factory=dict)
    deaths: Counter[tuple[str, int]] = field(default_factory=Counter)
    cancelled: set[str] = field(default_factory=set)
    queues: dict[str, list[ShardMessage]] = field(default_factory=dict)

    def wipe(self) -> None:
        """FLUSHALL, or a restart without data."""
        for kept in (self.leases, self.claims, self.presences, self.locations, self.submitted, self.reports):
            kept.clear()
        for more in (self.deaths, self.cancelled, self.queues):
            more.clear()

    def reach(self) -> None:
        """Raise ConnectionError where a command does not get through."""
        if self.away or self.faults.strikes("redis_fails"):
            raise redis.ConnectionError("reset by peer")

    def holder(self, job: str, shard: int) -> str | None:
        owner, until = self.leases.get((job, shard), (None, 0.0))
        return owner if until > self.clock() else None

    def workers(self) -> list[WorkerPresence]:
        now = self.clock()
        return sorted((w for w, until in self.presences.values() if until > now), key=lambda w: w.name)

    def announce(self, presence: WorkerPresence) -> None:
        if not self.away:
            self.presences[presence.name] = (presence, self.clock() + TTL_S)

    def report(self, job: str, report: ShardReport) -> None:
        if not (self.away or self.faults.strikes("report_lost")):
            self.reports.setdefault(job, []).append(report)

    # What workers call: `LeaseBoard`.

    def acquire(self, job: str, shard: int, owner: str, ttl_s: float) -> bool:
        self.reach()
        if self.holder(job, shard) not in (None, owner):
            return False
        self.leases[job, shard] = (owner, self.clock() + ttl_s)
        return True

    def release(self, job: str, shard: int, owner: str) -> None:
        self.reach()
        if self.holder(job, shard) == owner:
            del self.leases[job, shard]

    def is_cancelled(self, job: str) -> bool:
        self.reach()
        return job in self.cancelled

    def begin(self, job: str, shard: int) -> int:
        self.reach()
        self.deaths[job, shard] += 1
        return self.deaths[job, shard] - 1

    def end(self, job: str, shard: int) -> None:
        self.reach()
        self.deaths.pop((job, shard), None)


class VirtualBoard:
    """A coordinator's view of it: `Board`."""

    def __init__(self, server: VirtualRedis) -> None:
        self._server = server

    def claim(self, job: str, location: str) -> bool:
        self._reach()
        owner, until = self._server.claims.get(job, (self, 0.0))
        if owner is not self and until > self._server.clock():
            return False
        self._server.claims[job] = (self, self._server.clock() + CLAIM_TTL_S)
        self._server.locations[job] = location
        return True

    def give_up(self, job: str) -> None:
        self._reach()
        if self._server.claims.get(job, (None, 0.0))[0] is self:
            del self._server.claims[job]

    def submit(self, job: str, location: str) -> None:
        self._reach()
        self._server.submitted[job] = location

    def submitted(self) -> dict[str, str]:
        self._reach()
        return dict(self._server.submitted)

    def strike_off(self, job: str) -> None:
        self._reach()
        self._server.submitted.pop(job, None)

    def reports(self, job: str) -> list[ShardReport]:
        self._reach()
        said = self._server.reports.pop(job, [])
        if said and self._server.faults.strikes("reports_reply_lost"):
            raise BrokerError("redis://virtual cannot be reached: it took the reports along")
        return said

    def leased(self, job: str, shards: Iterable[int]) -> set[int]:
        self._reach()
        return {n for n in shards if self._server.holder(job, n) is not None}

    def depth(self, queue: str) -> int:
        self._reach()
        return len(self._server.queues.get(queue, ()))

    def workers(self) -> list[WorkerPresence]:
        self._reach()
        return self._server.workers()

    def cancel(self, job: str) -> None:
        self._reach()
        self._server.cancelled.add(job)

    def uncancel(self, job: str) -> None:
        self._reach()
        self._server.cancelled.discard(job)

    def withdraw(self, job: str) -> None:
        self._reach()
        self._server.locations.pop(job, None)

    def _reach(self) -> None:
        try:
            self._server.reach()
        except redis.ConnectionError as err:
            raise BrokerError(f"redis://virtual cannot be reached: {err}") from err


class VirtualQueue:
    """A coordinator's way to the queues: `TaskQueue`."""

    def __init__(self, server: VirtualRedis) -> None:
        self._server = server

    def send(self, task: str, size: str, messages: Iterable[ShardMessage]) -> None:
        batch, faults = list(messages), self._server.faults
        if self._server.away or faults.strikes("send_refused"):
            raise BrokerError("redis://virtual cannot be reached")
        if faults.strikes("send_lost"):
            return
        queue = self._server.queues.setdefault(queue_of(task, size), [])
        if faults.strikes("send_cut"):
            queue += batch[: len(batch) // 2]
            raise BrokerError("redis://virtual cannot be reached: reset in the middle")
        queue += batch
        if faults.strikes("send_doubled"):
            queue += batch
