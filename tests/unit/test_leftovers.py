"""gc: what it lists and removes, and above all what it leaves alone."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from producer.leftovers import Leftover, find_leftovers, remove
from producer.retry import plan_retry
from producer.verify import verify_job
from schemas.job import plan_to_json, retried
from schemas.rows import ManifestRow, Modality
from schemas.shard import FOOTER_KEY
from storage import layout
from storage.jobs import Job
from storage.model_files import resolve_model
from storage.parquet import plain_file
from storage.plans import PlanWriter
from storage.private_files import private_name
from storage.shards import unpack
from storage.store import LocalStore, Store, open_store
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from tests.mill import embedmill
from tests.proved_jobs import finished_jobs, text_job
from tests.servers import s3_server

DAY = 24 * 3600.0
TOMORROW = time.time() + 2 * DAY
LATE = "feedfeedfeedfeed"  # the name of an attempt


def leftovers(job: Job, *, now: float = TOMORROW) -> list[Leftover]:
    return list(find_leftovers(job.store, job, older_than_s=DAY, now=now))


def keys(found: list[Leftover]) -> list[str]:
    return [leftover.key for leftover in found]


def failures_of(job: Job, attempt: str, *, of_job: str = "") -> tuple[str, bytes]:
    """Key and bytes of the failures that another attempt at a shard, or one of another job, would have written."""
    key = sorted(item.key for item in job.store.walk(layout.FAILURES))[0]
    footer, _, table = unpack(job.store.get(key), key)
    footer = dataclasses.replace(footer, attempt=attempt, job=of_job or footer.job)
    names = pa.array([attempt] * table.num_rows)
    table = table.set_column(table.column_names.index("attempt"), "attempt", names)
    data = plain_file(table.replace_schema_metadata({FOOTER_KEY: footer.to_json()}))
    return layout.failures_key(footer.shard, attempt), data


def unpinned_plan(store: Store) -> list[str]:
    """Write a plan that no job is made of; returns its keys."""
    with PlanWriter(()) as writer:
        writer.add_shard(text_rows(1)[0].modality, [dataclasses.replace(row, kept=()) for row in text_rows(5)], 5.0)
        plan = writer.publish(store)
    return sorted([*plan.files, plan.index])


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A finished job with failures."""
    job = text_job(tmp_path)
    InlineMill(job).run()
    return job


def test_finished_jobs_have_no_leftovers(tmp_path: Path) -> None:
    """Of no kind of job, retried ones too; days later only the empty _tmp goes."""
    for finished in finished_jobs(tmp_path):
        assert leftovers(finished, now=time.time()) == []
        assert keys(leftovers(finished)) == ["_tmp"]


def test_failures_of_an_attempt_that_was_second_go(job: Job) -> None:
    """The footer of the published shard names another attempt: these failures are nobody's, after a day."""
    key, data = failures_of(job, LATE)
    job.store.create(key, data)

    assert leftovers(job, now=time.time()) == []
    assert [remove(leftover, job.store, job) for leftover in leftovers(job) if leftover.key == key] == [True]
    assert verify_job(job).complete


def test_failures_that_may_yet_count_stay(tmp_path: Path) -> None:
    """A stopped process may publish its shard days later: its failures wait for it."""
    job = text_job(tmp_path)
    InlineMill(job).run()
    job.store.delete("data/modality=text/part-000000.parquet")

    found = leftovers(job)

    assert len(list(job.store.walk(layout.FAILURES))) == 2
    assert [key for key in keys(found) if key.startswith("failures")] == []


def test_files_of_other_jobs_and_of_nobody_stay(job: Job) -> None:
    """Our name's shape is not enough: what is inside must be this job's."""
    strange = dict([failures_of(job, LATE, of_job="another-12345678")])
    key, data = failures_of(job, "beefbeefbeefbeef")
    strange[key] = data[:-20] + bytes(20)
    strange |= {
        "failures/part-000000-0123456789abcdef.parquet": b"no Parquet",
        "failures/notes.txt": b"mine",
        "plan/rows-0123456789ab-00000.parquet": b"no Parquet",
        "plan/shards-0123456789ab.parquet": plain_file(pa.table({"mine": [1]})),
        "plan/old.parquet": b"mine",
        "_tmp/notes.txt": b"mine",
        "_tmp/0123456789abcdef0123456789abcdef.probe": b"more than a probe holds",
        "report.html": b"mine",
        "data/modality=text/.part.parquet.swp": b"mine",
    }
    for name, content in strange.items():
        job.store.create(name, content)

    assert leftovers(job) == []


