"""A job from S3 to S3, while the store loses replies and refuses, and processes are killed."""

import json
import random
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from storage.jobs import open_job
from storage.shards import published_shards, read_shard
from storage.store import Store, open_store
from tests.floor import main_of
from tests.jobs import DIM
from tests.mill import children, embedmill, kill, started, texts
from tests.s3_proxy import Fault, S3Proxy
from tests.servers import redis_server, s3_server, wait_for
from workers.hash_encoder import expected_vector

ROWS = 5_000
FAULTS = (Fault.LOST_REPLY, Fault.ERROR_AFTER, Fault.SLOW_DOWN, Fault.CONFLICT)


class Weather:
    """Every so many requests meet a fault, no key more than twice: whoever asks again is answered."""

    def __init__(self, share: float, seed: int) -> None:
        self._share, self._random = share, random.Random(seed)
        self._met: Counter[str] = Counter()
        self.faults: Counter[Fault] = Counter()

    def __call__(self, method: str, key: str) -> Fault:
        if self._met[key] >= 2 or self._random.random() >= self._share:
            return Fault.NONE
        fault = self._random.choice([f for f in FAULTS if method == "PUT" or f is not Fault.CONFLICT])
        self._met[key] += 1
        self.faults[fault] += 1
        return fault


def test_5000_texts_from_s3_to_s3_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """500, 503, 409, lost replies (and the 412 that they lead to), a worker, its process and a coordinator killed -9:
    every row has its own vector, once, and `verify` says so. Seed 31."""
    rows = texts(ROWS)
    with redis_server() as broker, s3_server() as server, S3Proxy(server) as proxy:
        env = proxy.server.environ() | {"EMBEDMILL_BROKER_URL": broker.url, "EMBEDMILL_LEASE_S": "2"}
        env |= {"EMBEDMILL_HASH_DELAY_MS": "1", "AWS_ENDPOINT_URL": proxy.server.endpoint}
        for name, value in proxy.server.environ().items():
            monkeypatch.setenv(name, value)
        manifest, out = f"s3://{server.bucket}/in/rows.jsonl", f"s3://{server.bucket}/jobs/one"
        store, root = open_store(out), f"s3://{server.bucket}"
        open_store(root).create("in/rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        weather = proxy.choose = Weather(0.25, seed=31)

        submitted = embedmill(
            "submit", manifest, "-m", "hash", "-o", out, "--media-root", root, "--shard-seconds", "0.2", env=env
        )
        assert submitted.returncode == 0, submitted.stderr
        with started("worker", "--root", root, "--workers", "2", env=env, log=tmp_path / "worker.log") as workers:
            with started("coordinate", "--root", f"{root}/jobs", env=env) as coordinator:
                wait_for(lambda: parts(store) >= 3, timeout_s=120, what="three shards")
                kill(children(main_of(workers.pid))[0], signal.SIGKILL)
                wait_for(lambda: parts(store) >= 8, timeout_s=120, what="eight shards")
                kill(coordinator.pid, signal.SIGKILL)
            kill(main_of(workers.pid), signal.SIGKILL)
            with started("coordinate", "--root", f"{root}/jobs", env=env):
                wait_for(lambda: store.size("manifest.json") is not None, timeout_s=240, what="the end")
        verified = embedmill("verify", out, env=env)

        print(f"{sum(weather.faults.values())} faults: { {f.name: n for f, n in weather.faults.items()} }")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert set(weather.faults) == set(FAULTS)
        check(store, {str(row["id"]): str(row["text"]) for row in rows})


def parts(store: Store) -> int:
    return sum(1 for _ in store.walk("data"))


def check(store: Store, rows: dict[str, str]) -> None:
    """Each row is there once, with the vector that is its own."""
    job = open_job(store)
    left = dict(rows)
    for _, key, _ in published_shards(store):
        _, ids, vectors, _ = read_shard(store, key)
        right = [expected_vector(left.pop(id_).encode(), job.record.spec.model_digest, DIM) for id_ in ids]
        assert np.array_equal(vectors["embedding"], np.stack(right))
    assert not left
