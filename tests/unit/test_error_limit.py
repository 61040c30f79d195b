"""The error limit: when a job stops for its failures, and how that is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from producer.coordinator import Coordinator
from producer.error_limit import ErrorLimit
from producer.foreman import Foreman
from producer.prepare import resume
from producer.status import JobState, job_status
from producer.task_queue import InlineQueue
from producer.work import JobWork
from schemas.errors import Stopped
from storage import layout
from storage.jobs import Job
from storage.model_files import resolve_model
from storage.store import LocalStore, Store, memory_store
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows


def job_with_failures(store: Store, *, shards: int, rows: int, failing: int) -> Job:
    """In each shard the first `failing` rows give NaN."""
    planned = [text_rows(rows, first=rows * n) for n in range(shards)]
    poisoned = [[replace(row, text="!nan") if at < failing else row for at, row in enumerate(rows)] for rows in planned]
    return planned_job(store, poisoned, model_digest=resolve_model("hash").card.digest)


@pytest.mark.parametrize(
    ("limit", "failed", "done", "stops"),
    [
        (ErrorLimit(rows=10), 10, 100, False),
        (ErrorLimit(rows=10), 11, 100, True),
        (ErrorLimit(rate=0.05), 150, 199, False),
        (ErrorLimit(rate=0.05), 10, 200, False),
        (ErrorLimit(rate=0.05), 11, 200, True),
        (ErrorLimit(rate=1.0), 500, 500, False),
        (ErrorLimit(), 101, 200, True),
    ],
)
def test_a_limit_is_a_number_or_a_share_of_enough_rows(limit: ErrorLimit, failed: int, done: int, stops: bool) -> None:
    """A share says nothing of a handful of rows; with 0 and 1 there is no limit."""
    assert bool(limit.exceeded(failed, done)) == stops


def test_a_limit_comes_back_as_it_was_written() -> None:
    """What another version wrote, or nobody, is the default."""
    limit = ErrorLimit(rows=7, rate=0.25)

    assert ErrorLimit.from_json(limit.to_json()) == limit
    assert ErrorLimit.from_json(b"{}") == ErrorLimit.from_json(b"junk") == ErrorLimit()


def test_a_job_over_its_limit_stops_and_goes_on_with_a_higher_one() -> None:
    """What is published stays and counts, for a coordinator that saw none of it happen too."""
    job = job_with_failures(memory_store(), shards=30, rows=100, failing=10)
    mill = InlineMill(job, faults="poison")

    def coordinator(limit: ErrorLimit) -> Coordinator:
        return Coordinator(JobWork(job), board=mill.board, queue=InlineQueue(mill.work), limit=limit)

    first = coordinator(ErrorLimit(rate=0.05))
    first.tick()  # sends the first shards, of whose failures it hears at the next
    with pytest.raises(Stopped, match=r"rows failed, 10\.0 %: more than the 0\.05 of --max-error-rate"):
        first.tick()
    mill.board.said.clear()
    with pytest.raises(Stopped, match="--max-errors"):
        coordinator(ErrorLimit(rows=5)).tick()
    last = coordinator(ErrorLimit(rate=0.2))
    while not (progress := last.tick()).done:
        pass

    assert (progress.rows_done, progress.failed) == (3000, 300)


def test_failures_count_though_another_attempt_told_of_the_shard() -> None:
    """A worker publishes and dies before it says so; who gets its message then says only that the shard is there."""
    job = job_with_failures(memory_store(), shards=1, rows=100, failing=10)
    mill = InlineMill(job, faults="poison")
    coordinator = Coordinator(JobWork(job), board=mill.board, queue=InlineQueue(mill.work))
    coordinator.tick()
    mill.board.said[:] = [replace(told, outcome="skipped", rows_ok=0, rows_failed=0) for told in mill.board.said]

    progress = coordinator.tick()

    assert (progress.done, progress.failed) == (True, 10)


def test_the_stores_of_stopped_jobs_say_why(tmp_path: Path) -> None:
    """A job that a coordinator stopped is not waited for: its status says what stopped it, until it is resumed."""
    job = job_with_failures(LocalStore(tmp_path / "job"), shards=6, rows=100, failing=60)
    mill = InlineMill(job, faults="poison")
    job.store.create(layout.SUBMITTED, ErrorLimit().to_json())
    mill.board.submit(job.id, job.store.url)
    foreman = Foreman((str(tmp_path),), board=mill.board, queue=InlineQueue(mill.work), say=lambda line: None)

    for _ in range(10):
        foreman.tick()

    stopped = job_status(job, mill.board)
    assert (stopped.state, job.id in mill.board.withdrawn) == (JobState.STOPPED, True)
    assert "60.0 %: more than the 0.5" in stopped.notes[0]
    resume(job)
    assert job_status(job).state is JobState.UNFINISHED
