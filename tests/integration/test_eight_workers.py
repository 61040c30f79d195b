"""The same shard delivered to eight workers at once, three hundred times over: real processes, no lease."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from schemas.failures import FailureCode
from schemas.rows import ManifestRow
from storage.model_files import resolve_model
from storage.shards import published_shards, read_failures, read_shard
from storage.store import LocalStore
from tests.herd import WORKERS
from tests.jobs import DIM, planned_job, text_rows
from workers.hash_encoder import expected_vector

SHARDS, ROWS = 300, 4


def test_of_eight_deliveries_of_a_shard_one_is_published(tmp_path: Path) -> None:
    """2400 deliveries are 300 publications; each loser says so, and leaves no file of its own."""
    digest = resolve_model("hash").card.digest
    shards = [_rows(n) for n in range(SHARDS)]
    job = planned_job(LocalStore(tmp_path), shards, model_digest=digest)

    herd = subprocess.run([sys.executable, "-m", "tests.herd", tmp_path], stdout=subprocess.PIPE, check=True)

    outcomes = json.loads(herd.stdout)
    counts = {word: sum(each.count(word) for each in outcomes) for word in ("published", "lost", "skipped")}
    print(counts)
    assert [each.count("published") for each in outcomes] == [1] * SHARDS
    assert counts == {"published": SHARDS, "lost": SHARDS * (WORKERS - 1), "skipped": 0}
    published = {shard: key for shard, key, _ in published_shards(job.store)}
    assert sorted(published) == list(range(SHARDS))
    attempts = set()
    for shard, key in published.items():
        footer, ids, vectors, _ = read_shard(job.store, key)
        good = [row for row in shards[shard] if row.defect is None]
        wanted = np.stack([expected_vector(str(row.text).encode(), digest, DIM) for row in good])
        assert ids == [row.id for row in good]
        assert np.array_equal(vectors["embedding"], wanted)
        assert read_failures(job.store, shard, footer.attempt).num_rows == 1
        attempts.add(f"failures/part-{shard:06d}-{footer.attempt}.parquet")
    left = {item.key for item in job.store.walk("")}
    assert {key for key in left if key.startswith("failures/")} == attempts
    assert len([key for key in left if key.startswith("data/")]) == SHARDS
    assert not [key for key in left if key.startswith("_tmp/")]


def _rows(shard: int) -> list[ManifestRow]:
    *good, bad = text_rows(ROWS, first=ROWS * shard)
    return [*good, replace(bad, text=None, defect=FailureCode.TEXT_EMPTY)]
