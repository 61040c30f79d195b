"""Every changed bit is found, wherever it is; and what is sound is never called damaged."""

import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.cancelling import cancel_job
from producer.prepare import resume
from producer.retry import plan_retry
from producer.verdict import Verdict
from producer.verify import verify_job, verify_store
from storage.jobs import Job
from storage.store import LocalStore, StoredObject
from tests.inline import InlineMill
from tests.proved_jobs import files_of, finished_jobs, image_job, int8_job, picture, retried, text_job

FLIPS = 100


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Finished jobs: texts with failures and rejects, int8, segments and mixed rows, and one that was retried."""
    return finished_jobs(tmp_path_factory.mktemp("finished"))


def verdict_on(folder: str | Path) -> Verdict:
    return verify_store(LocalStore(Path(folder)))[1]


def unseen_flips(jobs: list[Job], count: int, rng: random.Random) -> list[tuple[str, int]]:
    """Flip single bits, one at a time, in every file of the jobs in turn; returns those that verify did not find."""
    files = [(job, path) for job in jobs for path in files_of(job)]
    rng.shuffle(files)
    unseen = []
    for number in range(count):
        job, path = files[number % len(files)]
        sound = path.read_bytes()
        bit = rng.randrange(len(sound) * 8)
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        if verdict_on(job.store.url).ok:
            unseen.append((str(path), bit))
        path.write_bytes(sound)
    return unseen


def seeded() -> random.Random:
    seed = int(os.environ.get("EMBEDMILL_TEST_SEED", random.randrange(10**6)))
    print(f"seed {seed}")
    return random.Random(seed)


def test_100_of_100_flipped_bits_are_found(jobs: list[Job]) -> None:
    """In plans, job.json, data, footers, failures, ranges, retries, manifests, statistics and views."""
    assert sum(len(files_of(job)) for job in jobs) <= FLIPS, "some file would not be tried"

    assert unseen_flips(jobs, FLIPS, seeded()) == []
    assert [verdict_on(job.store.url).lines(job.id) for job in jobs if not verdict_on(job.store.url).complete] == []


def test_flipped_bits_are_found_before_the_job_is_finished(tmp_path: Path) -> None:
    """Without a manifest each file still proves itself: footers, usage and kept columns, plans, failures, ranges."""
    jobs = [text_job(tmp_path / "text"), int8_job(tmp_path / "int8")]
    for job in jobs:
        mill = InlineMill(job)
        for shard in range(job.record.plan.shards - 1):
            mill.work(mill.message(shard))

    assert [verdict_on(job.store.url).word for job in jobs] == ["unfinished", "unfinished"]
    assert unseen_flips(jobs, 60, seeded()) == []


def test_sound_jobs_are_never_called_damaged(tmp_path: Path) -> None:
    """Planned, half done, cancelled, all published, finished, with a retry planned, half done and finished."""
    job = image_job(tmp_path)
    words = [verdict_on(job.store.url).word]
    mill = InlineMill(job, {f"i{n:03d}": picture(n) for n in range(6)})
    for shard in range(job.record.plan.shards):
        mill.work(mill.message(shard))
        words.append(verdict_on(job.store.url).word)
    cancel_job(job, None, timeout_s=0)
    words.append(verdict_on(job.store.url).word)
    resume(job)
    mill.run()
    finished = verdict_on(job.store.url)
    retry = plan_retry(job)
    words.append(verdict_on(job.store.url).word)
    InlineMill(job, {f"i{n:03d}": picture(n) for n in range(11)}).run()

    assert retry is not None
    assert set(words) == {"unfinished"}
    assert (finished.word, finished.rows_ok, finished.failures) == ("complete", 6, 6)
    assert (verdict_on(job.store.url).word, verdict_on(job.store.url).rows_ok) == ("complete", 11)


def test_a_copy_elsewhere_is_as_good(jobs: list[Job], tmp_path: Path) -> None:
    """Nothing that is proved depends on where the job lies."""
    for number, job in enumerate(jobs):
        shutil.copytree(job.store.url, tmp_path / str(number))

        assert verdict_on(tmp_path / str(number)).lines("copy")[1:] == []
        assert verdict_on(tmp_path / str(number)).complete


def test_a_job_under_way_is_never_called_damaged(tmp_path: Path) -> None:
    """Verified over and over while it is embedded, finished, and its failures are done again."""
    job = image_job(tmp_path)
    working = threading.Thread(target=retried, args=(job,))
    working.start()

    looks = [verdict_on(job.store.url)]
    while working.is_alive() or len(looks) < 3:
        looks.append(verdict_on(job.store.url))
    working.join()

    assert [look.problems for look in looks if not look.ok] == []
    assert verdict_on(job.store.url).complete


def test_a_retry_that_begins_while_verify_looks_is_no_stranger(tmp_path: Path) -> None:
    """Its shards are listed, and its plan was not there a moment ago: verify looks again."""
    job = image_job(tmp_path)
    steps = [lambda: retried(job)]

    class Busy:
        """A store in which the job ends and is retried at the moment when its data are listed first."""

        def walk(self, prefix: str) -> Iterator[StoredObject]:
            if prefix == "data" and steps:
                steps.pop()()
            return job.store.walk(prefix)

        def __getattr__(self, name: str) -> object:
            return getattr(job.store, name)

    verdict = verify_job(Job(Busy(), job.record))  # type: ignore[arg-type]  # a store by __getattr__

    assert (verdict.problems, verdict.word) == ([], "complete")
