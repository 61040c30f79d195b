"""Sick workers: one whose device fails, errs without a word, or whose consumer is stuck costs itself and no row."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from celery import Celery

from producer.board import RedisBoard
from producer.broker import EmbeddedBroker
from schemas.presence import WorkerPresence
from schemas.queues import celery_settings
from storage.jobs import open_job
from storage.shards import footer_of, published_shards
from storage.store import LocalStore
from tests.mill import embedmill, events, started, texts, write_jsonl
from tests.servers import redis_server, wait_for
from workers.hash_encoder import expected_vector


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with redis_server() as server:
        yield server


@pytest.mark.parametrize("fault", ["sticky@9", "drift@9"])
def test_a_sick_worker_takes_itself_out(broker: EmbeddedBroker, tmp_path: Path, fault: str) -> None:
    """It publishes nothing wrong, fails no row, is replaced, gives up, and says by its exit code what is at fault."""
    manifest, out = write_jsonl(tmp_path / "rows.jsonl", texts(600, longest=5)), tmp_path / "out"
    env = {"EMBEDMILL_BROKER_URL": broker.url, "EMBEDMILL_HASH_DELAY_MS": "4", "EMBEDMILL_CANARY_S": "0"}
    embedmill("submit", manifest, "--model", "hash", "--out", out, "--shard-seconds", "0.01", env=env)
    sick = env | {"EMBEDMILL_HASH_FAULTS": fault, "EMBEDMILL_BATCH_ITEMS": "8"}
    words = ("worker", "--root", tmp_path, "--workers", "1")

    with started(*words, env=sick, log=tmp_path / "sick") as worker:
        with started("coordinate", "--root", tmp_path, env=env):
            code = worker.wait(120)
        with started(*words, env=env):
            done = embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)

    assert code == 70
    assert (done.returncode, embedmill("verify", out).returncode) == (0, 0), done.stderr
    store = LocalStore(out)
    assert sum(footer_of(store, key).rows_failed for _, key, _ in published_shards(store)) == 0
    assert wrong_vectors(out, manifest) == []
    unfit = [event for event in events(tmp_path / "sick") if event.get("outcome") == "unfit"]
    assert len(unfit) == 3  # processes, each of which took no other shard


def test_sigterm_hands_back_what_cannot_be_finished(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """A worker told to end in the middle of a long shard ends within its grace, and another does the shard at once."""
    manifest, out = write_jsonl(tmp_path / "rows.jsonl", texts(600, longest=5)), tmp_path / "out"
    env = {"EMBEDMILL_BROKER_URL": broker.url, "EMBEDMILL_BATCH_ITEMS": "4", "EMBEDMILL_LEASE_S": "600"}
    embedmill("submit", manifest, "--model", "hash", "--out", out, env=env)
    words = ("worker", "--root", tmp_path, "--workers", "1")
    board = RedisBoard(broker.url)
    job = json.loads(embedmill("status", out, "--json").stdout)["job"]

    with started("coordinate", "--root", tmp_path, "--until-idle", env=env) as coordinator:
        slow = env | {"EMBEDMILL_HASH_DELAY_MS": "200"}  # 600 rows: two minutes
        with started(*words, env=slow, log=tmp_path / "slow") as worker:
            wait_for(lambda: board.leased(job, [0]), timeout_s=60, what="a shard in work")
            worker.send_signal(signal.SIGTERM)
            code = worker.wait(60)
        with started(*words, env=env):
            done = coordinator.wait(120)  # long before the lease would have ended

    assert (code, done, embedmill("verify", out).returncode) == (0, 0, 0)
    assert [event["outcome"] for event in events(tmp_path / "slow") if "outcome" in event] == ["cancelled"]


def test_a_worker_that_no_longer_consumes_starts_anew(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Alive, connected, and deaf to its queue, as Celery's consumer is after some resets: it sees so by itself."""
    env = {"EMBEDMILL_BROKER_URL": broker.url, "EMBEDMILL_STUCK_S": "2", "EMBEDMILL_REMOTE_CONTROL": "1"}
    manifest, out = write_jsonl(tmp_path / "rows.jsonl", texts(100, longest=5)), tmp_path / "out"
    app = Celery("test")
    app.conf.update(celery_settings(broker.url))
    board = RedisBoard(broker.url)

    with started("worker", "--root", tmp_path, "--workers", "1", "--modality", "text", env=env, log=tmp_path / "log"):
        wait_for(board.workers, timeout_s=60, what="the worker")
        [deaf] = board.workers()
        _make_deaf(app, deaf)
        embedmill("submit", manifest, "--model", "hash", "--out", out, env=env)
        done = embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)

    assert done.returncode == 0, done.stderr
    assert "stuck_consumer" in [event.get("event") for event in events(tmp_path / "log")]
    assert embedmill("verify", out).returncode == 0


def test_a_process_without_the_memory_for_its_model_ends_the_run(tmp_path: Path) -> None:
    """Killed while it loads, again and again: no row is blamed, and the user is told."""
    manifest, out = write_jsonl(tmp_path / "rows.jsonl", texts(20, longest=5)), tmp_path / "out"
    env = {"EMBEDMILL_PROCESS_MEMORY_MB": "260"}

    done = embedmill("run", manifest, "--model", "demo", "--out", out, "--workers", "1", env=env, timeout_s=120)

    assert done.returncode == 70
    assert "took themselves out" in done.stderr
    assert not list(published_shards(LocalStore(out)))


def wrong_vectors(out: Path, manifest: Path) -> list[str]:
    """The ids whose published vectors are not those of the hash model."""
    wanted = {row["id"]: row["text"].encode() for row in map(json.loads, manifest.read_text().splitlines())}
    digest, wrong = open_job(LocalStore(out)).record.spec.model_digest, []
    for path in (out / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        for item, vector in zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True):
            if vector != expected_vector(wanted[item], digest, len(vector)).tolist():
                wrong.append(item)
    return wrong


def _make_deaf(app: Celery, worker: WorkerPresence) -> None:
    for queue in worker.queues:
        wait_for(
            lambda name=queue: app.control.cancel_consumer(name, reply=True, timeout=5),
            timeout_s=60,
            what="the worker's answer",
        )
