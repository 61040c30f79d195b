"""Runs of the coordinator's state machine under a seeded random driver: `python -m bench.coordinator_model --runs 20000`.

A run that breaks a promise prints its seed and its steps; `--runs 1 --seed SEED` runs it again.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from producer.coordinator import Coordinator
from tests.coordinator_machine import ACTIONS, Blueprint, Broken, Settled, World, draw_blueprint, quiet, settle
from tests.virtual_worker import real_attempt, twin_attempt


@dataclass(frozen=True)
class Run:
    """One run: what happened, and what was broken."""

    seed: int
    steps: list[str]
    broken: str = ""
    settled: Settled | None = None


def run(
    blueprint: Blueprint,
    seed: int,
    steps: int,
    *,
    coordinator: type[Coordinator] = Coordinator,
    attempt: Callable[..., object] = twin_attempt,
) -> Run:
    """So many random actions, then the end of all faults."""
    rng, history = random.Random(seed), list[str]()
    actions, weights = list(ACTIONS), list(ACTIONS.values())
    world = World(blueprint, coordinator=coordinator, attempt=attempt)
    picked: list[int] = []

    def pick(below: int) -> int:
        picked.append(rng.randrange(below))
        return picked[-1]

    try:
        for action in rng.choices(actions, weights, k=steps):
            picked.clear()
            try:
                action(world, pick)
            finally:
                history.append(f"{action.__name__} {' '.join(map(str, picked))}".strip())
            world.check()
        return Run(seed, history, settled=settle(world))
    except Broken as err:
        return Run(seed, history, broken=str(err))
    finally:
        world.close()


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
    parts = [(s, min(share, seed + given.runs - s), given.steps, given.real) for s in range(seed, seed + given.runs, share)]
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
