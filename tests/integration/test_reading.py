"""docs/reading.md: each of its blocks, run as it stands, finds the same rows and the same numbers."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.mill import embedmill, texts, write_jsonl

_PAGE = Path(__file__).parents[2] / "docs" / "reading.md"
_BLOCKS = re.findall(r"^```python\n(.*?)^```", _PAGE.read_text(), re.DOTALL | re.MULTILINE)
_COMMANDS = re.findall(r"^(embedmill [^#\n]*)", _PAGE.read_text(), re.MULTILINE)
_ASK = "\nprint(repr((int(count), float(first))))\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job of texts at out/demo, and what the page's commands make of it."""
    folder = tmp_path_factory.mktemp("reading")
    manifest = write_jsonl(folder / "rows.jsonl", texts(300))
    made = embedmill("run", manifest, "--model", "hash", "--out", folder / "out/demo", "--shard-seconds", "0.1")
    assert made.returncode == 0, made.stderr
    for command in _COMMANDS:
        done = embedmill(*command.split()[1:], cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("block", _BLOCKS, ids=[re.sub(r"\W+", "-", block.splitlines()[0]) for block in _BLOCKS])
def test_a_block_of_the_page_finds_all_rows_and_the_same_numbers(folder: Path, block: str) -> None:
    """As many rows as were planned, and the sum of first components that NumPy finds in the files."""
    needed = re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}

    done = subprocess.run(
        [sys.executable, "-c", block + _ASK], cwd=folder, env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    count, first = eval(done.stdout.splitlines()[-1])
    column = pq.read_table(folder / "out/demo/data")["embedding"].combine_chunks()
    expected = np.asarray(column.flatten()).reshape(len(column), -1)[:, 0]
    assert count == 300
    assert first == pytest.approx(float(expected.astype(np.float64).sum()), abs=1e-3)


def test_all_but_spark_is_there_to_be_run() -> None:
    """Where the tests run, a block is skipped for want of Java's Spark, and for nothing else."""
    needed = {name for block in _BLOCKS for name in re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)}

    missing = {name for name in needed if importlib.util.find_spec(name) is None}

    assert missing <= {"pyspark"}
    assert len(_BLOCKS) >= 13
