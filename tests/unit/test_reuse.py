"""No work twice: equal contents within a job are computed once, and what earlier jobs have is taken from them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from producer.finish import finish_job
from producer.outcomes import listed_outcomes, published_files
from producer.recipes import Wishes
from producer.status import job_status
from producer.verify import verify_job
from schemas.errors import Refused
from schemas.failures import Failure, FailureCode, Stage
from schemas.recipe import OutputType
from schemas.rows import Modality
from schemas.shard import FOOTER_KEY, Footer
from storage import layout
from storage.jobs import Job
from storage.parquet import vector_file
from storage.shards import read_failures, read_shard
from tests.inline import InlineMill
from tests.media_loader import media_loader
from tests.proved_jobs import Sounds, planned

InlineRunner = Callable[[Job], None]


def texts(*numbers: int) -> list[dict[str, object]]:
    """A row for each number, of a text that the number makes; ids differ."""
    return [{"id": f"r{at:04d}", "text": f"text number {number}"} for at, number in enumerate(numbers)]


def vectors_of(job: Job) -> dict[str, np.ndarray]:
    """Each id's first vector."""
    found: dict[str, np.ndarray] = {}
    for file in published_files(job):
        _, ids, vectors, _ = read_shard(job.store, file.key)
        found |= dict(zip(ids, vectors["embedding"], strict=True))
    return found


def footers(job: Job) -> list[Footer]:
    return [file.footer for file in published_files(job)]


def run(job: Job) -> Job:
    InlineMill(job).run()
    return job


@pytest.fixture
def running(tmp_path: Path) -> Iterator[InlineRunner]:
    """Runs jobs of images in a folder, with the loader that workers have."""
    with ExitStack() as stack:
        loader = stack.enter_context(media_loader(tmp_path))
        yield lambda job: InlineMill(job, loader=loader).run()


def picture(path: Path, shade: int) -> None:
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)


def test_equal_texts_are_computed_once_and_written_for_each_id(tmp_path: Path) -> None:
    """30 rows of 10 texts: the model sees 10, and every id has the vector of its text."""
    job = run(planned(tmp_path, texts(*range(10), *range(10), *range(10)), shard_seconds=60.0))

    [footer] = footers(job)
    vectors = vectors_of(job)
    assert (footer.rows_ok, footer.equal, footer.reused, footer.spent.items) == (30, 20, 0, 10)
    assert all(np.array_equal(vectors[f"r{n:04d}"], vectors[f"r{n + 10:04d}"]) for n in range(20))
    assert len({vector.tobytes() for vector in vectors.values()}) == 10
    assert verify_job(job).complete


def test_the_plan_puts_equal_rows_into_one_shard(tmp_path: Path) -> None:
    """However far apart they are in the manifest: over many shards the model sees each text once."""
    job = run(planned(tmp_path, texts(*range(400), *range(400)), shard_seconds=0.002))

    found = footers(job)
    assert len(found) > 3
    assert sum(footer.equal for footer in found) == 400
    assert len(vectors_of(job)) == 800
    assert verify_job(job).complete


def test_two_plans_of_a_manifest_are_the_same(tmp_path: Path) -> None:
    """A plan that was interrupted is made again with the same digest."""
    rows = texts(*range(200), *range(100))
    one, other = (planned(tmp_path / name, rows, shard_seconds=0.002) for name in "ab")

    assert one.record.plan.digest == other.record.plan.digest


def test_what_was_found_of_one_row_is_said_of_all_that_equal_it(tmp_path: Path) -> None:
    """A text that ends its process was tried alone for one of its ids; no other one is tried, each is a failure."""
    job = planned(tmp_path, texts(1, 2, 1, 1), shard_seconds=60.0)
    mill = InlineMill(job)
    crashed = Failure(code=FailureCode.PROCESS_CRASHED, stage=Stage.FORWARD, message="it died")
    mill.care.suspects.condemn(job.id, 0, 2, crashed)

    mill.work(mill.message(0))

    [footer] = footers(job)
    failures = read_failures(job.store, 0, footer.attempt)
    assert footer.failures == {"process_crashed": 3}
    assert failures["id"].to_pylist() == ["r0000", "r0002", "r0003"]


def test_media_of_equal_bytes_are_decoded_once(tmp_path: Path, running: InlineRunner) -> None:
    """Of two files of the same bytes the model sees one, and each id has its vector; bad bytes fail for each id."""
    for name, shade in (("a", 1), ("b", 1), ("c", 2)):
        picture(tmp_path / f"{name}.png", shade)
    for name in "de":
        (tmp_path / f"{name}.png").write_bytes(b"no image")
    job = planned(tmp_path, [{"id": name, "uri": f"{name}.png"} for name in "abcde"], shard_seconds=60.0)

    running(job)

    [footer] = footers(job)
    vectors = vectors_of(job)
    assert (footer.rows_ok, footer.equal, footer.spent.items) == (3, 1, 2)
    assert footer.failures == {"format_unsupported": 2}
    assert np.array_equal(vectors["a"], vectors["b"])
    assert not np.array_equal(vectors["a"], vectors["c"])
    assert verify_job(job).complete


