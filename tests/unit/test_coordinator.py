"""The coordinator, on the memory board and the memory store, with a clock of the test's own."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from producer.board import MemoryBoard
from producer.coordinator import (
    FORGET_AFTER_S,
    LISTING_EVERY_S,
    MAX_ERRORS,
    MAX_UNFIT,
    RESEND_AFTER_S,
    STORE_PAUSE_S,
    UNSERVED_S,
    WINDOW_PER_WORKER,
    Coordinator,
)
from producer.work import JobWork
from schemas.errors import BrokerError, Stopped, StoreError
from schemas.message import ShardMessage
from schemas.presence import WorkerPresence
from schemas.shard import Footer, ShardReport
from storage import layout
from storage.jobs import Job
from storage.plans import PlanReader, kept_schema
from storage.shards import FAILURES_SCHEMA, ShardOutput, publish
from storage.store import StoredObject, memory_store
from tests.jobs import planned_job, text_rows

QUEUE = "embed.text.cpu"


class Outbox:
    """A task queue that only remembers."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send(self, task: str, size: str, messages: Iterable[ShardMessage]) -> None:
        self.sent += [message.shard for message in messages]


class Mill:
    """A coordinator with everything around it in this process."""

    def __init__(self, shards: int) -> None:
        self.now = 0.0
        self.job: Job = planned_job(memory_store(), [text_rows(5, first=5 * n) for n in range(shards)])
        self.board, self.outbox = MemoryBoard(), Outbox()
        self.coordinator = self.another()

    def another(self) -> Coordinator:
        return Coordinator(JobWork(self.job), board=self.board, queue=self.outbox, clock=lambda: self.now)

    def publish(self, shard: int) -> None:
        """What a worker leaves in the store."""
        rows = PlanReader(self.job.store, self.job.record.plan).read_rows(shard)
        footer = Footer(
            job=self.job.id,
            plan=self.job.record.plan.digest,
            shard=shard,
            attempt="a",
            space="s",
            modality="text",
            model="hash",
            rows_planned=len(rows),
            rows_ok=len(rows),
            vectors=len(rows),
            failures={},
            content_sha256="",
            worker="w",
            versions={},
        )
        kept = kept_schema(self.job.record.spec.keep).empty_table().slice(0, 0)
        ids = [row.id for row in rows]
        kept = kept.from_pydict({"label": ids}, schema=kept.schema)
        output = ShardOutput(
            footer=footer,
            ids=ids,
            vectors={"embedding": np.ones((len(rows), 16), np.float32)},
            usage={},
            kept=kept,
            failures=FAILURES_SCHEMA.empty_table(),
        )
        publish(self.job.store, output)

    def report(self, shard: int, outcome: str, error: str = "") -> None:
        self.board.said.append(
            ShardReport(shard=shard, plan=self.job.record.plan.digest, outcome=outcome, worker="w", error=error)
        )


def test_no_more_is_sent_than_the_window() -> None:
    """A long job waits in the plan, not on the queue."""
    mill = Mill(shards=20)

    progress = mill.coordinator.tick()

    assert mill.outbox.sent == list(range(WINDOW_PER_WORKER))
    assert progress.sent == WINDOW_PER_WORKER


def test_the_window_grows_with_the_workers() -> None:
    """Each live worker of the queue has its share in front of it."""
    mill = Mill(shards=20)
    mill.board.present = [
        WorkerPresence(name=f"w{n}", host="h", pid=n, device="cpu", queues=(QUEUE,)) for n in range(3)
    ]

    mill.coordinator.tick()

    assert len(mill.outbox.sent) == 3 * WINDOW_PER_WORKER


def test_a_published_shard_makes_room_for_the_next() -> None:
    """What a worker reports is believed at once."""
    mill = Mill(shards=6)
    mill.coordinator.tick()
    mill.publish(0)
    mill.report(0, "published")

    progress = mill.coordinator.tick()

    assert mill.outbox.sent == [0, 1, 2, 3, 4]
    assert (progress.published, progress.rows_done) == (1, 5)


def test_a_lost_message_is_sent_again() -> None:
    """Neither leased nor published, with its queue empty: after a while it goes out once more."""
    mill = Mill(shards=1)
    mill.coordinator.tick()

    mill.now += RESEND_AFTER_S + 1
    mill.coordinator.tick()

    assert mill.outbox.sent == [0, 0]


def test_a_message_that_waits_is_not_sent_again() -> None:
    """As long as the queue holds messages, a shard's is taken to be among them; but not for ever."""
    mill = Mill(shards=1)
    mill.coordinator.tick()
    mill.board.waiting[QUEUE] = 1

    mill.now += FORGET_AFTER_S - 1
    mill.coordinator.tick()
    before = list(mill.outbox.sent)
    mill.now += 2
    mill.coordinator.tick()

    assert before == [0]
    assert mill.outbox.sent == [0, 0]


