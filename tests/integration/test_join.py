"""`embedmill join` as its users run it: over jobs, killed, and refused."""

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.mill import ENTRY, embedmill, texts, write_jsonl


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jobs of the model `hash`: queries and documents, and the same documents otherwise."""
    folder = tmp_path_factory.mktemp("join")
    manifest = str(write_jsonl(folder / "rows.jsonl", texts(60)))
    wanted = {
        "documents": (),
        "int8": ("--output-dtype", "int8"),
        "binary": ("--output-dtype", "binary"),
        "shorter": ("--truncate-dim", "8"),
        "prompted": ("--prompt", "as a title: "),
    }
    for name, options in wanted.items():
        done = embedmill("run", manifest, "-m", "hash", "-o", str(folder / name), "--workers", "1", *options)
        assert done.returncode == 0, done.stderr
    return folder


def pairs_of(out: Path) -> list[tuple[str, str]]:
    table = pq.read_table(sorted(out.glob("data/part-*.parquet")))
    return list(zip(table["left_id"].to_pylist(), table["right_id"].to_pylist(), strict=True))


def test_each_row_finds_itself(jobs: Path, tmp_path: Path) -> None:
    """A job joined with itself; quantised vectors too, each job's in its own ranges."""
    for name in ("documents", "int8", "binary"):
        out = tmp_path / name
        done = embedmill("join", str(jobs / name), str(jobs / name), "-k", "1", "-o", str(out))

        assert done.returncode == 0, done.stderr
        assert "60 pairs of 60 x 60 rows" in done.stdout
        assert all(left == right for left, right in pairs_of(out))
        assert embedmill("verify", str(out)).returncode == 0


@pytest.mark.parametrize(("other", "named"), [("shorter", "dim"), ("prompted", "prompt"), ("int8", "outputs")])
def test_vectors_of_another_space_are_refused(jobs: Path, tmp_path: Path, other: str, named: str) -> None:
    """The field that differs is named, in one line, and nothing is written."""
    done = embedmill("join", str(jobs / "documents"), str(jobs / other), "-o", str(tmp_path / "out"))

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr
    assert not (tmp_path / "out" / "data").exists()


def test_force_is_recorded(jobs: Path, tmp_path: Path) -> None:
    """Who compares them all the same finds it in the output for ever."""
    out = tmp_path / "out"

    done = embedmill("join", str(jobs / "documents"), str(jobs / "prompted"), "--force", "-o", str(out))

    assert "FORCED: the spaces differ in prompt" in done.stderr
    assert json.loads((out / "join.json").read_bytes())["spec"]["forced"] == ["prompt"]
    footer = pq.read_metadata(next(out.glob("data/*.parquet"))).metadata[b"embedmill"]
    assert json.loads(footer)["forced"] == ["prompt"]


def test_a_job_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    """Its rows are not all there: an answer would change with each look."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(5))
    embedmill("plan", str(manifest), "-m", "hash", "-o", str(tmp_path / "job"))

    done = embedmill("join", str(tmp_path / "job"), str(tmp_path / "job"), "-o", str(tmp_path / "out"))

    assert done.returncode == 2
    assert "is not finished" in done.stderr


def test_a_join_that_is_killed_goes_on(tmp_path: Path) -> None:
    """kill -9 after its first panel: called again it keeps what is there, and ends as if nothing had been."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(6000, 256)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 256)
    table = pa.table({"id": [f"r{n}" for n in range(6000)], "embedding": column})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=1000)
    # So little memory that a panel is a few hundred rows.
    words = ["join", str(tmp_path / "rows.parquet"), str(tmp_path / "rows.parquet"), "-k", "3", "--no-self"]
    words += ["--memory", "98MB", "--threads", "1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    with subprocess.Popen([*ENTRY, *words, "-o", str(killed)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "panels" in process.stderr.readline()  # the first panel is published
        process.send_signal(signal.SIGKILL)
    left = {path.name: path.read_bytes() for path in killed.glob("data/*")}
    again = embedmill(*words, "-o", str(killed))
    once = embedmill(*words, "-o", str(whole))

    assert left and len(left) < len(list(whole.glob("data/*")))
    assert (again.returncode, once.returncode) == (0, 0), again.stderr
    assert all((killed / "data" / name).read_bytes() == data for name, data in left.items())
    assert pairs_of(killed) == pairs_of(whole)
    assert len(pairs_of(killed)) == 18_000
    assert embedmill("verify", str(killed)).returncode == 0