def test_a_plan_that_no_job_was_made_of_goes(job: Job) -> None:
    """After a day; the plans of the job and of its retry stay, pinned or taken up again."""
    plan_retry(job)
    needless = unpinned_plan(job.store)

    assert leftovers(job, now=time.time()) == []
    found = [leftover for leftover in leftovers(job) if leftover.key != "_tmp"]
    assert sorted(keys(found)) == needless
    assert all(remove(leftover, job.store, job) for leftover in found)
    InlineMill(job).run()
    assert verify_job(job).complete


def test_a_plan_that_is_pinned_this_very_moment_is_put_back(job: Job) -> None:
    """Between the list and the removal a retry named the files: they are there afterwards."""
    with PlanWriter(job.record.spec.keep, first_shard=job.record.plan.last_shard + 1) as writer:
        rows = [dataclasses.replace(row, kept=(None, None, None)) for row in text_rows(3)]
        writer.add_shard(rows[0].modality, rows, 3.0)
        plan = writer.publish(job.store)
    found = [leftover for leftover in leftovers(job) if leftover.key.startswith("plan/")]
    job.store.create(layout.retry_key(1), plan_to_json(retried(plan, codes=(), round_=1)))

    removed = [remove(leftover, job.store, job) for leftover in found]

    assert removed == [False, False]
    assert all(job.store.size(leftover.key) == leftover.size for leftover in found)


def test_private_files_go_with_their_process(job: Job) -> None:
    """At once where the process has provably ended; after a day on another machine; never while it runs."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = Path(job.store.url) / "_tmp"
    gone, live = folder / private_name(dead.pid), folder / private_name(os.getpid())
    elsewhere = folder / f"elsewhere-1-{'0' * 32}.inprogress"
    for path in (gone, live, elsewhere, folder / f"{'1' * 32}.probe"):
        path.write_bytes(b"1")

    assert keys(leftovers(job, now=time.time())) == [f"_tmp/{gone.name}"]
    assert sorted(keys(leftovers(job))) == sorted(
        [f"_tmp/{gone.name}", f"_tmp/{elsewhere.name}", f"_tmp/{'1' * 32}.probe"]
    )


def test_what_a_refused_plan_left_goes(tmp_path: Path) -> None:
    """There is no job: an empty _tmp is all that is known as ours, and goes."""
    store = LocalStore(tmp_path)
    (tmp_path / "_tmp").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    plan = unpinned_plan(store)

    found = list(find_leftovers(store, None, older_than_s=DAY, now=TOMORROW))

    assert [remove(leftover, store, None) for leftover in found] == [True] * len(found)
    assert sorted(item.key for item in store.walk("")) == sorted(["mine.txt", *plan])


def test_the_command_only_lists_until_it_is_told_to_delete(job: Job) -> None:
    """A line a file with its reason, the bytes in all; removed with --delete, and then nothing is left."""
    key, data = failures_of(job, LATE)
    job.store.create(key, data)
    words = ("gc", job.store.url, "--older-than", "1ms")

    listed, removed = embedmill(*words), embedmill(*words, "--delete", "--json")

    assert listed.returncode == removed.returncode == 0, listed.stderr
    assert f"{key}  {len(data):,} bytes: attempt {LATE} was second" in listed.stdout
    assert "takes --delete" in listed.stdout.splitlines()[-1]
    told = json.loads(removed.stdout)
    assert (told["job"], told["deleted"]) == (job.id, True)
    assert key in [file["key"] for file in told["files"]]
    assert keys(leftovers(job)) == []


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A prefix on a server that speaks S3."""
    with s3_server() as server:
        for name, value in server.environ().items():
            monkeypatch.setenv(name, value)
        yield open_store(f"s3://{server.bucket}/{tmp_path.name}")


def test_leftovers_in_a_bucket_go_too(bucket: Store) -> None:
    """Ages are those that the store tells; the winner's failures and foreign keys stay."""
    gone = [ManifestRow(id=f"i{n}", line=n, modality=Modality.IMAGE, uri=f"{n}.png", kept=(None,)) for n in range(3)]
    job = planned_job(bucket, [gone], model_digest=resolve_model("hash").card.digest)
    InlineMill(job).run()
    key, data = failures_of(job, LATE)
    for name, content in {key: data, "failures/mine.parquet": b"mine", f"_tmp/{'2' * 32}.probe": b"1"}.items():
        bucket.create(name, content)
    needless = unpinned_plan(bucket)

    found = leftovers(job)

    assert leftovers(job, now=time.time()) == []
    assert sorted(keys(found)) == sorted([key, f"_tmp/{'2' * 32}.probe", *needless])
    assert all(remove(leftover, bucket, job) for leftover in found)
    assert bucket.size("failures/mine.parquet") == 4
    bucket.delete("failures/mine.parquet")
    assert (verify_job(job).word, verify_job(job).failures) == ("complete", 3)
