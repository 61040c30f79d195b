"""A worker in virtual time, one step at a time: it may be left, paused or killed between any two.

`twin_attempt` does what workers/runtime.py, embed_shard.py and storage/shards.py do, without Parquet, for speed;
`real_attempt` is the real `embed_shard` on a thread that waits for its turn before each call to store and Redis.
"""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from schemas.errors import Conflict, EmbedmillError, NotAllowed, StoreError, StoreUnavailable
from schemas.message import ShardMessage
from schemas.presence import WorkerPresence
from schemas.queues import queue_name
from schemas.rows import Modality
from schemas.settings import Settings
from schemas.shard import ShardEntry, ShardReport
from schemas.sizes import above, up_to
from storage import layout
from storage.jobs import Job
from storage.store import Store
from tests.virtual_redis import VirtualRedis
from tests.virtual_store import VirtualStore
from workers.batching import DEFAULT_TOKENS, Cancelled, TokenBudget
from workers.embed_shard import embed_shard
from workers.encoder import Encoder
from workers.loading import ScriptedLoader
from workers.runtime import OpenJob

LEASE_S = 20.0
#: How a file of `twin_attempt` begins.
TWIN = b'{"attempt":'

Attempt = Generator[None, None, ShardReport]


@dataclass
class Floor:
    """What workers share: the server, their jobs, and how long a shard takes."""

    server: VirtualRedis
    jobs: dict[str, Job]  # over each worker's view of the store
    stores: dict[str, VirtualStore]
    clock: Callable[[], float]
    encoders: Mapping[str, Encoder]  # by size; `real_attempt` alone uses them
    work_s: float = 0.0
    attempts: int = 0
    won: Counter[tuple[str, int]] = field(default_factory=Counter)  # attempts that said that they published

    def is_large(self, shard: int) -> bool:
        """Whether a row of it is too large for a processor."""
        return shard % 4 == 3

    def failures(self, shard: int) -> int:
        return shard % 2


@dataclass
class VirtualWorker:
    """One worker with one slot."""

    floor: Floor
    name: str
    size: str
    start: "Start"
    fit: bool = True
    paused: bool = False
    message: ShardMessage | None = None
    attempt: Attempt | None = None
    lease: tuple[str, int] | None = None
    stop: bool = False  # a heartbeat learnt that the work is for nothing
    model: str = ""
    said: WorkerPresence | None = None

    def __post_init__(self) -> None:
        self.queues = tuple(queue_name(Modality.TEXT, size) for size in up_to(self.size))

    def take(self) -> bool:
        """Take the next message of the queues that it serves; False where there is none, or it is at work."""
        server = self.floor.server
        if self.attempt is not None or self.paused or server.away:
            return False
        for name in self.queues:
            queue = server.queues.get(name)
            if queue:
                self.message = queue.pop(0)
                self.attempt, self.stop = self.start(self, self.message), False
                return True
        return False

    def step(self) -> None:
        """One step of the attempt; after the last one, report."""
        if self.attempt is None or self.message is None or self.paused:
            return
        job = self.message.job
        try:
            next(self.attempt)
        except StopIteration as end:
            self._close()
            if end.value.outcome == "published":
                self.floor.won[job, end.value.shard] += 1
            self.floor.server.report(job, end.value)

    def die(self, *, returned: bool) -> None:
        """End at once; the message is `returned` (a child was killed) or gone (the whole worker was)."""
        if self.attempt is None or self.message is None:
            return
        message, attempt = self.message, self.attempt
        self._close()
        attempt.close()
        if returned and not self.floor.server.away:
            self.floor.server.queues.setdefault(self.queues[0], []).append(message)

    def heartbeat(self) -> None:
        """Renew the lease and the presence, as threads of the process do; a paused one does not."""
        if self.paused:
            return
        self.floor.server.announce(self.presence())
        if self.lease is not None:
            job, shard = self.lease
            with contextlib.suppress(redis.RedisError):
                if not self.floor.server.acquire(job, shard, self.name, LEASE_S) or self.floor.server.is_cancelled(job):
                    self.stop = True

    def presence(self) -> WorkerPresence:
        if self.said is None or (self.model and self.said.models != (self.model,)):
            models = (self.model,) if self.model else ()
            self.said = WorkerPresence(
                name=self.name, host="h", pid=1, device="cpu", queues=self.queues, size=self.size, models=models
            )
        return self.said

    def report(self, message: ShardMessage, outcome: str, *, failed: int = 0, error: str = "") -> ShardReport:
        return ShardReport(
            shard=message.shard,
            plan=message.plan,
            outcome=outcome,
            worker=self.name,
            size=self.size,
            rows_failed=failed,
            error=error,
        )

    def may_hand_over(self) -> bool:
        larger = {queue_name(Modality.TEXT, size) for size in above(self.size)}
        self.floor.server.reach()
        return any(larger & set(other.queues) for other in self.floor.server.workers() if other.name != self.name)

    def _close(self) -> None:
        self.attempt = self.message = self.lease = None


