"""Planning killed at any moment: the next call makes the same plan, and nothing of the others is in the way."""

import json
import os
import random
import subprocess
import time
from pathlib import Path

from storage.jobs import open_job
from storage.store import LocalStore
from tests.mill import embedmill, started, texts, write_jsonl

KILLS = 8


def test_planning_killed_at_any_moment_comes_to_the_same_plan(tmp_path: Path) -> None:
    """However often: same digest, same shards as a plan that nobody disturbed, and a job that verifies."""
    seed = int(os.environ.get("EMBEDMILL_TEST_SEED", random.randrange(10**6)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(30_000, longest=20))
    words = ("plan", manifest, "--model", "hash", "--shard-seconds", "0.5", "--out")
    begun = time.monotonic()
    embedmill(*words, tmp_path / "calm")
    seconds = time.monotonic() - begun

    for _ in range(KILLS):
        with started(*words, tmp_path / "out") as planning:
            try:
                planning.wait(rng.uniform(0.3, 1.0) * seconds)  # the random moment itself
            except subprocess.TimeoutExpired:  # it is not done yet: the usual case
                planning.kill()
    done = embedmill(*words, tmp_path / "out")

    calm, shaken = open_job(LocalStore(tmp_path / "calm")).record, open_job(LocalStore(tmp_path / "out")).record
    assert done.returncode == 0, done.stderr
    assert (shaken.plan.digest, shaken.plan.shards) == (calm.plan.digest, calm.plan.shards)
    verdict = json.loads(embedmill("verify", tmp_path / "out", "--json").stdout)
    assert (verdict["ok"], verdict["missing"]) == (True, 30_000)
