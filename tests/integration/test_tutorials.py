"""The tutorials: their blocks run as they stand, one page after the other, on a few rows of the demo."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from storage import open_job
from tests.doc_pages import DOCS, ROOT, script
from tests.servers import redis_server

RunPage = Callable[..., str]

_DEMO = ROOT / "examples" / "demo"
#: Pictures that stand for the demo's 298: what the pages ask for is among them.
_PICTURES = "owl-branch crow spider hen beagle bulldog-puppy fox giraffe bull tiger".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: examples/demo, with fewer pictures, and the program on the PATH."""
    folder = tmp_path_factory.mktemp("tutorials")
    demo = folder / "examples" / "demo"
    (demo / "images").mkdir(parents=True)
    rows = [json.loads(line) for line in (_DEMO / "manifest.jsonl").read_text("utf-8").splitlines()]
    kept = {f"img-{name}" for name in _PICTURES}
    rows = [row for row in rows if row["id"] in kept or row.get("describes") in kept]
    (demo / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for row in rows:
        if "uri" in row:
            shutil.copy(_DEMO / row["uri"], demo / row["uri"])
    programs = folder / "programs"
    programs.mkdir()
    for name, words in (("python", ""), ("embedmill", " -c 'from producer.cli import main; main()'")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (programs / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def run_page(folder: Path, model_cache: str) -> RunPage:
    """Runs a page's blocks in the folder; one worker, so that a model is loaded once a job."""
    environ = os.environ | {
        "PATH": f"{folder / 'programs'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EMBEDMILL_MODEL_CACHE": model_cache,
        "EMBEDMILL_WORKERS": "1",
        "EMBEDMILL_QUIET": "1",
        "EMBEDMILL_REPORT": "0",
    }

    def run(name: str, **more: str) -> str:
        blocks = script(DOCS / "tutorials" / f"{name}.md")
        command = ["bash", "-c", blocks]
        done = subprocess.run(command, cwd=folder, env=environ | more, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def photos(run_page: RunPage) -> str:
    """What the page of photos says; the page of captions goes on with its vectors."""
    return run_page("photos")


@pytest.mark.model
def test_photos_are_found_by_words_and_by_a_picture(photos: str) -> None:
    """No manifest: the owl is found by what it does, the dog by itself, and a copy costs nothing."""
    said = photos

    found = [line.split() for line in said.splitlines() if line[:1].isdigit()]
    assert [words[2] for words in found if words[0] == "1"] == ["owl-branch.png", "beagle.png"]
    assert "computed  0 rows; 0 equal to others, 1 from earlier jobs" in said
    assert said.rstrip().endswith(f"{len(_PICTURES)} ({len(_PICTURES)}, 384)")


@pytest.mark.model
def test_captions_get_pictures_and_a_reranker_scores_each_pair(folder: Path, photos: str, run_page: RunPage) -> None:
    """The pictures' vectors come from the job before; every caption has ten pairs, and each pair a score."""
    said = run_page("captions")

    assert f"{len(_PICTURES)} from earlier jobs" in said
    pairs = pyarrow.dataset.dataset(folder / "out/nearest/data").count_rows()
    scores = pyarrow.dataset.dataset(folder / "out/scores/data").to_table()
    assert pairs == len(scores) == len(_PICTURES) ** 2
    assert scores["score"].null_count == 0
    assert "judged queries" in said


@pytest.mark.model
def test_a_corpus_loses_its_copies_and_nothing_else(folder: Path, run_page: RunPage) -> None:
    """Rows that stay and rows that go are all rows; the clean corpus has those that stay."""
    said = run_page("dedup")

    rows = (folder / "corpus.jsonl").read_text("utf-8").splitlines()
    clean = (folder / "clean.jsonl").read_text("utf-8").splitlines()
    clusters = pq.read_table(folder / "out/copies/clusters.parquet")
    assert len(clean) == len(rows) - clusters["is_kept"].to_pylist().count(False) < len(rows)
    assert "begins" in said


def test_a_fleet_whose_spot_machine_is_killed_ends_with_every_row(folder: Path, run_page: RunPage) -> None:
    """As the page says: killed in the middle, another one takes over, and `verify` finds each row once."""
    with redis_server() as broker:
        said = run_page("fleet", EMBEDMILL_BROKER_URL=broker.url)

    assert "3,000 rows, 3,000 vectors, 0 failures" in said
    assert "each row has exactly one outcome" in said
    assert len(open_job(str(folder / "out/fleet")).vectors("text")[0]) == 3000
