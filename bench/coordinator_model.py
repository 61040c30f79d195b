"""The coordinator's state machine, driven at random: `python -m bench.coordinator_model --runs 20000 --seed 1`.

A run that breaks a promise prints its seed and its steps; `--runs 1 --seed SEED` runs it again.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import time

from tests.coordinator_machine import Run, draw_blueprint, quiet, run
from tests.virtual_worker import real_attempt, twin_attempt


def _runs(part: tuple[int, int, int, bool]) -> tuple[Run | None, float, int]:
    """The first of `count` runs that broke a promise, if any; the longest settling, the most sends."""
    first, count, steps, real = part
    quiet()
    blueprint, seconds, sends = draw_blueprint(), 0.0, 0
    for seed in range(first, first + count):
        done = run(blueprint, seed, steps, attempt=real_attempt if real else twin_attempt)
        if done.settled is None:
            return done, seconds, sends
        seconds, sends = max(seconds, done.settled.seconds), max(sends, done.settled.sends)
    return None, seconds, sends


def main() -> None:
    """Run, and print one line of JSON; exit 1 with seed and steps where a promise was broken."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=20_000, help="runs in all")
    arguments.add_argument("--steps", type=int, default=40, help="actions a run, before all faults end")
    arguments.add_argument("--seed", type=int, default=None, help="of the first run; the next has the next number")
    arguments.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes that share the runs")
    arguments.add_argument("--real", action="store_true", help="the real embed_shard and Parquet: 50 times slower")
    given = arguments.parse_args()
    seed = random.randrange(10**9) if given.seed is None else given.seed
    share = -(-given.runs // given.processes)
    end = seed + given.runs
    parts = [(first, min(share, end - first), given.steps, given.real) for first in range(seed, end, share)]
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(len(parts)) as pool:
        results = pool.map(_runs, parts)
    wall = time.perf_counter() - began
    broken = [found for found, _, _ in results if found]
    result = {
        "runs": given.runs,
        "seed": seed,
        "broken": len(broken),
        "seconds": round(wall, 1),
        "runs_per_s": round(given.runs / wall),
        "longest_settling_s": max(seconds for _, seconds, _ in results),
        "most_sends": max(sends for _, _, sends in results),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    for found in broken:
        sys.stdout.write(f"seed {found.seed}: {found.broken}\n  " + "\n  ".join(found.steps) + "\n")
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()
