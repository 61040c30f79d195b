"""How many shards a second one coordinator feeds to 1 to 1,000 workers: `python -m bench.simulate`.

The coordinator, its board and its queue are real; workers take messages, hold leases and report, and their time is
virtual. What a tick costs the coordinator is measured and passes in virtual time too, so a slow one starves workers.
`--redis` puts a real server in between, with Celery's messages; without, Redis is tests/virtual_redis.py.
A listing of the store takes `--list-us` of virtual time for each object: 100 is what S3 takes, 2 a folder.
"""

import argparse
import base64
import heapq
import json
import random
import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import redis

from bench.simulate_chart import chart
from producer.board import Board, RedisBoard
from producer.broker import EmbeddedBroker
from producer.coordinator import Coordinator
from producer.driving import TICK_S
from producer.task_queue import CeleryQueue, TaskQueue
from producer.work import Cut
from schemas.presence import WorkerPresence
from schemas.queues import CLIENT_OPTIONS, client_url, depth_key, lease_key, queue_name, reports_key, worker_key
from schemas.rows import Modality
from schemas.shard import ShardReport
from tests.virtual_redis import VirtualBoard, VirtualQueue, VirtualRedis
from tests.virtual_store import Faults

JOB, PLAN = "job-simulated", "0" * 64
QUEUE = queue_name(Modality.TEXT)
#: The memory of Redis is asked for at one tick in so many.
_LOOK_EVERY = 20
#: Shards of a job whose number is not given.
_MOST = 1_000_000
WORKERS = (1, 3, 10, 30, 100, 300, 1000)


@dataclass
class SimulatedWork:
    """A job of `shards` shards; `there` are those that workers have published."""

    shards: int
    clock: "Clock"
    list_us: float  # of virtual time that listing takes for each object
    there: set[int] = field(default_factory=set)
    id: str = JOB
    location: str = "memory://simulated"
    size: str = "cpu"
    model_digest: str = "0" * 64

    def cuts(self) -> Sequence[Cut]:
        rows = np.full(self.shards, 100)
        return [Cut(digest=PLAN, first=0, rows=rows, tasks=("embed.text",))]

    def published(self) -> set[int]:
        self.clock.now += len(self.there) * self.list_us / 1e6
        return set(self.there)

    def failed_rows(self, shards: Container[int]) -> dict[int, int]:
        return {}

    def is_cancelled(self) -> bool:
        return False


class Floor(Protocol):
    """The workers' side of Redis."""

    board: Board
    queue: TaskQueue

    def announce(self, workers: int) -> None: ...

    def take(self) -> int | None:
        """The next shard of the queue, its lease held; None where nothing waits."""

    def report(self, shard: int, worker: int) -> None: ...

    def megabytes(self) -> float | None:
        """What the server's memory holds."""

    def commands(self) -> int | None:
        """That the server has done so far."""


