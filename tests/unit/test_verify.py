"""What verify says of jobs whose files were damaged, moved, lost or added; and that it always says it."""

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.prepare import JobRequest, prepare_job
from producer.unsettled import Unsettled
from producer.verify import verify_store
from schemas.errors import Refused
from storage.jobs import Job
from storage.store import LocalStore
from tests.inline import InlineMill
from tests.mill import embedmill
from tests.proved_jobs import files_of, finished_jobs, image_job, text_job


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Finished jobs of every kind, that no test changes."""
    return finished_jobs(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def copies(sound: list[Job], tmp_path: Path) -> list[Path]:
    """The same jobs, to be spoilt."""
    return [Path(shutil.copytree(job.store.url, tmp_path / str(number))) for number, job in enumerate(sound)]


def problems(folder: Path) -> list[str]:
    return verify_store(LocalStore(folder))[1].problems


def each_file(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_truncated_file_is_found_wherever_it_was_cut(copies: list[Path]) -> None:
    """Each file of each job: empty, cut at a random place, or without its last byte."""
    rng = random.Random(7)
    for folder in copies:
        for number, path in enumerate(each_file(folder)):
            whole = path.read_bytes()
            path.write_bytes(whole[: (0, rng.randrange(len(whole)), len(whole) - 1)[number % 3]])

            assert problems(folder), path
            path.write_bytes(whole)


def test_a_deleted_file_is_found(copies: list[Path]) -> None:
    """Without it the job is damaged, or at best not finished; never is it complete."""
    for folder in copies:
        for path in each_file(folder):
            whole = path.read_bytes()
            path.unlink()
            _, verdict = verify_store(LocalStore(folder))

            assert not verdict.complete, path
            assert verdict.problems or path.name.startswith(("manifest", "retry")), path
            path.write_bytes(whole)


def test_exchanged_files_are_found(copies: list[Path]) -> None:
    """Any two neighbours of one folder, exchanged whole: shards, failures, plan files."""
    for folder in copies:
        files = list(each_file(folder))
        for one, other in itertools.pairwise(files):
            if one.parent == other.parent and one.suffix == other.suffix:
                kept = one.read_bytes(), other.read_bytes()
                one.write_bytes(kept[1])
                other.write_bytes(kept[0])

                assert problems(folder), (one, other)
                one.write_bytes(kept[0])
                other.write_bytes(kept[1])


def test_exchanged_shards_are_found_before_the_job_is_finished(tmp_path: Path) -> None:
    """No manifest tells yet; each file's footer names its shard."""
    job = text_job(tmp_path)
    mill = InlineMill(job)
    for shard in (0, 1):
        mill.work(mill.message(shard))
    one, other = sorted((tmp_path / "out/data").rglob("*.parquet"))
    bytes_of_one = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(bytes_of_one)

    assert [problem for problem in problems(tmp_path / "out") if "it was moved here" in problem] != []


def test_a_file_of_another_job_is_found(copies: list[Path]) -> None:
    """Every file, in the place of one of the same name in a job of the same manifest."""
    twin = text_job(copies[0].parent / "twin")
    InlineMill(twin).run()
    for theirs in files_of(twin):
        mine = copies[0] / theirs.relative_to(twin.store.url)
        if mine.exists() and mine.read_bytes() != theirs.read_bytes():
            kept = mine.read_bytes()
            mine.write_bytes(theirs.read_bytes())

            assert problems(copies[0]), mine
            mine.write_bytes(kept)


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("data/modality=text/part-000000.parquet", "data/modality=text/copy.parquet"),
        ("data/modality=text/part-000000.parquet", "data/modality=text/part-000999.parquet"),
        ("data/modality=text/part-000000.parquet", "data/modality=image/part-000000.parquet"),
        ("failures", "failures/part-000000-0123456789abcdef.parquet"),
        ("failures", "failures/mine.parquet"),
        ("manifest.json", "manifest-retry-0001.json"),
    ],
)
def test_a_duplicated_file_is_found(copies: list[Path], source: str, place: str) -> None:
    """Readers of data and failures glob: a second copy under another name would be read twice."""
    folder = copies[0]
    original = folder / source
    if original.is_dir():
        original = next(original.iterdir())
    (folder / place).parent.mkdir(exist_ok=True)
    shutil.copy(original, folder / place)

    assert any(place in problem for problem in problems(folder))


