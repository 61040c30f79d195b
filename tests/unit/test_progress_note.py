"""The status of jobs with very many shards: told without a look into each of them."""

import json
from collections.abc import Iterable

import pytest

from producer.board import MemoryBoard
from producer.coordinator import Coordinator
from producer.progress_note import NoteWriter
from producer.retry import plan_retry
from producer.status import JobState, job_status
from producer.work import JobWork
from schemas.message import ShardMessage
from schemas.rows import Modality
from schemas.shard import ShardReport
from storage import layout
from storage.jobs import Job
from storage.store import memory_store
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from tests.unit.test_rounds import DIGEST, GONE, images


class Outbox:
    """A task queue that forgets."""

    def send(self, task: str, size: str, messages: Iterable[ShardMessage]) -> None: ...


def job_of_two_kinds() -> Job:
    return planned_job(memory_store(), [text_rows(5), text_rows(5, first=5), images(4)], model_digest=DIGEST)


def noted_job() -> Job:
    """A job whose first shard is reported, and nothing is in the store but a note."""
    job, board = job_of_two_kinds(), MemoryBoard()
    coordinator = Coordinator(JobWork(job), board=board, queue=Outbox())
    plan = job.record.plan.digest
    coordinator.tick()
    board.said = [ShardReport(shard=0, plan=plan, outcome="published", worker="w", rows_ok=3, rows_failed=2)]
    NoteWriter(job, many=3, now=lambda: 1e9).write(coordinator, coordinator.tick())
    return job


def test_a_large_job_is_told_by_its_coordinators_note() -> None:
    """Rows, failures and what is left of each queue; the shards themselves only with `exact`."""
    job = noted_job()

    glance, exact = job_status(job, many=3), job_status(job, many=3, exact=True)

    assert (glance.state, glance.published, glance.rows_ok, glance.failed) == (JobState.UNFINISHED, 1, 3, 2)
    assert {queue.queue: queue.shards_left for queue in glance.queues} == {"embed.text.cpu": 1, "embed.image.cpu": 1}
    assert "--exact" in glance.notes[0]
    assert (exact.state, exact.published, exact.notes) == (JobState.PLANNED, 0, [])


def test_a_small_job_has_no_note() -> None:
    """Its shards are looked into, which takes no time."""
    job = job_of_two_kinds()
    coordinator = Coordinator(JobWork(job), board=MemoryBoard(), queue=Outbox())

    NoteWriter(job, many=4).write(coordinator, coordinator.tick())

    assert job.store.size(layout.PROGRESS) is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"at": 1, "published": 1, "rows_done": 1, "failed": 0}'])
def test_a_damaged_note_is_passed_over(data: bytes) -> None:
    """The shards are looked into instead."""
    job = noted_job()
    job.store.replace(layout.PROGRESS, data)

    assert job_status(job, many=3).published == 0


def test_a_finished_large_job_is_told_by_its_receipt() -> None:
    """What it says is what the shards say, to the last number."""
    job = job_of_two_kinds()
    InlineMill(job, {f"i{n:03d}": GONE for n in range(4)}).run()
    exact = job_status(job, exact=True)
    job.store.delete(layout.data_key(Modality.IMAGE, 2))  # who looks there misses it

    glance = job_status(job, many=3)

    assert glance == exact
    assert (glance.state, glance.published, glance.failures) == (JobState.FINISHED, 3, {"not_found": 4})


def test_a_receipt_from_before_a_retry_is_not_believed() -> None:
    """A job that is tried again is looked into, as is one of an older version."""
    job = job_of_two_kinds()
    InlineMill(job, {f"i{n:03d}": GONE for n in range(4)}).run()
    plan_retry(job, ())
    during = job_status(job, many=1)
    for plan in job.rounds():
        job.store.create(layout.manifest_key(plan.round), b"{}")

    after = job_status(job, many=1)

    assert (during.state, during.shards, during.published) == (JobState.UNFINISHED, 4, 3)
    assert (after.shards, after.published) == (4, 3)


def test_a_receipt_says_what_became_of_the_rows() -> None:
    """In receipt.json, beside where the time went."""
    job = job_of_two_kinds()
    InlineMill(job, {f"i{n:03d}": GONE for n in range(4)}).run()

    told = json.loads(job.store.get(layout.RECEIPT))["outcomes"]

    assert (told["rows_ok"], told["failures"], told["shards"], told["rounds"]) == (10, {"not_found": 4}, 3, 1)