def test_a_message_that_was_overtaken_is_sent_again() -> None:
    """Queues are first in, first out: when a later message was taken, an earlier one is lost."""
    mill = Mill(shards=3)
    mill.coordinator.tick()
    mill.board.waiting[QUEUE] = 1
    mill.board.held = {("job-12345678", 1)}

    mill.now += RESEND_AFTER_S + 1
    mill.coordinator.tick()

    assert mill.outbox.sent == [0, 1, 2, 0]


def test_a_leased_shard_is_left_alone() -> None:
    """While a worker holds it, it is not sent again, however long it takes."""
    mill = Mill(shards=1)
    mill.coordinator.tick()
    mill.board.held = {("job-12345678", 0)}

    for _ in range(10):
        mill.now += RESEND_AFTER_S
        mill.coordinator.tick()

    assert mill.outbox.sent == [0]


def test_a_shard_whose_worker_died_is_sent_again() -> None:
    """When the lease is gone and nothing is published, the shard goes out once more."""
    mill = Mill(shards=1)
    mill.coordinator.tick()
    mill.board.held = {("job-12345678", 0)}
    mill.coordinator.tick()
    mill.board.held = set()

    mill.now += RESEND_AFTER_S + 1
    mill.coordinator.tick()

    assert mill.outbox.sent == [0, 0]


def test_a_new_coordinator_sends_only_what_is_not_published() -> None:
    """Started again, it reads the store and goes on."""
    mill = Mill(shards=4)
    mill.publish(0)
    mill.publish(2)

    mill.another().tick()

    assert mill.outbox.sent == [1, 3]


def test_a_wrong_report_does_not_end_a_job() -> None:
    """Only the store's word counts: what was reported and is not there is sent again."""
    mill = Mill(shards=1)
    mill.coordinator.tick()
    mill.report(0, "published")

    progress = mill.coordinator.tick()
    mill.coordinator.tick()

    assert not progress.done
    assert mill.outbox.sent == [0, 0]


def test_a_published_shard_nobody_reported_is_found() -> None:
    """With Redis wiped, the listing tells."""
    mill = Mill(shards=1)
    mill.coordinator.tick()
    mill.publish(0)

    mill.now += LISTING_EVERY_S + 1

    assert mill.coordinator.tick().done


def test_a_shard_that_only_fails_stops_the_job() -> None:
    """After MAX_ERRORS errors for cause the job stops, and the message names shard and reason."""
    mill = Mill(shards=1)
    mill.coordinator.tick()
    for _ in range(MAX_ERRORS):
        mill.report(0, "error", "StoreError: disk full")

    with pytest.raises(Stopped, match=r"shard 0 failed 5 times.*disk full"):
        mill.coordinator.tick()


def test_a_shard_that_failed_is_sent_again_later() -> None:
    """What ails it may pass: the pause doubles with each error."""
    mill = Mill(shards=1)
    mill.coordinator.tick()
    mill.report(0, "error", "StoreError: busy")
    mill.coordinator.tick()
    at_once = list(mill.outbox.sent)
    mill.now += 2.5
    mill.coordinator.tick()

    assert at_once == [0]
    assert mill.outbox.sent == [0, 0]


def test_an_unfit_worker_does_not_stop_the_job() -> None:
    """As long as another worker publishes, the unfit one's reports count for nothing; with none, the job stops."""
    mill = Mill(shards=30)
    for shard in range(20):
        mill.coordinator.tick()
        mill.report(shard + 1, "unfit", "NotAllowed: outside")
        mill.publish(shard)
        mill.report(shard, "published")

    mill.coordinator.tick()
    for _ in range(MAX_UNFIT):
        mill.report(25, "unfit", "NotAllowed: outside")

    with pytest.raises(Stopped, match="no worker is fit"):
        mill.coordinator.tick()


def test_one_sick_worker_does_not_stop_what_others_can_do() -> None:
    """Its errors alone stop nothing while another worker is there; with a third worker's they do."""
    mill = Mill(shards=1)
    mill.board.present = [
        WorkerPresence(name=name, host="h", pid=1, device="cpu", queues=(QUEUE,)) for name in ("w", "x", "y", "z")
    ]
    for _ in range(MAX_ERRORS + 2):
        mill.report(0, "error", "RuntimeError: sick")
        mill.coordinator.tick()
    for worker in ("x", "y"):
        report = ShardReport(shard=0, plan=mill.job.record.plan.digest, outcome="error", worker=worker, error="it too")
        mill.board.said.append(report)

    with pytest.raises(Stopped, match="shard 0 failed 9 times"):
        mill.coordinator.tick()


