"""What other tools are given of a job: tables over its files, larger files, indexes."""

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder
from pyiceberg.table import StaticTable
from usearch.index import Index

from producer.verify import verify_job
from schemas.errors import Conflict, Refused
from similarity.index_file import faiss_index, usearch_index
from similarity.vectors import open_vectors
from storage import open_job
from storage.compacted import RECORD, compact
from storage.delta_table import register_delta
from storage.iceberg_table import register_iceberg
from storage.jobs import Job
from storage.store import LocalStore, memory_store
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from tests.proved_jobs import image_job, picture, retried, text_job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A finished job of texts in some shards."""
    job = text_job(tmp_path / "job")
    InlineMill(job).run()
    return job


def sorted_rows(table: pa.Table) -> list[tuple[str, list[float]]]:
    return sorted(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True))


def delta_rows(location: str) -> pa.Table:
    """What deltalake's own engine reads; through pyarrow it may abort a process that ends soon after."""
    rows = QueryBuilder().register("rows", DeltaTable(location))
    return pa.table(rows.execute("SELECT id, embedding, modality FROM rows").read_all())


def test_a_delta_table_has_the_rows_of_the_files(job: Job) -> None:
    """Ids, vectors and modality; the second time nothing is new, and the job is proved as before."""
    first, second = register_delta(job), register_delta(job)

    table = delta_rows(first.location)
    assert sorted_rows(table) == sorted_rows(open_job(job.store.url).table())
    assert set(table["modality"].to_pylist()) == {"text"}
    assert (first.added, second.added) == (first.files, 0)
    assert verify_job(job).complete


@pytest.mark.parametrize("name", ["my job's", "é ü", "q#1", "c+d&e"])
def test_a_table_in_a_folder_of_any_name_is_told_of_each_file_once(tmp_path: Path, name: str) -> None:
    """Blanks and the like are escaped in Delta's addresses: the second time nothing is new all the same."""
    job = text_job(tmp_path / name)
    InlineMill(job).run()

    first, second = register_delta(job), register_delta(job)

    assert (first.added, second.added) == (first.files, 0)
    assert sorted_rows(delta_rows(first.location)) == sorted_rows(open_job(job.store.url).table())


@pytest.mark.parametrize("name", ["a%20b", "a\x1b[31mred"])
def test_a_folder_that_delta_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    """In our words, before anything is written."""
    job = text_job(tmp_path / name)
    InlineMill(job).run()

    with pytest.raises(Refused, match="Delta's addresses cannot hold"):
        register_delta(job)


def test_iceberg_tables_have_the_rows_of_the_files(job: Job) -> None:
    """One a modality, found by its hint; the second time nothing is new, and the job is proved as before."""
    [first], [second] = register_iceberg(job), register_iceberg(job)

    table = StaticTable.from_metadata(f"file://{first.location}").scan().to_arrow()
    assert sorted_rows(table) == sorted_rows(open_job(job.store.url).table())
    assert (first.added, second.added, second.location) == (first.files, 0, first.location)
    assert (Path(first.location).parent / "version-hint.text").read_text() in first.location
    assert verify_job(job).complete


def test_a_table_gets_what_a_retry_added(tmp_path: Path) -> None:
    """Six of twelve images were gone, five were found again."""
    job = image_job(tmp_path)
    InlineMill(job, {f"i{n:03d}": picture(n) for n in range(6)}).run()
    register_delta(job)
    register_iceberg(job)

    retried(job)
    delta, [iceberg] = register_delta(job), register_iceberg(job)

    assert delta_rows(delta.location).num_rows == 11
    assert StaticTable.from_metadata(f"file://{iceberg.location}").scan().to_arrow().num_rows == 11
    assert delta.added == iceberg.added > 0


def test_a_job_that_has_not_ended_or_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    """A table of it would change; and an object store's addresses are not a folder's."""
    with pytest.raises(Refused, match="has not ended"):
        register_delta(text_job(tmp_path))
    with pytest.raises(Refused, match="has not ended"):
        compact(text_job(tmp_path / "other"), memory_store(), 1000)
    with pytest.raises(Refused, match="for jobs in a folder of this machine"):
        register_iceberg(planned_job(memory_store(), [text_rows(3)]))


