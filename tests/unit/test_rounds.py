"""The end of a job, its proof, and its retries, in this process."""

import dataclasses
import json

import numpy as np
import pytest

from producer.outcomes import count_outcomes, listed_outcomes, published_files
from producer.retry import plan_retry
from producer.status import JobState, job_status
from producer.verify import verify_job
from schemas.errors import Refused, StoreError
from schemas.failures import Failure, FailureCode, Stage
from schemas.rows import ManifestRow, Modality
from storage.failures import open_failures
from storage.jobs import Job
from storage.model_files import resolve_model
from storage.store import memory_store
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from workers.loading import Loaded

DIGEST = resolve_model("hash").card.digest
GONE = Failure(code=FailureCode.NOT_FOUND, stage=Stage.FETCH, message="no such file")
BROKEN = Failure(code=FailureCode.DECODE_FAILED, stage=Stage.DECODE, message="cut off")


def images(count: int) -> list[ManifestRow]:
    return [
        ManifestRow(id=f"i{n:03d}", line=n, modality=Modality.IMAGE, uri=f"{n}.png", kept=(None,)) for n in range(count)
    ]


def finished_job() -> Job:
    """Two shards of texts and one of ten images, of which eight are gone and two are broken."""
    shards = [text_rows(20), text_rows(20, first=20), images(10)]
    job = planned_job(memory_store(), shards, model_digest=DIGEST)
    InlineMill(job, {f"i{n:03d}": BROKEN if n < 2 else GONE for n in range(10)}).run()
    return job


def found(number: int) -> Loaded:
    from PIL import Image

    return Loaded(image=Image.new("RGB", (4, 4), (number, 0, 0)))


def test_a_finished_job_accounts_for_every_row() -> None:
    """Vectors and failures add up to the plan, and verify finds nothing wrong."""
    job = finished_job()
    verdict, status = verify_job(job), job_status(job)

    assert (status.state, status.vectors, status.failures) == (
        JobState.FINISHED,
        40,
        {"decode_failed": 2, "not_found": 8},
    )
    assert verdict.complete
    assert (verdict.rows, verdict.vectors, verdict.failures) == (50, 40, 10)


def test_the_manifest_lists_every_file_with_its_sha256() -> None:
    """manifest.json names what is under data/, and stats.npz holds a mean for each modality with vectors."""
    import hashlib
    import io

    job = finished_job()
    listed = json.loads(job.store.get("manifest.json"))
    stats = np.load(io.BytesIO(job.store.get("stats.npz")), allow_pickle=False)

    assert {file["key"] for file in listed["files"]} == {item.key for item in job.store.walk("data")}
    for file in listed["files"]:
        assert hashlib.sha256(job.store.get(file["key"])).hexdigest() == file["sha256"]
    assert stats["text_count"] == 40
    assert stats["text_mean"].shape == (16,)


def test_a_retry_does_only_the_asked_for_rows() -> None:
    """Rows with the code are planned again; when they succeed their failures are settled, the others stand."""
    job = finished_job()

    plan = plan_retry(job, ("not_found",))
    InlineMill(job, {f"i{n:03d}": found(n) if n != 9 else GONE for n in range(10)}).run()

    files = list(published_files(job))
    outcomes = count_outcomes(job, files)
    assert plan is not None
    assert plan.rows == 8
    assert (outcomes.vectors, dict(outcomes.failures)) == (47, {"decode_failed": 2, "not_found": 1})
    assert sorted(open_failures(job, [file.footer for file in files])["id"].to_pylist()) == ["i000", "i001", "i009"]
    assert verify_job(job).complete


def test_retries_may_follow_each_other() -> None:
    """A row that failed in a retry can be tried again; every round keeps its files."""
    job = finished_job()
    for missing in (8, 4, 0):
        plan_retry(job)
        media: dict[str, Loaded | Failure] = {f"i{n:03d}": found(n) if n >= missing else GONE for n in range(10)}
        InlineMill(job, media).run()

    assert job_status(job).failures == {}
    assert job_status(job).vectors == 50
    assert [job.is_finished(plan) for plan in job.rounds()] == [True] * 4
    assert verify_job(job).complete