def test_failures_of_an_attempt_at_work_are_no_problem(copies: list[Path]) -> None:
    """An attempt writes its failures before its vectors, and may die between."""
    shutil.rmtree(copies[0] / "data")
    (copies[0] / "manifest.json").unlink()

    assert list(each_file(copies[0] / "failures")) != []
    assert verify_store(LocalStore(copies[0]))[1].word == "unfinished"


def test_without_a_record_there_is_one_line(copies: list[Path], tmp_path: Path) -> None:
    """A folder that holds no job is refused; one whose job.json was lost or changed is wrong."""
    with pytest.raises(Refused, match="holds no job"):
        verify_store(LocalStore(tmp_path / "nothing"))

    (copies[0] / "job.json").unlink()
    (copies[1] / "job.json").write_bytes((copies[1] / "job.json").read_bytes().replace(b'"dim": 16', b'"dim": 17'))

    assert problems(copies[0]) == ["there is no job.json, and there is manifest.json; restore it"]
    assert problems(copies[1]) == ["job.json is not what embedmill wrote: its sha256 is another; restore it"]


def test_a_kept_nan_is_equal_to_itself(tmp_path: Path) -> None:
    """NaN in a kept column is a value like any other: no false alarm."""
    (tmp_path / "rows.csv").write_text("id,text,weight\na,one,nan\nb,two,1.5\nc,three,\n")
    job = prepare_job(
        JobRequest(
            manifest=str(tmp_path / "rows.csv"), model="hash", out=str(tmp_path / "out"), keep=("weight:float64",)
        )
    )
    InlineMill(job).run()

    assert verify_store(job.store)[1].complete


def test_a_job_without_any_vector_is_complete(tmp_path: Path) -> None:
    """Every row failed: no statistics to speak of, and nothing wrong."""
    job = image_job(tmp_path)
    InlineMill(job).run()
    _, verdict = verify_store(job.store)

    assert verdict.complete
    assert (verdict.rows, verdict.vectors, verdict.failures_by_code) == (12, 0, {"not_found": 12})


def test_the_command_says_one_line_and_exits_1(copies: list[Path]) -> None:
    """A flipped bit in job.json ends in no traceback."""
    record = copies[0] / "job.json"
    record.write_bytes(record.read_bytes().replace(b'"hash"', b'"hasi"', 1))
    done = embedmill("verify", copies[0])

    assert (done.returncode, done.stderr) == (1, "")
    assert "1 problem" in done.stdout
    assert "job.json is not what embedmill wrote" in done.stdout


def test_unsettled_failures_are_those_that_no_retry_did_again() -> None:
    """Against a plain dict, over ten random rounds."""
    rng = random.Random(5)
    unsettled, plain = Unsettled(), {f"r{n}": rng.choice(("not_found", "decode_failed")) for n in range(200)}
    unsettled.begin_round()
    unsettled.add(list(plain), list(plain.values()))
    for _ in range(10):
        unsettled.begin_round()
        again = rng.sample(sorted(plain), len(plain) // 3)
        assert unsettled.settle(again) == 0
        assert unsettled.settle(again[:2]) == len(again[:2]), "what was done again is no open failure any more"
        failed = {item: "decode_timeout" for item in again if rng.random() < 0.5}
        plain = {item: code for item, code in plain.items() if item not in again} | failed
        unsettled.add(list(failed), list(failed.values()))

        assert unsettled.by_code() == {code: list(plain.values()).count(code) for code in set(plain.values())}
    assert unsettled.settle(["never seen"]) == 1
