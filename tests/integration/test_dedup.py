"""`embedmill dedup` as its users run it: killed in its middle."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage import layout
from tests.joins import vectors_file
from tests.mill import embedmill, started
from tests.servers import wait_for


def test_a_dedup_that_is_killed_goes_on(tmp_path: Path) -> None:
    """kill -9 when some panels are compared: called again it keeps them, and ends as one that was left alone."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(5000, 256)).astype(np.float32)
    vectors[4000:] = vectors[:1000]
    vectors[4500:] += 0.1 * rng.normal(size=(500, 256)).astype(np.float32)
    file = vectors_file(tmp_path / "rows.parquet", vectors, [f"r{n}" for n in range(5000)])
    # So little memory that a panel is a few hundred rows.
    words = ("dedup", file, "--memory", "106MB", "--threads", "1", "--json")
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    with started(*words, "--out", killed) as process:
        wait_for(lambda: len(panels(killed)) >= 1, timeout_s=60, what="the first panel")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    left = {file: file.read_bytes() for file in (killed / layout.STAGE).iterdir()}
    standing = embedmill("status", killed)
    again, once = (embedmill(*words, "--out", out) for out in (killed, whole))

    assert (standing.returncode, "unfinished" in standing.stdout) == (3, True)
    assert (again.returncode, once.returncode) == (0, 0), again.stderr
    assert 1 <= sum(1 for file in left if file.name.startswith(layout.NEAR)) < len(panels(whole))
    assert all(file.read_bytes() == data for file, data in left.items())
    told = [json.loads(done.stdout) for done in (again, once)]
    for name in ("rows", "kept", "exact", "near", "clusters", "pairs"):
        assert told[0][name] == told[1][name]
    assert (told[0]["kept"], told[0]["exact"], told[0]["near"]) == (4000, 500, 500)
    for name in (layout.CLUSTERS, layout.KEEP):
        assert tables(killed, name).equals(tables(whole, name))
    assert embedmill("verify", killed).returncode == 0


def panels(out: Path) -> list[Path]:
    """The panels that are compared."""
    return sorted((out / layout.STAGE).glob(f"{layout.NEAR}-*.parquet"))


def tables(out: Path, name: str) -> pa.Table:
    return pq.read_table(out / name).replace_schema_metadata()