def test_a_retry_that_was_interrupted_is_taken_up() -> None:
    """Asked for again it is the same round; asked for with other codes it is refused."""
    job = finished_job()
    first = plan_retry(job, ("not_found",))

    assert plan_retry(job, ("not_found",)) == first
    with pytest.raises(Refused, match="unfinished retry with --code not_found"):
        plan_retry(job)
    assert len(job.rounds()) == 2


def test_there_is_nothing_to_retry_where_nothing_failed() -> None:
    """No failures with the code: no round."""
    job = finished_job()

    assert plan_retry(job, ("text_nul",)) is None
    assert len(job.rounds()) == 1


def test_an_unknown_code_is_refused_with_the_known_ones() -> None:
    """A typing error does not look like success."""
    with pytest.raises(Refused, match=r"no such failure code; the codes are .*not_found"):
        plan_retry(finished_job(), ("not-found",))


def test_an_unfinished_job_cannot_be_retried_or_finished() -> None:
    """While shards are missing there is no end to write and no failure to settle."""
    from producer.finish import finish_job

    job = planned_job(memory_store(), [text_rows(5)], model_digest=DIGEST)

    with pytest.raises(Refused, match="not finished"):
        plan_retry(job)
    with pytest.raises(StoreError, match="0 of 1 shards"):
        finish_job(job)
    assert verify_job(job).missing == 5


def test_a_stranger_below_data_is_found() -> None:
    """A copy of a shard under another name would be read twice."""
    job = finished_job()
    job.store.create("data/modality=text/copy.parquet", job.store.get("data/modality=text/part-000000.parquet"))

    assert "copy.parquet is no shard" in verify_job(job).problems[0]


def test_a_shard_under_another_name_does_not_end_a_job() -> None:
    """A copy of shard 0 in the place of shard 1 is not shard 1."""
    job = planned_job(memory_store(), [text_rows(5), text_rows(5, first=5)], model_digest=DIGEST)
    mill = InlineMill(job)
    mill.work(mill.message(0))
    job.store.create("data/modality=text/part-000001.parquet", job.store.get("data/modality=text/part-000000.parquet"))

    with pytest.raises(StoreError, match="was moved here"):
        mill.run()


def test_a_damaged_manifest_is_a_problem_and_no_traceback() -> None:
    """Cut off, or listing nothing: verify says so."""
    job = finished_job()
    sound = job.store.get("manifest.json")
    for damaged in (sound[:50], b'{"files": [], "others": []}', b"[]"):
        job.store.replace("manifest.json", damaged)

        assert not verify_job(job).ok


def test_the_list_of_a_finished_job_says_what_its_shards_say() -> None:
    """`status` of a finished job opens no shard, and counts the same as if it did; after a retry too."""
    job = finished_job()

    first = listed_outcomes(job)
    assert first == count_outcomes(job, list(published_files(job)))

    plan_retry(job, ("not_found",))
    assert listed_outcomes(job) is None
    InlineMill(job, {f"i{n:03d}": found(n) for n in range(10)}).run()

    second = listed_outcomes(job)
    assert second == count_outcomes(job, list(published_files(job)))
    assert second is not None and second.failures == {"decode_failed": 2}


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"files": []}'])
def test_a_list_that_is_damaged_is_not_believed(damaged: bytes) -> None:
    """The shards are looked into instead."""
    job = finished_job()
    job.store.replace("manifest.json", damaged)

    assert listed_outcomes(job) is None
    assert job_status(job).vectors == 40


def test_a_list_of_files_that_are_gone_is_not_believed() -> None:
    """A shard that was removed after the end is missed by `status`."""
    job = finished_job()
    job.store.delete("data/modality=text/part-000000.parquet")

    assert listed_outcomes(job) is None
    assert (job_status(job).vectors, job_status(job).published) == (20, 2)


def test_an_attempt_that_lost_leaves_no_failures() -> None:
    """Failures of attempts that did not publish are dropped at the end."""
    job = planned_job(memory_store(), [images(3)], model_digest=DIGEST)
    job.store.create("failures/part-000000-deadbeefdeadbeef.parquet", b"of an attempt that died")

    InlineMill(job).run()

    assert len(list(job.store.walk("failures"))) == 1
    assert dataclasses.asdict(job_status(job))["failures"] == {"not_found": 3}