def test_a_full_store_is_never_counted_against_a_shard() -> None:
    """However often: the shard waits, at most STORE_PAUSE_S, and goes on when the store is back."""
    mill = Mill(shards=1)
    mill.coordinator.tick()

    for _ in range(3 * MAX_ERRORS):
        mill.report(0, "store_failed", "StoreUnavailable: data: No space left on device")
        mill.coordinator.tick()
        mill.now += STORE_PAUSE_S
        mill.coordinator.tick()

    assert len(mill.outbox.sent) == 1 + 3 * MAX_ERRORS


def test_late_errors_of_a_published_shard_count_for_nothing() -> None:
    """A worker that wakes up an hour later cannot stop a job."""
    mill = Mill(shards=2)
    mill.publish(0)
    mill.now += LISTING_EVERY_S + 1
    mill.coordinator.tick()
    for _ in range(2 * MAX_ERRORS):
        mill.report(0, "error", "woke up")

    assert not mill.coordinator.tick().done


def test_a_cancelled_job_stops() -> None:
    """The mark in the store ends the coordinator."""
    mill = Mill(shards=1)
    mill.job.store.create(layout.CANCELLED, b"{}")

    with pytest.raises(Stopped, match="cancelled"):
        mill.coordinator.tick()


def test_a_job_goes_on_when_redis_is_away() -> None:
    """An unreachable board is a note, not an end; what was to be sent is sent later."""
    mill = Mill(shards=2)
    claim = mill.board.claim

    def refuse(job: str, location: str) -> bool:
        raise BrokerError("redis://127.0.0.1:1 cannot be reached")

    mill.board.claim = refuse  # type: ignore[method-assign]
    away = mill.coordinator.tick()
    mill.board.claim = claim  # type: ignore[method-assign]
    mill.coordinator.tick()

    assert "cannot be reached" in away.note
    assert mill.outbox.sent == [0, 1]


def test_a_job_goes_on_when_the_store_is_away() -> None:
    """A store that cannot be listed is a note; the job ends when it can be listed again, and not before."""
    mill = Mill(shards=1)
    mill.coordinator.tick()
    mill.publish(0)
    mill.report(0, "published")
    walk = mill.job.store.walk

    def refuse(prefix: str) -> Iterator[StoredObject]:
        raise StoreError("the store answered 503")

    mill.job.store.walk = refuse  # type: ignore[method-assign]
    away = mill.coordinator.tick()
    mill.job.store.walk = walk  # type: ignore[method-assign]

    assert "503" in away.note
    assert not away.done
    assert mill.coordinator.tick().done


def test_a_queue_that_nobody_serves_is_named() -> None:
    """Work that waits for a worker that does not exist is said, not waited for in silence."""
    mill = Mill(shards=1)
    first = mill.coordinator.tick()
    mill.now += UNSERVED_S + 1

    assert first.note == ""
    assert QUEUE in mill.coordinator.tick().note


def test_a_cancellation_that_was_taken_back_is_forgotten_by_redis_too() -> None:
    """Else workers, who ask Redis, would drop each shard at their first heartbeat, and each would be sent again."""
    mill = Mill(shards=1)
    mill.board.cancelled.add(mill.job.id)

    mill.coordinator.tick()

    assert mill.board.cancelled == set()


def test_workers_hear_of_a_cancellation_that_redis_forgot() -> None:
    """The mark in the store counts: what it says is said on Redis again."""
    mill = Mill(shards=1)
    mill.job.store.create(layout.CANCELLED, b"{}")

    with pytest.raises(Stopped):
        mill.coordinator.tick()

    assert mill.board.cancelled == {mill.job.id}


def test_a_new_coordinator_sends_nothing_that_a_worker_holds() -> None:
    """It watches the shard instead, and sends it when the lease has run out."""
    mill = Mill(shards=2)
    mill.board.held = {(mill.job.id, 0)}

    progress = mill.coordinator.tick()
    first = list(mill.outbox.sent)
    mill.board.held = set()
    mill.now += RESEND_AFTER_S + 1
    mill.coordinator.tick()

    assert (first, progress.sent) == ([1], 2)
    assert set(mill.outbox.sent) == {0, 1}


def test_nothing_to_send_costs_no_connection() -> None:
    """With a full window, the queue is not touched."""
    mill = Mill(shards=WINDOW_PER_WORKER + 1)
    mill.coordinator.tick()
    calls: list[list[ShardMessage]] = []
    mill.outbox.send = lambda *words: calls.append(list(words[2]))  # type: ignore[method-assign]

    mill.coordinator.tick()

    assert calls == []
