"""The shop floor: a planned job, a real Redis, worker processes, and a test in the coordinator's place."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import redis

from producer.board import RedisBoard
from producer.task_queue import CeleryQueue
from schemas.message import ShardMessage
from schemas.presence import WorkerPresence
from schemas.queues import CLIENT_OPTIONS, client_url, job_key, lease_key, reports_key, task_name, worker_key
from schemas.rows import ManifestRow, Modality
from schemas.shard import ShardReport
from storage.jobs import Job
from storage.model_files import resolve_model
from storage.shards import published_shards, read_shard
from storage.store import LocalStore
from tests.jobs import DIM, planned_job, text_rows
from tests.mill import Running, children, events, parent_of, started
from tests.servers import wait_for
from workers.hash_encoder import expected_vector

QUEUE = "embed.text.cpu"
LEASE_S = 2


class Floor:
    """A job that workers can be sent the shards of."""

    def __init__(self, job: Job, url: str) -> None:
        self.job = job
        self.client = redis.Redis.from_url(client_url(url), **CLIENT_OPTIONS)
        self.queue = CeleryQueue(url)
        self.client.hset(job_key(job.id), mapping={"location": job.store.url})

    def send(self, *shards: int, queue: Modality = Modality.TEXT) -> None:
        """Send these shards; another queue than theirs reaches the workers that serve it alone."""
        messages = [ShardMessage(job=self.job.id, shard=n, plan=self.job.record.plan.digest) for n in shards]
        self.queue.send(task_name(queue), "cpu", messages)

    def published(self) -> set[int]:
        return {shard for shard, _, _ in published_shards(self.job.store)}

    def wait_for(self, *shards: int, timeout_s: float = 90) -> None:
        wait_for(lambda: self.published() >= set(shards), timeout_s=timeout_s, what=f"shards {shards}")

    def holder(self, shard: int) -> str:
        """The worker that holds the shard's lease, or ""."""
        return str(self.client.get(lease_key(self.job.id, shard)) or "")

    def wait_for_lease(self, shard: int) -> str:
        """The worker that takes the shard up."""
        wait_for(lambda: self.holder(shard), timeout_s=60, what=f"the lease of shard {shard}")
        return self.holder(shard)

    def wait_for_no_lease(self, shard: int) -> None:
        wait_for(lambda: not self.holder(shard), timeout_s=60, what=f"the lease of shard {shard} to run out")

    def present(self) -> dict[str, WorkerPresence]:
        """The workers that live, by name."""
        keys = list(self.client.scan_iter(worker_key("*")))
        lines = self.client.mget(keys) if keys else []
        found = [WorkerPresence.from_json(str(line)) for line in lines if line]
        return {worker.name: worker for worker in found}

    def wait_for_workers(self, count: int) -> None:
        wait_for(lambda: len(self.present()) >= count, timeout_s=90, what=f"{count} workers")

    def reports(self) -> list[ShardReport]:
        """All that workers have said of the job, while no coordinator reads it."""
        lines = self.client.lrange(reports_key(self.job.id), 0, -1)
        return [ShardReport.from_json(str(line)) for line in lines]

    def outcome(self, shard: int, worker: str) -> str:
        """What `worker` said of the shard last, or ""."""
        return next((r.outcome for r in reversed(self.reports()) if (r.shard, r.worker) == (shard, worker)), "")

    def pids(self, worker: str) -> list[int]:
        """The main process of a worker, and its child."""
        child = self.present()[worker].pid
        return [parent_of(child), child]

    def leases_pass(self, count: int) -> None:
        """Return when `count` periods of a lease are over, by the clock that leases are timed by."""
        self.client.set("test:clock", "runs", px=int(count * LEASE_S * 1000))
        wait_for(lambda: not self.client.exists("test:clock"), timeout_s=60, what=f"{count} leases to pass")

    def author(self, shard: int) -> str:
        """The worker whose attempt is published."""
        return read_shard(self.job.store, f"data/modality=text/part-{shard:06d}.parquet")[0].worker


class Overheard(RedisBoard):
    """The board, and what workers said on it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.heard: list[ShardReport] = []

    def reports(self, job: str) -> list[ShardReport]:
        found = super().reports(job)
        self.heard += found
        return found


def hash_job(folder: Path, sizes: list[int]) -> Job:
    """A job for the model `hash` in a folder, with so many rows in each shard."""
    digest = resolve_model("hash").card.digest
    return planned_job(LocalStore(folder), _rows(sizes), model_digest=digest, job_id=f"job-{secrets.token_hex(4)}")


def check_published(job: Job, sizes: list[int]) -> None:
    """Every shard of `hash_job` is there once, whole, with the right vector for each row."""
    found = {shard: key for shard, key, _ in published_shards(job.store)}
    assert sorted(found) == list(range(len(sizes)))
    assert len(list(job.store.walk("data"))) == len(sizes)
    digest = job.record.spec.model_digest
    for shard, rows in enumerate(_rows(sizes)):
        footer, ids, vectors, _ = read_shard(job.store, found[shard])
        assert (footer.rows_planned, footer.rows_ok) == (len(rows), len(rows))
        assert ids == [row.id for row in rows]
        right = [expected_vector(str(row.text).encode(), digest, DIM) for row in rows]
        assert np.array_equal(vectors["embedding"], np.stack(right))


def _rows(sizes: list[int]) -> list[list[ManifestRow]]:
    return [text_rows(size, first=sum(sizes[:n])) for n, size in enumerate(sizes)]


@contextmanager
def worker(
    url: str,
    root: Path,
    *,
    delay_ms: int = 0,
    queue: str = QUEUE,
    log: Path | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[Running]:
    """A supervisor with one worker that serves one queue of the Redis at `url`."""
    told = {
        "EMBEDMILL_BROKER_URL": url,
        "EMBEDMILL_HASH_DELAY_MS": str(delay_ms),
        "EMBEDMILL_LEASE_S": str(LEASE_S),
    }
    words = ("worker", "--root", root, "--workers", "1", "--queues", queue)
    with started(*words, env=told | (env or {}), log=log) as supervisor:
        yield supervisor


def main_of(supervisor: int) -> int:
    """The worker's main process below its supervisor."""
    wait_for(lambda: bool(children(supervisor)), timeout_s=30, what="the worker's main process")
    return children(supervisor)[0]


def through_port(url: str, port: int) -> str:
    """The broker's URL by way of a proxy on loopback."""
    password = url.partition("://:")[2].partition("@")[0]
    return f"redis://:{password}@127.0.0.1:{port}/0"


def said_in(log: Path, job: Job, shard: int) -> list[str]:
    """The outcomes of a shard that a worker wrote into its log, whether or not Redis heard of them."""
    told = [event for event in events(log) if "outcome" in event]
    return [event["outcome"] for event in told if (event["job"], event["shard"]) == (job.id, shard)]