#: What a worker does with a message.
Start = Callable[[VirtualWorker, ShardMessage], Attempt]


def _told(worker: VirtualWorker, message: ShardMessage, work: Attempt) -> Attempt:
    """What `Runtime.work` makes of an attempt's errors."""
    try:
        _open_job(worker, message.job)
        return (yield from work)
    except (Cancelled, redis.RedisError):
        return worker.report(message, "cancelled")
    except NotAllowed as err:
        return worker.report(message, "unfit", error=str(err))
    except StoreUnavailable as err:
        return worker.report(message, "store_failed", error=f"{type(err).__name__}: {err}")
    except EmbedmillError as err:
        return worker.report(message, "error", error=f"{type(err).__name__}: {err}")


def _open_job(worker: VirtualWorker, job: str) -> None:
    """What comes before a shard is looked at."""
    if not worker.fit:
        raise NotAllowed("the job's folder lies outside the allowed roots")
    worker.floor.server.reach()
    if job not in worker.floor.server.locations:
        raise Cancelled
    worker.model = worker.floor.jobs[job].record.spec.model_digest


def twin_attempt(worker: VirtualWorker, message: ShardMessage) -> Attempt:
    """`embed_shard` in steps, with a line of JSON for a Parquet file."""
    return _told(worker, message, _twin(worker, message))


def _twin(worker: VirtualWorker, message: ShardMessage) -> Attempt:
    floor, store = worker.floor, worker.floor.stores[message.job]
    yield
    if store.size(layout.data_key(Modality.TEXT, message.shard)) is not None:
        return worker.report(message, "skipped")
    yield
    try:
        free = floor.server.acquire(message.job, message.shard, worker.name, LEASE_S)
    except redis.RedisError:
        free = True
    if not free:
        return worker.report(message, "busy")
    worker.lease = (message.job, message.shard)
    with contextlib.suppress(redis.RedisError):
        floor.server.begin(message.job, message.shard)
    yield
    try:
        report = yield from _held(worker, message, store)
    except (EmbedmillError, Cancelled, redis.RedisError):
        _give_back(worker, message)
        raise
    yield
    _give_back(worker, message)
    return report


def _give_back(worker: VirtualWorker, message: ShardMessage) -> None:
    worker.lease = None
    with contextlib.suppress(redis.RedisError):
        worker.floor.server.end(message.job, message.shard)
        worker.floor.server.release(message.job, message.shard, worker.name)


def _held(worker: VirtualWorker, message: ShardMessage, store: VirtualStore) -> Attempt:
    floor, shard = worker.floor, message.shard
    if floor.jobs[message.job].is_cancelled():
        raise Cancelled
    done_at = floor.clock() + floor.work_s
    yield
    while floor.clock() < done_at and not worker.stop:
        yield
    if worker.stop:
        raise Cancelled
    too_large = int(floor.is_large(shard) and worker.size == "cpu")
    if too_large and worker.may_hand_over():
        return worker.report(message, "too_large")
    yield
    return (yield from _publish(worker, message, store, floor.failures(shard) + too_large))


def _publish(worker: VirtualWorker, message: ShardMessage, store: VirtualStore, failed: int) -> Attempt:
    """`storage.shards.publish`, in steps."""
    floor, shard = worker.floor, message.shard
    floor.attempts += 1
    attempt = floor.attempts
    data, failures = layout.data_key(Modality.TEXT, shard), layout.failures_key(shard, f"{attempt:x}")
    if failed:
        store.create(failures, b"failures")
        yield
    written = json.dumps({"attempt": attempt, "plan": message.plan, "failed": failed}).encode()
    won = store.create(data, written)
    yield
    if not won:
        winner = json.loads(store.get(data))
        yield
        won = winner["attempt"] == attempt
        if not won and failed:
            with contextlib.suppress(StoreError):
                store.delete(failures)
        if winner["plan"] != message.plan:
            raise Conflict(f"shard {shard} was published by another plan")
    return worker.report(message, "published" if won else "lost", failed=failed)


# The real thing, on a thread that runs only when it is told to.


class _Killed(BaseException):
    """What a killed process does: nothing more."""


