"""Kills 20 workers, 3 Redis servers (with their data) and the coordinator while 5,000 texts are embedded with minilm.

    python -m bench.chaos_minilm [--seed N]

Prints one JSON line: kills, calls, what the reader saw, and the verdict of `embedmill verify`.
"""

import argparse
import json
import random
import signal
import tempfile
import time
from pathlib import Path

from tests.integration.test_chaos import Reader, kill_redis
from tests.mill import embedmill, kill, started, texts, worker_pids, write_jsonl
from tests.servers import wait_for

ROWS, WORKER_KILLS, REDIS_KILLS = 5000, 20, 3
#: Seconds between two kills: a worker takes about seven to import torch and load the model.
PAUSE_S = (2.0, 8.0)


def main(seed: int) -> None:
    """One run, from a fresh folder to the verdict."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        manifest = write_jsonl(Path(folder) / "rows.jsonl", texts(ROWS, seed=3, longest=200))
        schedule = ["worker"] * WORKER_KILLS + ["redis"] * REDIS_KILLS
        rng.shuffle(schedule)
        schedule.insert(len(schedule) // 2, "coordinator")
        reader = Reader(out / "data")
        reader.start()
        begun = time.monotonic()
        words = ("run", manifest, "--model", "minilm", "--out", out, "--shard-seconds", "4", "--workers", "2")
        calls, code = run_under(schedule, words, Path(folder), rng)
        reader.stop()
        verdict = json.loads(embedmill("verify", out, "--json").stdout)
        told: dict[str, object] = {
            "seed": seed,
            "calls": calls,
            "exit": code,
            "killed": WORKER_KILLS + REDIS_KILLS + 1 - len(schedule),
        }
        told |= {"seconds": round(time.monotonic() - begun), "looks": reader.looks, "problems": reader.problems}
        print(json.dumps(told | {"verdict": verdict}))


def run_under(schedule: list[str], words: tuple[object, ...], folder: Path, rng: random.Random) -> tuple[int, int]:
    """Run the job while `schedule` is carried out; returns the calls it took and the last one's exit code."""
    for call in range(1, 4):
        with started(*words, env={"EMBEDMILL_LEASE_S": "5"}, log=folder / f"log-{call}") as process:
            while schedule and process.poll() is None:
                wait_for(lambda run=process: bool(worker_pids(run.pid)), timeout_s=60, what="a worker")
                time.sleep(rng.uniform(*PAUSE_S))
                victim = schedule.pop(0)
                if victim == "coordinator":
                    process.send_signal(signal.SIGKILL)
                    break
                if victim == "redis":
                    kill_redis(process.pid)
                else:
                    pids = worker_pids(process.pid)
                    if pids:
                        kill(rng.choice(pids))
            code = process.wait(1200)
            if code != -signal.SIGKILL:
                return call, code
    return call, code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    main(parser.parse_args().seed)
