"""Vector sources: what files say of their vectors, and what is refused because nobody says it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from producer.prepare import JobRequest, prepare_job
from producer.recipes import Wishes
from schemas.errors import Refused
from schemas.recipe import OutputType
from similarity.dedup_request import DedupRequest, dedup_here
from similarity.join_proof import prove_join
from similarity.join_request import JoinRequest, SideRequest
from similarity.joining import Joined, join_here
from similarity.vectors import open_vectors
from storage.store import open_store
from tests.inline import InlineMill
from tests.joins import random_file, vectors_file
from tests.media import sound
from tests.media_loader import media_loader
from tests.mill import texts, write_jsonl


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished jobs of the model `hash` over the same rows."""
    folder = tmp_path_factory.mktemp("jobs")
    manifest = str(write_jsonl(folder / "rows.jsonl", texts(12)))
    wishes = {
        "plain": Wishes(),
        "prompted": Wishes(prompt="as a title: "),
        "int8": Wishes(outputs=(OutputType.INT8,)),
    }
    for name, wish in wishes.items():
        job = prepare_job(JobRequest(manifest=manifest, model="hash", out=str(folder / name), wishes=wish))
        InlineMill(job).run()
    return folder


def joined(left: Path, right: Path, out: Path, keep: tuple[str, ...] = ()) -> Joined:
    sides = [SideRequest(location=str(side), keep=keep) for side in (left, right)]
    request = JoinRequest(left=sides[0], right=sides[1], memory=2**29)
    return join_here(request, str(out), max_pairs=10**6, progress=lambda *seen: None)


def test_shards_outside_of_their_job_are_known_by_their_footers(jobs: Path, tmp_path: Path) -> None:
    """Given as plain files they are still of their space: another one is refused, and int8 without its ranges."""
    joined(jobs / "plain" / "data", jobs / "plain", tmp_path / "same")

    with pytest.raises(Refused, match=r"different spaces .*prompt"):
        joined(jobs / "plain" / "data", jobs / "prompted" / "data", tmp_path / "out")
    with pytest.raises(Refused, match="shards of int8 vectors; give the folder of their job"):
        joined(jobs / "int8" / "data", jobs / "int8", tmp_path / "out")
    for name in ("plain", "prompted"):
        [shard] = (jobs / name / "data").rglob("*.parquet")
        (tmp_path / "mixed" / name).mkdir(parents=True)
        (tmp_path / "mixed" / name / "part.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(Refused, match="must not be compared"):
        joined(tmp_path / "mixed", jobs / "plain", tmp_path / "out")


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (["a", "b", "c", "b"], r"id b stands for more than one row \(1 and 3\)"),
        (["a", "b", None, "c"], "row 2 has no id"),
        ([None] * 4, "nothing but nulls"),
        ([1.0, 2.0, 3.0, 4.0], "of type double; ids are texts or integers"),
        ([b"a", b"b", b"c", b"d"], "of type binary"),
        ([{"a": 1}] * 4, "of type struct"),
    ],
)
def test_ids_that_name_no_row_are_refused(tmp_path: Path, ids: list[object], why: str) -> None:
    """In one line that says which row it is."""
    file = vectors_file(tmp_path / "rows.parquet", np.eye(4), ids)

    with pytest.raises(Refused, match=why):
        open_vectors(str(file))


def test_ids_are_looked_at_in_flat_memory(tmp_path: Path) -> None:
    """Six times the rows take up no more: what is remembered of an id lies on disk."""
    peaks = []
    for rows in (50_000, 300_000):
        column = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows, np.float32)), 1)
        table = pa.table({"id": np.arange(rows), "embedding": column})
        pq.write_table(table, tmp_path / "rows.parquet", row_group_size=25_000)
        whole = pa.default_memory_pool()
        counted = pa.proxy_memory_pool(whole)
        pa.set_memory_pool(counted)
        try:
            open_vectors(str(tmp_path / "rows.parquet"))
        finally:
            pa.set_memory_pool(whole)
        peaks.append(counted.max_memory())
    assert 0 < peaks[1] < 1.5 * peaks[0]