@pytest.mark.parametrize("size", [1, 20_000, 2**30])
def test_compacted_files_hold_each_row_once_in_the_jobs_order(job: Job, tmp_path: Path, size: int) -> None:
    """One file for each shard, some, one for all; and killed in the middle it goes on."""
    out = LocalStore(tmp_path / "larger")
    first = compact(job, out, size)
    for path in list((tmp_path / "larger").rglob("*.parquet"))[1::2]:
        path.unlink()

    again = compact(job, out, size)

    files = sorted((tmp_path / "larger" / "data").rglob("*.parquet"))
    table = pa.concat_tables([pq.read_table(path, partitioning=None) for path in files])
    reader = open_job(job.store.url)
    assert first == again
    assert len(files) == first.files
    assert table["id"].to_pylist() == reader.table()["id"].to_pylist()
    assert table["embedding"].to_pylist() == reader.table()["embedding"].to_pylist()
    assert out.size(RECORD)


def test_compacted_files_keep_their_space(job: Job, tmp_path: Path) -> None:
    """A join reads of them what it would read of the job."""
    compact(job, LocalStore(tmp_path / "larger"), 2**30)

    source = open_vectors(str(tmp_path / "larger"))

    assert (source.space, source.modality, source.model) == (job.record.space.digest, "text", "hash")


def test_files_of_another_size_are_not_mixed(job: Job, tmp_path: Path) -> None:
    """What is there stays, and the message says so."""
    compact(job, LocalStore(tmp_path / "larger"), 1)

    with pytest.raises(Conflict, match=r"is not of job .* in files of this size; use another --out"):
        compact(job, LocalStore(tmp_path / "larger"), 2**30)


def test_an_index_finds_a_row_by_its_own_vector(job: Job, tmp_path: Path) -> None:
    """In both kinds; the number leads to the id."""
    source = open_vectors(job.store.url)
    one, other = faiss_index([source], tmp_path / "i.faiss", "Flat"), usearch_index([source], tmp_path / "i.usearch")
    ids = pq.read_table(one.ids)["id"].to_pylist()
    vectors = source.vectors(0, source.rows)

    scores, numbers = faiss.read_index(str(one.path)).search(vectors, 1)
    index = Index.restore(str(other.path))
    assert index is not None
    keys = index.search(vectors, 1).keys

    assert ids == open_job(job.store.url).table()["id"].to_pylist()
    assert pq.read_table(other.ids)["id"].to_pylist() == ids
    assert np.array_equal(numbers[:, 0], np.arange(source.rows))
    assert np.allclose(scores, 1, atol=1e-5)
    assert np.array_equal(np.asarray(keys).reshape(-1), np.arange(source.rows))


def test_an_index_that_cannot_be_is_refused_in_its_makers_words(job: Job, tmp_path: Path) -> None:
    """A kind that does not fit, one that cannot be trained, a name that is taken."""
    source = open_vectors(job.store.url)
    faiss_index([source], tmp_path / "taken", "Flat")

    with pytest.raises(Refused, match="--factory PQ5 for vectors of 16: FAISS says"):
        faiss_index([source], tmp_path / "i", "PQ5")
    with pytest.raises(Refused, match="cannot be trained with 46 vectors"):
        faiss_index([source], tmp_path / "i", "IVF1024,Flat")
    with pytest.raises(Refused, match="taken exists"):
        faiss_index([source], tmp_path / "taken", "Flat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job", "taken", "taken.ids.parquet"]


def test_a_package_that_is_missing_is_named(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the words that install it."""
    for name in ("deltalake", "pyiceberg.catalog.sql", "faiss"):
        monkeypatch.setitem(__import__("sys").modules, name, None)

    with pytest.raises(Refused, match=r"pip install 'embedmill\[delta\]'"):
        register_delta(job)
    with pytest.raises(Refused, match=r"pip install 'embedmill\[iceberg\]'"):
        register_iceberg(job)
    with pytest.raises(Refused, match=r"pip install 'embedmill\[faiss\]'"):
        faiss_index([open_vectors(job.store.url)], tmp_path / "i", "Flat")
