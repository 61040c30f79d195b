"""Kills at any moment: workers, Redis with its data, the coordinator. Nothing is lost, doubled or torn."""

import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq

from storage.jobs import open_job
from storage.store import LocalStore
from tests.mill import embedmill, kill, server_pids, started, texts, worker_pids, write_jsonl
from tests.servers import wait_for
from workers.hash_encoder import expected_vector

ROWS = 6000
WORKER_KILLS = 20
REDIS_KILLS = 3


class Reader(threading.Thread):
    """Reads the published files all the time: whole, never changing, never vanishing, no id twice."""

    def __init__(self, data: Path) -> None:
        super().__init__(daemon=True)
        self._data, self._ended = data, threading.Event()
        self.problems: list[str] = []
        self.looks = 0

    def run(self) -> None:
        seen: dict[Path, list[str]] = {}
        while not self._ended.is_set():
            found = sorted(self._data.rglob("*"))
            for path in found:
                if path.is_file() and path not in seen:
                    seen[path] = self._read(path)
            self.problems += [f"{path} vanished" for path in seen if path not in found]
            self.looks += 1
            time.sleep(0.05)  # a poll, not a wait: twenty looks a second
        ids = [item for path in seen for item in seen[path]]
        if len(ids) != len(set(ids)):
            self.problems.append("an id was published twice")
        self.problems += [f"{path} changed" for path, before in seen.items() if self._read(path) != before]

    def _read(self, path: Path) -> list[str]:
        try:
            ids: list[str] = pq.read_table(path)["id"].to_pylist()
        except Exception as err:  # the reader reports whatever a reader would meet
            self.problems.append(f"{path}: {err}")
            return []
        return ids

    def stop(self) -> None:
        self._ended.set()
        self.join(60)


def test_kills_at_any_moment_lose_and_double_nothing(tmp_path: Path) -> None:
    """20 workers and 3 Redis servers (data deleted) killed, the coordinator once: each row has exactly one outcome."""
    seed = int(os.environ.get("EMBEDMILL_TEST_SEED", random.randrange(10**6)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(ROWS))
    out = tmp_path / "out"
    words = ("run", manifest, "--model", "hash", "--out", out, "--shard-seconds", "0.02", "--workers", "2")
    env = {"EMBEDMILL_HASH_DELAY_MS": "8", "EMBEDMILL_LEASE_S": "2"}
    embedmill("plan", *words[1:-2])
    reader = Reader(out / "data")
    reader.start()
    schedule = ["worker"] * WORKER_KILLS + ["redis"] * REDIS_KILLS
    rng.shuffle(schedule)
    schedule.insert(len(schedule) // 2, "coordinator")

    done = _run_under(schedule, words, env, tmp_path, rng)
    reader.stop()

    verdict = json.loads(embedmill("verify", out, "--json").stdout)
    assert done == 0
    assert reader.problems == []
    assert reader.looks > 20
    assert verdict["complete"], verdict
    assert (verdict["rows"], verdict["vectors"], verdict["failures"]) == (ROWS, ROWS, 0)
    _check_every_vector(out)


def _run_under(
    schedule: list[str], words: tuple[object, ...], env: dict[str, str], folder: Path, rng: random.Random
) -> int:
    """Run the job while `schedule` kills; returns the exit code of the call that ended it."""
    left = list(schedule)
    for call in range(3):
        with started(*words, env=env, log=folder / f"log-{call}") as process:
            while left and process.poll() is None:
                _pause_for_progress(process.pid, rng)
                victim = left.pop(0)
                if victim == "coordinator":
                    process.send_signal(signal.SIGKILL)
                    process.wait(30)
                elif victim == "redis":
                    kill_redis(process.pid)
                else:
                    pids = worker_pids(process.pid)
                    if pids:
                        kill(rng.choice(pids))
            code = process.wait(400)
            if code != -signal.SIGKILL:
                assert not left, f"the job ended before {left} were killed: make it longer"
                return code
    raise AssertionError("the job did not end")


def _pause_for_progress(run: int, rng: random.Random) -> None:
    """Let the mill get going, then strike at a random moment."""
    wait_for(lambda: bool(worker_pids(run)), timeout_s=60, what="a worker")
    time.sleep(rng.uniform(0.2, 1.5))  # the random moment itself


def kill_redis(run: int) -> None:
    """SIGKILL the run's server, and delete what it had written."""
    for pid in server_pids(run):
        config = Path(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1].decode())
        kill(pid)
        shutil.rmtree(config.parent / "data", ignore_errors=True)


def _check_every_vector(out: Path) -> None:
    digest = open_job(LocalStore(out)).record.spec.model_digest
    wanted = {row["id"]: row["text"] for row in texts(ROWS)}
    for path in (out / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        for item, vector in zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True):
            assert vector == expected_vector(wanted[item].encode(), digest, len(vector)).tolist()
