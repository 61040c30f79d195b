"""Joins and dedups that workers compute, panel by panel: killed, and the same as on one machine."""

import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.floor import main_of, worker
from tests.mill import children, embedmill, kill, started
from tests.servers import redis_server, wait_for

JOIN_QUEUE = "join.cpu"


def dataset(path: Path, rows: np.ndarray, prefix: str) -> Path:
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    table = pa.table({"id": [f"{prefix}{n}" for n in range(len(rows))], "embedding": column})
    pq.write_table(table, path, row_group_size=1000)
    return path


def table_of(out: Path) -> pa.Table:
    """All pairs, in the order of the panels."""
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("data/part-*.parquet")))


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Two sets that have something to do with each other. Seed 21."""
    rng = np.random.default_rng(21)
    right = rng.normal(size=(5000, 64)).astype(np.float32)
    left = (right[:4500] + rng.normal(size=(4500, 64))).astype(np.float32)
    return dataset(tmp_path / "left.parquet", left, "q"), dataset(tmp_path / "right.parquet", right, "d")


def test_workers_killed_and_a_command_killed_change_no_pair(tmp_path: Path, sides: tuple[Path, Path]) -> None:
    """kill -9 of a worker's process, its whole worker and the command: called again, every pair as on one machine."""
    words = ["join", *map(str, sides), "-k", "5", "--score", "csls", "--mutual", "--quiet"]
    spread, alone = tmp_path / "spread", tmp_path / "alone"
    with redis_server() as broker, worker(broker.url, tmp_path, queue=JOIN_QUEUE) as first:
        env = {"EMBEDMILL_BROKER_URL": broker.url}
        with started(*words, "--distributed", "-o", spread, env=env, log=tmp_path / "log") as command:
            wait_for(lambda: any(spread.glob("stage/near-left-*")), timeout_s=90, what="the first panel")
            kill(children(main_of(first.pid))[0], signal.SIGKILL)
            wait_for(lambda: any(spread.glob("stage/worst-right-*")), timeout_s=90, what="the second round")
            kill(main_of(first.pid), signal.SIGKILL)
            kill(command.pid, signal.SIGKILL)
        kept = {path.name: path.read_bytes() for path in spread.glob("stage/*.parquet")}
        again = embedmill(*words, "--distributed", "-o", spread, env=env)
    once = embedmill(*words, "-o", alone)

    assert (again.returncode, once.returncode) == (0, 0), again.stderr + once.stderr
    assert kept and all((spread / "stage" / name).read_bytes() == data for name, data in kept.items())
    assert len(list(spread.glob("data/*.parquet"))) > len(list(alone.glob("data/*.parquet")))
    assert table_of(spread).equals(table_of(alone))
    assert table_of(alone).num_rows > 1000
    verified = embedmill("verify", spread)
    assert verified.returncode == 0, verified.stdout


def test_a_dedup_finds_the_same_on_workers(tmp_path: Path) -> None:
    """300 exact and 100 near copies among 2,400 rows: the files that users read are equal, byte for byte. Seed 22."""
    rng = np.random.default_rng(22)
    originals = rng.normal(size=(2000, 64)).astype(np.float32)
    near = (originals[300:400] + 0.2 * rng.normal(size=(100, 64))).astype(np.float32)
    rows = np.concatenate([originals, originals[:300], near])
    data = dataset(tmp_path / "rows.parquet", rows[rng.permutation(len(rows))], "r")
    spread, alone = tmp_path / "spread", tmp_path / "alone"
    with redis_server() as broker, worker(broker.url, tmp_path, queue=JOIN_QUEUE):
        env = {"EMBEDMILL_BROKER_URL": broker.url}
        done = embedmill("dedup", data, "-o", spread, "--distributed", env=env)
    once = embedmill("dedup", data, "-o", alone)

    assert (done.returncode, once.returncode) == (0, 0), done.stderr
    assert "2,400 rows, 2,000 kept; left out 300 exact and 100 near copies" in done.stdout
    for name in ("clusters.parquet", "keep.parquet"):
        assert pq.read_table(spread / name).equals(pq.read_table(alone / name))
    assert embedmill("verify", spread).returncode == 0


def test_too_many_pairs_stop_all_workers_at_once(tmp_path: Path, sides: tuple[Path, Path]) -> None:
    """A limit that one panel passes is said in one line, and not tried again; with a higher one it goes on."""
    words = ["join", *map(str, sides), "-k", "3", "--quiet", "--distributed", "-o", tmp_path / "out"]
    with redis_server() as broker, worker(broker.url, tmp_path, queue=JOIN_QUEUE):
        env = {"EMBEDMILL_BROKER_URL": broker.url}
        stopped = embedmill(*words, "--max-pairs", "100", env=env)
        more = embedmill(*words, env=env)

    assert stopped.returncode == 3
    assert "more than 100 pairs; allow more with --max-pairs" in stopped.stderr
    assert len(stopped.stderr.splitlines()) == 1
    assert more.returncode == 0, more.stderr
    assert "13,500 pairs" in more.stdout


def test_workers_read_below_their_roots_only(tmp_path: Path, sides: tuple[Path, Path]) -> None:
    """Vectors that lie elsewhere are refused by every worker, and the command says why."""
    (tmp_path / "out").mkdir()
    words = ["join", *map(str, sides), "--quiet", "--distributed", "-o", tmp_path / "out"]
    with redis_server() as broker, worker(broker.url, tmp_path / "out", queue=JOIN_QUEUE):
        refused = embedmill(*words, env={"EMBEDMILL_BROKER_URL": broker.url})

    assert refused.returncode == 3
    assert "lies outside the allowed roots" in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2


def test_it_needs_a_broker(tmp_path: Path, sides: tuple[Path, Path]) -> None:
    """Without the address of one it is refused before anything is read or written."""
    done = embedmill("join", *map(str, sides), "--distributed", "-o", tmp_path / "out")

    assert done.returncode == 2
    assert "--broker-url" in done.stderr
    assert not (tmp_path / "out").exists()
