"""What a reader sees of jobs: all rows once, as Arrow and NumPy."""

from pathlib import Path

import numpy as np
import pytest

from schemas.errors import Refused, SpecMismatch
from storage import open_job
from storage.shards import published_shards, read_shard
from tests.inline import InlineMill
from tests.proved_jobs import finished_jobs, image_job, picture, retried, text_job


def test_all_jobs_are_read_as_their_files_hold_them(tmp_path: Path) -> None:
    """Ids and vectors of every vector column, in the files' order, and as many rows as they have."""
    for job in finished_jobs(tmp_path):
        parts = [read_shard(job.store, key) for _, key, _ in sorted(published_shards(job.store))]
        columns = parts[0][2].keys()

        reader = open_job(job.store.url)

        assert len(reader) == sum(len(ids) for _, ids, _, _ in parts)
        for column in columns if len(reader.modalities) == 1 else ():
            ids, vectors = reader.vectors(column=column)
            assert ids.to_pylist() == [id_ for _, ids, _, _ in parts for id_ in ids]
            assert np.array_equal(vectors, np.concatenate([found[column] for _, _, found, _ in parts]))


def test_a_table_has_the_modality_and_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    """Of all of them, or of some, in the order that was asked for."""
    job = text_job(tmp_path)
    InlineMill(job).run()
    reader = open_job(job.store.url)

    whole, some = reader.table(), reader.table("text", ["modality", "id", "label"])

    assert {"id", "embedding", "label", "weight", "seen", "modality"} <= set(whole.column_names)
    assert set(whole["modality"].to_pylist()) == {"text"}
    assert set(some.column_names) == {"id", "label", "modality"}
    assert some["id"].to_pylist() == whole["id"].to_pylist()
    assert len(list(reader.tables())) == whole["id"].num_chunks > 1


def test_failures_are_those_that_no_retry_mended(tmp_path: Path) -> None:
    """Six images were gone, a retry found five: one failure is left, said once."""
    job = image_job(tmp_path)
    InlineMill(job, {f"i{n:03d}": picture(n) for n in range(6)}).run()
    before = open_job(job.store.url).failures()

    retried(job)
    reader = open_job(job.store.url)

    assert before["id"].to_pylist() == [f"i{n:03d}" for n in range(6, 12)]
    assert reader.failures()["id"].to_pylist() == ["i011"]
    assert len(reader) == 11


def test_a_job_without_failures_has_none(tmp_path: Path) -> None:
    """A table with the columns, and no row."""
    job = image_job(tmp_path)
    InlineMill(job, {f"i{n:03d}": picture(n) for n in range(12)}).run()

    assert len(open_job(job.store.url).failures()) == 0


def test_what_there_is_not_is_refused_with_what_there_is(tmp_path: Path) -> None:
    """A modality, a column, a column without vectors, a folder without a job."""
    job = text_job(tmp_path)
    InlineMill(job).run()
    reader = open_job(job.store.url)

    with pytest.raises(Refused, match="no rows of modality 'image'; there is: text"):
        reader.table("image")
    with pytest.raises(Refused, match="no column 'nowhere'; there are: id, embedding"):
        reader.table(columns=["nowhere"])
    with pytest.raises(Refused, match=r"label of .* holds no vectors but string"):
        reader.vectors(column="label")
    with pytest.raises(SpecMismatch, match="holds no job"):
        open_job(str(tmp_path))