class VirtualFloor:
    """Redis in this process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._server = VirtualRedis(clock, Faults())
        self.board: Board = VirtualBoard(self._server)
        self.queue: TaskQueue = VirtualQueue(self._server)

    def announce(self, workers: int) -> None:
        for presence in _presences(workers):
            self._server.presences[presence.name] = (presence, float("inf"))

    def take(self) -> int | None:
        waiting = self._server.queues.get(QUEUE)
        if not waiting:
            return None
        shard = waiting.pop(0).shard
        self._server.leases[JOB, shard] = ("w", float("inf"))
        return shard

    def report(self, shard: int, worker: int) -> None:
        self._server.leases.pop((JOB, shard), None)
        self._server.reports.setdefault(JOB, []).append(_report(shard, worker))

    def megabytes(self) -> None:
        return None

    def commands(self) -> None:
        return None


class RedisFloor:
    """A server of its own, with the messages that Celery sends."""

    def __init__(self, broker_url: str) -> None:
        self.board: Board = RedisBoard(broker_url)
        self.queue: TaskQueue = CeleryQueue(broker_url)
        self._client: Any = redis.Redis.from_url(client_url(broker_url), **CLIENT_OPTIONS)

    def announce(self, workers: int) -> None:
        self._client.mset({worker_key(presence.name): presence.to_json() for presence in _presences(workers)})

    def take(self) -> int | None:
        raw = self._client.rpop(depth_key(QUEUE))
        if raw is None:
            return None
        shard = int(json.loads(base64.b64decode(json.loads(raw)["body"]))[1]["shard"])
        self._client.set(lease_key(JOB, shard), "w")
        return shard

    def report(self, shard: int, worker: int) -> None:
        pipe = self._client.pipeline(transaction=False)
        pipe.delete(lease_key(JOB, shard)).rpush(reports_key(JOB), _report(shard, worker).to_json()).execute()

    def megabytes(self) -> float:
        return float(self._client.info("memory")["used_memory"]) / 1e6

    def commands(self) -> int:
        return int(self._client.info("stats")["total_commands_processed"])


def _presences(workers: int) -> list[WorkerPresence]:
    return [
        WorkerPresence(name=f"w{n}", host=f"host-{n // 8}", pid=n, device="cpu", queues=(QUEUE,))
        for n in range(workers)
    ]


def _report(shard: int, worker: int) -> ShardReport:
    seconds = {"fetch": 0.1, "encode": 0.8, "write": 0.1}
    name = f"w{worker}"
    return ShardReport(shard=shard, plan=PLAN, outcome="published", worker=name, rows_ok=100, seconds=seconds)


class Clock:
    """Virtual time; within a tick of the coordinator that of `timer` passes in it, from where it stood."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self.now, self._since, self._timer = 0.0, 0.0, timer

    def __call__(self) -> float:
        return self.now + (self._timer() - self._since if self._since else 0.0)

    def spend(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """Do `work`, with the time that it takes; returns its result and its seconds."""
        began = self._since = self._timer()
        result = work()
        seconds, self._since = self._timer() - began, 0.0
        self.now += seconds
        return result, seconds


class Simulation:
    """One job, driven by a coordinator to its end."""

    def __init__(
        self, floor: Floor, clock: Clock, *, workers: int, shards: int, shard_s: float, given: argparse.Namespace
    ) -> None:
        self._floor, self._clock, self._shard_s = floor, clock, shard_s
        self._rng = random.Random(given.seed)
        self._work = SimulatedWork(shards, clock, given.list_us)
        self._idle: deque[int] = deque(range(workers))
        self._busy: list[tuple[float, int, int]] = []  # ends at, worker, shard
        floor.announce(workers)
        self._coordinator = Coordinator(self._work, board=floor.board, queue=floor.queue, clock=clock)
        self.ticks_s: list[float] = []
        self.megabytes = 0.0

    def run(self) -> float:
        """Drive the job to its end; the seconds that it took, in virtual time."""
        done = False
        while not done:
            progress, seconds = self._clock.spend(self._coordinator.tick)
            done = progress.done
            self.ticks_s.append(seconds)
            if len(self.ticks_s) % _LOOK_EVERY == 0:
                self.megabytes = max(self.megabytes, self._floor.megabytes() or 0.0)
            while self._idle and self._start(self._idle[0], self._clock.now):
                self._idle.popleft()
            self._pass_time(TICK_S)
        return self._clock.now

    def _start(self, worker: int, at: float) -> bool:
        shard = self._floor.take()
        if shard is None:
            return False
        heapq.heappush(self._busy, (at + self._shard_s * self._rng.uniform(0.8, 1.2), worker, shard))
        return True

    def _pass_time(self, seconds: float) -> None:
        until = self._clock.now + seconds
        while self._busy and self._busy[0][0] <= until:
            ends, worker, shard = heapq.heappop(self._busy)
            self._work.there.add(shard)
            self._floor.report(shard, worker)
            if not self._start(worker, ends):
                self._idle.append(worker)
        self._clock.now = until


def simulate(workers: int, shards: int, shard_s: float, given: argparse.Namespace) -> dict[str, Any]:
    """One line of the result."""
    if not given.redis:
        clock = Clock(time.process_time)  # all of it is in this process: others on the machine change nothing
        return _measured(VirtualFloor(clock), clock, workers, shards, shard_s, given)
    clock = Clock(time.perf_counter)
    with EmbeddedBroker() as broker:
        return _measured(RedisFloor(broker.url), clock, workers, shards, shard_s, given)


def _measured(
    floor: Floor, clock: Clock, workers: int, shards: int, shard_s: float, given: argparse.Namespace
) -> dict[str, Any]:
    before, began = floor.commands() or 0, time.perf_counter()
    run = Simulation(floor, clock, workers=workers, shards=shards, shard_s=shard_s, given=given)
    seconds = run.run()
    commands = (floor.commands() or 0) - before
    return {
        "workers": workers,
        "shards": shards,
        "shard_s": shard_s,
        "shards_per_s": round(shards / seconds, 2),
        "ideal_per_s": round(workers / shard_s, 2),
        "busy_share": round(shards * shard_s / seconds / workers, 3),
        "tick_ms": round(1000 * statistics.median(run.ticks_s), 1),
        "tick_max_ms": round(1000 * max(run.ticks_s)),
        "coordinator_us_a_shard": round(1e6 * sum(run.ticks_s) / shards),
        "ticks": len(run.ticks_s),
        "redis_mb": round(run.megabytes, 1) or None,
        "commands_a_shard": round(commands / shards, 2) or None,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "wall_s": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Run each number of workers with each length of a shard; print a line of JSON for each, draw the picture."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="numbers of workers")
    arguments.add_argument("--shard-s", type=float, nargs="+", default=(0.1, 1.0, 10.0), help="seconds of a shard")
    arguments.add_argument("--shards", type=int, default=0, help="of the job; default: enough for --longest")
    arguments.add_argument("--redis", action="store_true", help="with a real server and Celery's messages")
    arguments.add_argument("--seed", type=int, default=1, help="of the lengths of shards, within a fifth of the mean")
    arguments.add_argument("--chart", type=Path, default=None, help="an SVG to write")
    arguments.add_argument(
        "--list-us", type=float, default=100.0, help="microseconds of a listing for each object: S3 100, a folder 2"
    )
    arguments.add_argument(
        "--longest", type=float, default=600.0, help="seconds that the job takes at best, if no --shards"
    )
    given = arguments.parse_args()
    lines = []
    for shard_s in given.shard_s:
        for workers in given.workers:
            shards = given.shards or min(_MOST, max(20, round(given.longest * workers / shard_s)))
            lines.append(simulate(workers, shards, shard_s, given))
            sys.stdout.write(json.dumps(lines[-1]) + "\n")
            sys.stdout.flush()
    if given.chart is not None:
        given.chart.write_text(chart(lines))


if __name__ == "__main__":
    main()
