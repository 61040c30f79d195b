"""One shard, from message to published file, in this process."""

import dataclasses

import numpy as np
import pytest

from schemas.errors import Conflict, Refused
from schemas.failures import FailureCode
from schemas.rows import ManifestRow, Modality
from storage import layout
from storage.jobs import Job
from storage.model_files import resolve_model
from storage.shards import published_shards, read_failures, read_shard
from storage.store import memory_store
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from workers.batching import Cancelled
from workers.embed_shard import MAX_DEATHS
from workers.hash_encoder import expected_vector

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


def test_a_shard_that_only_kills_is_given_up() -> None:
    """After ten processes that died in its middle the shard is an error, not an eleventh death."""
    mill = InlineMill(job_of(text_rows(5)))
    for _ in range(MAX_DEATHS):
        mill.leases.begin(mill.job.id, 0)

    with pytest.raises(Refused, match="died 10 times"):
        mill.work(mill.message(0))


def test_an_attempt_that_ended_does_not_count_as_a_death() -> None:
    """Cancelled or failed attempts end properly: the count starts again."""
    mill = InlineMill(job_of(text_rows(5)))
    mill.leases.begin(mill.job.id, 0)

    mill.work(mill.message(0))

    assert mill.leases.begin(mill.job.id, 0) == 0