def test_files_that_are_no_one_data_set(tmp_path: Path) -> None:
    """No rows at all, vectors of two lengths, bytes of no meaning: refused; a kept column of two types too."""
    empty = vectors_file(tmp_path / "empty.parquet", np.zeros((0, 4)), pa.array([], pa.string()))
    levels = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8, dtype=np.uint8)), 4)
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": levels}), tmp_path / "bytes.parquet")
    for name, dim, title in (("one", 4, ["x"]), ("two", 4, [1])):
        (tmp_path / "titles").mkdir(exist_ok=True)
        vectors_file(tmp_path / "titles" / f"{name}.parquet", np.ones((1, dim)), [name], title=title)
    (tmp_path / "dims").mkdir()
    for n in (4, 5):
        vectors_file(tmp_path / "dims" / f"{n}.parquet", np.ones((1, n)), [f"{n}"])

    for place, keep, why in (
        (empty, (), "has no rows"),
        (tmp_path / "bytes.parquet", (), "nothing says what the uint8"),
        (tmp_path / "dims", (), "not of one type in all files"),
        (tmp_path / "titles", ("title",), "no column title of one plain type"),
    ):
        with pytest.raises(Refused, match=why):
            joined(place, place, tmp_path / "out", keep)
    joined(tmp_path / "titles", tmp_path / "titles", tmp_path / "out")
    with pytest.raises(Refused, match="modality image is for the folder of a job"):
        open_vectors(str(tmp_path / "titles"), modality="image")


def test_nothing_is_written_among_the_vectors(jobs: Path, tmp_path: Path) -> None:
    """A folder that is read again by the next call, or globbed by readers, is no place for an answer."""
    (tmp_path / "rows").mkdir()
    random_file(tmp_path / "rows" / "part.parquet", "r", 5, seed=1)

    for source, out in (
        (tmp_path / "rows", tmp_path / "rows" / "out"),
        (jobs / "plain", jobs / "plain" / "data" / "x"),
    ):
        with pytest.raises(Refused, match="of its own"):
            joined(source, source, out)
        request = DedupRequest(side=SideRequest(location=str(source)), threshold=0.9)
        with pytest.raises(Refused, match="of its own"):
            dedup_here(request, str(out), progress=lambda *seen: None)
        assert not out.exists()


def test_what_others_are_writing_is_passed_over(tmp_path: Path) -> None:
    """Files below a folder whose name begins with _ or . are none of the data set."""
    for place in ("part.parquet", "_temporary/0/part.parquet", ".hidden/part.parquet", "more/part.parquet"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        random_file(tmp_path / place, place.replace("/", "-"), 5, seed=1)

    source = open_vectors(str(tmp_path))

    assert {group.key for group in source.groups} == {"part.parquet", "more/part.parquet"}


def test_a_column_asked_for_twice_is_copied_once(tmp_path: Path) -> None:
    """And texts of a long row group are read in stretches like its vectors."""
    ids = [f"r{n}" for n in range(20_000)]
    file = vectors_file(tmp_path / "rows.parquet", np.random.default_rng(1).normal(size=(20_000, 2)), ids, title=ids)
    rows = np.array([0, 8191, 8192, 19_999])

    joined(file, file, tmp_path / "out", ("title", "title"))

    assert open_vectors(str(file)).columns(["id", "title"], rows)["title"].to_pylist() == [ids[n] for n in rows]
    names = pq.read_schema(tmp_path / "out" / "data" / "part-000000.parquet").names
    assert names == ["left_id", "right_id", "score", "rank", "left.title", "right.title"]


def test_segments_of_one_id_are_told_apart(tmp_path: Path) -> None:
    """Their pairs say where they begin, are ranked segment by segment, and are proved so."""
    (tmp_path / "media").mkdir()
    rng = np.random.default_rng(2)
    for n in range(2):
        noise = rng.normal(size=48_000).astype(np.float32) * 0.1
        (tmp_path / "media" / f"s{n}.wav").write_bytes(sound(noise, 16_000))
    manifest = write_jsonl(tmp_path / "media" / "rows.jsonl", [{"id": f"s{n}", "uri": f"s{n}.wav"} for n in range(2)])
    request = JobRequest(manifest=str(manifest), model="hash", out=str(tmp_path / "job"), wishes=Wishes(segment_s=1.0))
    job = prepare_job(request)
    with media_loader(tmp_path / "media", job.record.space.recipe) as loader:
        InlineMill(job, loader=loader).run()

    joined(tmp_path / "job", tmp_path / "job", tmp_path / "out")

    table = pq.read_table(tmp_path / "out" / "data" / "part-000000.parquet")
    first = table.filter(pc.equal(table["rank"], 1)).to_pylist()
    assert [(row["left_id"], row["left.start_s"]) for row in first] == [(f"s{n}", s) for n in (0, 1) for s in (0, 1, 2)]
    assert [(row["right_id"], row["right.start_s"]) for row in first] == [
        (r["left_id"], r["left.start_s"]) for r in first
    ]
    assert prove_join(open_store(str(tmp_path / "out"))).complete
