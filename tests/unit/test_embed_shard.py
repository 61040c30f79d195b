"""One shard, from message to published file, in this process."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import Conflict, WorkerUnfit
from schemas.failures import Failure, FailureCode, Stage
from schemas.rows import ManifestRow, Modality
from storage import layout
from storage.jobs import Job
from storage.model_files import resolve_model
from storage.shards import footer_of, published_shards, read_failures, read_shard
from storage.store import memory_store
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from workers.batching import Cancelled
from workers.care import UNEXPLAINED_DEATHS, Care, Outcome
from workers.embedding import Embedded
from workers.hash_encoder import expected_vector
from workers.isolation import AloneTask

DIGEST = resolve_model("hash").card.digest


def job_of(*shards: list[ManifestRow]) -> Job:
    return planned_job(memory_store(), list(shards), model_digest=DIGEST)


def test_rows_keep_their_vectors_ids_and_columns() -> None:
    """Whatever the batches, each id has the vector of its own text, in id order, with its kept column."""
    mill = InlineMill(job_of(list(reversed(text_rows(300)))))

    outcome = mill.work(mill.message(0))

    footer, ids, vectors, table = read_shard(mill.job.store, "data/modality=text/part-000000.parquet")
    assert outcome == "published"
    assert ids == sorted(row.id for row in text_rows(300))
    assert table["label"].to_pylist() == [f"k{n}" for n in range(300)]
    for n, vector in enumerate(vectors["embedding"]):
        np.testing.assert_array_equal(vector, expected_vector(f"text number {n}".encode(), DIGEST, 16))
    assert (footer.rows_planned, footer.rows_ok, footer.failures) == (300, 300, {})


def test_a_shard_delivered_twice_is_committed_once() -> None:
    """The second delivery finds it published and does nothing."""
    mill = InlineMill(job_of(text_rows(5)))
    mill.work(mill.message(0))
    before = mill.job.store.get("data/modality=text/part-000000.parquet")

    assert mill.work(mill.message(0)) == "skipped"
    assert mill.job.store.get("data/modality=text/part-000000.parquet") == before


def test_a_shard_that_another_worker_holds_is_left_alone() -> None:
    """Without the lease nothing is computed or written."""
    mill = InlineMill(job_of(text_rows(5)))
    mill.leases.acquire(mill.job.id, 0, "another", 30)

    assert mill.work(mill.message(0)) == "busy"
    assert list(published_shards(mill.job.store)) == []


def test_a_cancelled_job_is_left_alone() -> None:
    """The mark in the store stops a worker before it begins."""
    mill = InlineMill(job_of(text_rows(5)))
    mill.job.store.create(layout.CANCELLED, b"{}")

    with pytest.raises(Cancelled):
        mill.work(mill.message(0))


def test_a_shard_of_failures_is_published_empty() -> None:
    """All rows failed: the commit is a file without rows, and the failures are named by its attempt."""
    bad = [dataclasses.replace(row, text=None, defect=FailureCode.TEXT_EMPTY) for row in text_rows(3)]
    mill = InlineMill(job_of(bad))

    mill.work(mill.message(0))

    footer, ids, _, _ = read_shard(mill.job.store, "data/modality=text/part-000000.parquet")
    failures = read_failures(mill.job.store, 0, footer.attempt)
    assert ids == []
    assert footer.failures == {"text_empty": 3}
    assert failures["id"].to_pylist() == [row.id for row in bad]


def test_media_that_cannot_be_loaded_are_failures() -> None:
    """An image that is not there costs its row; texts and images of one job have their own files."""
    image = ManifestRow(id="i", line=9, modality=Modality.IMAGE, uri="gone.png", kept=("k",))
    mill = InlineMill(job_of(text_rows(2), [image]))

    mill.run()

    assert mill.job.store.size("data/modality=text/part-000000.parquet") is not None
    footer, *_ = read_shard(mill.job.store, "data/modality=image/part-000001.parquet")
    assert footer.failures == {"not_found": 1}


def test_the_same_place_taken_by_another_plan_is_a_conflict() -> None:
    """Nothing of another plan is ever taken for ours, nor written over."""
    mill = InlineMill(job_of(text_rows(5)))
    other = InlineMill(job_of(text_rows(5, first=100)))
    other.work(other.message(0))
    key = "data/modality=text/part-000000.parquet"
    foreign = other.job.store.get(key)
    rows = read_shard(other.job.store, key)

    class Late:
        """The store as it looks to an attempt that began before the other one published."""

        def __init__(self) -> None:
            self.inner = mill.job.store
            self.url = self.inner.url
            self.began = False

        def size(self, name: str) -> int | None:
            return self.inner.size(name) if self.began or name != key else None

        def create(self, name: str, data: bytes) -> bool:
            self.began = True
            return self.inner.create(name, data)

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    mill.job.store.create(key, foreign)
    late = InlineMill(Job(Late(), mill.job.record))  # type: ignore[arg-type]  # a store by __getattr__

    with pytest.raises(Conflict, match="another plan"):
        late.work(late.message(0))
    assert rows[1] == [row.id for row in text_rows(5, first=100)]
    assert mill.job.store.get(key) == foreign


CRASHED = Failure(code=FailureCode.PROCESS_CRASHED, stage=Stage.FORWARD, message="it died")


class Cell:
    """Tries rows alone, and remembers which; row 2 dies of it."""

    def __init__(self) -> None:
        self.tried: list[int] = []

    def __call__(self, task: AloneTask, should_stop: Callable[[], bool]) -> Iterator[tuple[int, Outcome]]:
        for row in task.rows:
            self.tried.append(row)
            vector = expected_vector(f"text number {row}".encode(), DIGEST, 16)
            yield row, CRASHED if row == 2 else Embedded(vector[None, :], [{}])


def test_suspects_are_tried_alone_and_the_others_as_usual() -> None:
    """A row in whose middle a process died costs itself; what it was suspected with has its vectors."""
    cell = Cell()
    mill = InlineMill(job_of(text_rows(5)), care=Care(alone=cell))
    suspects = mill.care.suspects
    suspects.suspect(mill.job.id, 0, [1, 2])

    outcome = mill.work(mill.message(0))

    footer, ids, vectors, _ = read_shard(mill.job.store, "data/modality=text/part-000000.parquet")
    assert (outcome, cell.tried) == ("published", [1, 2])
    assert footer.failures == {"process_crashed": 1}
    assert ids == ["r000000", "r000001", "r000003", "r000004"]
    for item, vector in zip(ids, vectors["embedding"], strict=True):
        np.testing.assert_array_equal(vector, expected_vector(f"text number {int(item[1:])}".encode(), DIGEST, 16))


def test_a_row_that_was_condemned_is_not_tried_again() -> None:
    """What came of it alone is remembered by all workers."""
    cell = Cell()
    mill = InlineMill(job_of(text_rows(5)), care=Care(alone=cell))
    mill.care.suspects.suspect(mill.job.id, 0, [1, 2])
    mill.care.suspects.condemn(mill.job.id, 0, 2, CRASHED)

    mill.work(mill.message(0))

    assert cell.tried == [1]


def test_deaths_that_nothing_explains_never_fail_a_shard() -> None:
    """Machines that were taken away count for nothing; after many each row is tried alone, for it may be a row."""
    cell = Cell()
    mill = InlineMill(job_of(text_rows(5)), care=Care(alone=cell))
    for _ in range(UNEXPLAINED_DEATHS):
        mill.leases.begin(mill.job.id, 0)

    outcome = mill.work(mill.message(0))

    assert (outcome, cell.tried) == ("published", [0, 1, 2, 3, 4])


def test_nothing_is_published_by_a_device_that_errs_without_a_word() -> None:
    """The canary is looked at before failures are believed: what a sick device gives stays unpublished."""
    rows = [replace(row, text="!nan") if n == 3 else row for n, row in enumerate(text_rows(5))]
    mill = InlineMill(job_of(rows), faults="poison,drift@4")  # the canary has one item a modality

    with pytest.raises(WorkerUnfit, match="other vectors for the same input"):
        mill.work(mill.message(0))

    assert list(mill.job.store.walk("data")) == []


def test_bad_rows_of_a_sound_device_are_believed() -> None:
    """The canary is well: it is the row."""
    rows = [replace(row, text="!nan") if n == 3 else row for n, row in enumerate(text_rows(5))]
    mill = InlineMill(job_of(rows), faults="poison")

    mill.work(mill.message(0))

    footer = footer_of(mill.job.store, "data/modality=text/part-000000.parquet")
    assert footer.failures == {"vector_not_finite": 1}


def test_an_attempt_that_ended_does_not_count_as_a_death() -> None:
    """Cancelled or failed attempts end properly: the count starts again."""
    mill = InlineMill(job_of(text_rows(5)))
    mill.leases.begin(mill.job.id, 0)

    mill.work(mill.message(0))

    assert mill.leases.begin(mill.job.id, 0) == 0