def test_a_changed_manifest_embeds_only_what_is_new(tmp_path: Path) -> None:
    """Texts of an earlier job are counted by the plan and taken, whatever their ids; the others are computed."""
    before = run(planned(tmp_path / "before", texts(*range(50))))
    job = planned(tmp_path / "after", texts(*reversed(range(60)), 3), reuse=(before.store.url,), shard_seconds=60.0)
    plan = job.record.plan

    run(job)

    status, [footer] = job_status(job), footers(job)
    old, new = vectors_of(before), vectors_of(job)
    assert plan.reused == 51
    assert (status.computed, status.equal, status.reused, footer.spent.items) == (10, 0, 51, 10)
    assert all(np.array_equal(new[f"r{59 - n:04d}"], old[f"r{n:04d}"]) for n in range(50))
    assert verify_job(job).complete
    assert listed_outcomes(job).reused == 51  # type: ignore[union-attr]  # it is finished


def test_a_file_whose_bytes_changed_is_not_reused(tmp_path: Path, running: InlineRunner) -> None:
    """The name says nothing: bytes are compared, so a file that moved is reused and one that changed is not."""
    for name, shade in (("a", 1), ("b", 2)):
        picture(tmp_path / f"{name}.png", shade)
    before = planned(tmp_path, [{"id": name, "uri": f"{name}.png"} for name in "ab"])
    running(before)
    (tmp_path / "a.png").rename(tmp_path / "moved.png")
    picture(tmp_path / "b.png", 3)
    (tmp_path / "out").rename(tmp_path / "earlier")
    job = planned(
        tmp_path,
        [{"id": "a", "uri": "moved.png"}, {"id": "b", "uri": "b.png"}],
        reuse=(str(tmp_path / "earlier"),),
    )

    running(job)

    [footer] = footers(job)
    old, new = read_shard(job.store, "data/modality=image/part-000000.parquet"), vectors_of(job)
    assert (footer.reused, footer.spent.items) == (1, 1)
    assert old[1] == ["a", "b"]
    assert not np.array_equal(new["a"], new["b"])


def test_segments_and_levels_of_an_earlier_job_are_taken(tmp_path: Path) -> None:
    """From float32 every other type follows; with segments a row has all of its vectors."""
    rows: list[dict[str, object]] = [{"id": f"s{n:02d}", "uri": f"{n}.wav"} for n in range(1, 5)]
    wishes = Wishes(segment_s=1.0, outputs=(OutputType.FLOAT32, OutputType.BINARY))
    before = planned(tmp_path / "before", rows, wishes, shard_seconds=60.0)
    InlineMill(before, loader=Sounds()).run()
    job = planned(tmp_path / "after", rows, wishes, reuse=(before.store.url,), shard_seconds=60.0)

    InlineMill(job, loader=Sounds()).run()

    [footer] = footers(job)
    key = "data/modality=audio/part-000000.parquet"
    assert (footer.rows_ok, footer.vectors, footer.reused, footer.spent.items) == (4, 10, 4, 0)
    assert read_shard(job.store, key)[3].equals(read_shard(before.store, key)[3])
    assert verify_job(job).complete


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_what_an_earlier_job_has_no_more_is_computed(tmp_path: Path, harm: str) -> None:
    """Files that were removed or changed since the plan cost time, never a row, and never a wrong vector."""
    before = run(planned(tmp_path / "before", texts(*range(20))))
    wanted = vectors_of(before)
    job = planned(tmp_path / "after", texts(*range(20)), reuse=(before.store.url,))
    for file in Path(before.store.url).glob("data/*/*.parquet"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.unlink()
        if harm == "damaged":
            file.write_bytes(data)

    run(job)

    vectors = vectors_of(job)
    assert all(np.array_equal(vectors[id_], vector) for id_, vector in wanted.items())
    assert sum(footer.reused for footer in footers(job)) == 0
    assert verify_job(job).complete


def test_another_space_is_refused_by_its_fields(tmp_path: Path) -> None:
    """Vectors that are scaled do not stand for vectors that are not; nor do levels alone hold a vector."""
    before = run(planned(tmp_path / "before", texts(1, 2)))
    levels = Wishes(outputs=(OutputType.INT8,))
    coarse = run(planned(tmp_path / "coarse", texts(1, 2), levels))

    with pytest.raises(Refused, match="normalize: False there, True here"):
        planned(tmp_path / "after", texts(1, 2), Wishes(normalize=True), reuse=(before.store.url,))
    with pytest.raises(Refused, match="float32"):
        planned(tmp_path / "again", texts(1, 2), levels, reuse=(coarse.store.url,))


def test_the_proof_knows_whose_content_a_vector_is_of(tmp_path: Path) -> None:
    """A shard of other texts, sealed and under the right ids, does not pass for the planned one."""
    job = planned(tmp_path, texts(1, 2, 3))
    other = run(planned(tmp_path / "other", texts(1, 2, 4)))
    mill = InlineMill(job)
    key = layout.data_key(Modality.TEXT, 0)
    table = read_shard(other.store, key)[3]
    mill.work(mill.message(0))
    own = read_shard(job.store, key)[3]
    forged = own.set_column(
        own.column_names.index("content_hash"), own.schema.field("content_hash"), table["content_hash"]
    )
    metadata = {FOOTER_KEY: own.schema.metadata[FOOTER_KEY]}
    job.store.replace(key, vector_file(forged, dim=16, metadata=metadata))
    finish_job(job)

    problems = verify_job(job).problems

    assert any("content hashes are not those of the planned texts" in problem for problem in problems)