class _Baton:
    """Who may run: the machine, or the attempt."""

    def __init__(self) -> None:
        self._attempts_turn, self._machines_turn = threading.Event(), threading.Event()
        self.dead = self.over = False

    def hand_back(self) -> None:
        """Called by the attempt, before each of its calls to the world."""
        if not self.dead:
            self._machines_turn.set()
            self._attempts_turn.wait()
            self._attempts_turn.clear()
        if self.dead:
            raise _Killed

    def end(self) -> None:
        """Called by the attempt, last."""
        self.over = True
        self._machines_turn.set()

    def let_run(self) -> None:
        """Called by the machine: run the attempt up to its next call, or to its end."""
        self._attempts_turn.set()
        self._machines_turn.wait()
        self._machines_turn.clear()


class _StoreInTurn:
    """A store whose every call, but for reading the plan, waits for the attempt's turn."""

    def __init__(self, inner: Store, baton: _Baton) -> None:
        self._inner, self._baton, self.url = inner, baton, inner.url

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call: Callable[..., Any] = getattr(self._inner, name)

        def in_turn(key: str, *words: Any, **named: Any) -> Any:
            if not key.startswith(f"{layout.PLAN}/"):
                self._baton.hand_back()
            return call(key, *words, **named)

        return in_turn


class _LeasesInTurn:
    """Leases whose every call waits for the attempt's turn; the machine's heartbeat renews them."""

    def __init__(self, worker: VirtualWorker, baton: _Baton) -> None:
        self._worker, self._server, self._baton = worker, worker.floor.server, baton

    def acquire(self, job: str, shard: int, owner: str, ttl_s: float) -> bool:
        self._baton.hand_back()
        self._worker.lease = (job, shard)
        held = False
        try:
            held = self._server.acquire(job, shard, owner, LEASE_S)
        finally:
            self._worker.lease = (job, shard) if held else None
        return held

    def release(self, job: str, shard: int, owner: str) -> None:
        self._baton.hand_back()
        self._worker.lease = None
        self._server.release(job, shard, owner)

    def is_cancelled(self, job: str) -> bool:
        return False  # asked by the heartbeat in real time alone

    def begin(self, job: str, shard: int) -> int:
        self._baton.hand_back()
        return self._server.begin(job, shard)

    def end(self, job: str, shard: int) -> None:
        self._baton.hand_back()
        self._server.end(job, shard)


def real_attempt(worker: VirtualWorker, message: ShardMessage) -> Attempt:
    """`workers.embed_shard.embed_shard` itself, with Parquet files, up to each of its calls to store and Redis."""
    return _told(worker, message, _real(worker, message))


def _real(worker: VirtualWorker, message: ShardMessage) -> Attempt:
    baton, outcome = _Baton(), _Outcome()
    thread = threading.Thread(target=outcome.of, args=(worker, message, baton), daemon=True)
    thread.start()
    try:
        while not baton.over:
            baton.let_run()
            yield
    finally:
        baton.dead = True  # where it is not over: it was killed
        while not baton.over:
            baton.let_run()
        thread.join()
    return outcome.answer(worker, message)


class _Outcome:
    """How an attempt on a thread ended."""

    report: ShardReport | None = None
    error: Exception | None = None

    def of(self, worker: VirtualWorker, message: ShardMessage, baton: _Baton) -> None:
        settings = Settings(worker_name=worker.name, size=worker.size, lease_s=3600.0)

        def hand_over(entry: ShardEntry, reason: str) -> bool:
            baton.hand_back()
            return worker.may_hand_over()

        try:
            baton.hand_back()
            job, leases = _open(worker, message.job, baton, settings), _LeasesInTurn(worker, baton)
            self.report = embed_shard(job, message, leases=leases, settings=settings, hand_over=hand_over)
        except _Killed:
            return
        except Exception as err:  # carried over to the machine's thread
            self.error = err
        finally:
            baton.end()

    def answer(self, worker: VirtualWorker, message: ShardMessage) -> ShardReport:
        if self.error is not None:
            raise self.error
        assert self.report is not None
        return self.report


def _open(worker: VirtualWorker, job_id: str, baton: _Baton, settings: Settings) -> OpenJob:
    job = worker.floor.jobs[job_id]
    turned = Job(_StoreInTurn(job.store, baton), job.record)
    encoder = worker.floor.encoders[worker.size]
    return OpenJob(
        job=turned,
        location=job.store.url,
        loader=ScriptedLoader({}),
        model=lambda: encoder,
        budget=TokenBudget(settings.batch_tokens or DEFAULT_TOKENS),
        settings=settings,
    )
