"""Workers on a Redis that misbehaves, and messages that are none of ours: each of these broke a plain Celery."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from celery import Celery

from chaos.proxy import Proxy
from producer.board import RedisBoard
from producer.broker import EmbeddedBroker
from producer.coordinator import Coordinator
from producer.task_queue import CeleryQueue
from producer.work import JobWork
from schemas.message import ShardMessage
from schemas.queues import celery_settings, depth_key
from storage.jobs import Job
from storage.model_files import resolve_model
from storage.store import LocalStore
from tests.floor import QUEUE, Floor, hash_job, main_of, through_port, worker
from tests.jobs import planned_job, text_rows
from tests.mill import children, embedmill, kill, texts, write_jsonl
from tests.servers import redis_server, wait_for


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with redis_server() as server:
        yield server


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Twelve shards of ten rows in a folder."""
    return hash_job(tmp_path / "job", [10] * 12)


def test_foreign_messages_are_dropped(broker: EmbeddedBroker, job: Job, tmp_path: Path) -> None:
    """Forged, broken and pickled messages touch nothing, and the worker goes on with the next."""
    floor = Floor(job, broker.url)
    touched = tmp_path / "touched"
    app = Celery(set_as_current=False)
    app.conf.update(celery_settings(broker.url))
    good = ShardMessage(job=job.id, shard=0, plan=job.record.plan.digest).to_kwargs()
    forged = [
        {**good, "job": "../../etc"},
        {**good, "shard": -1},
        {**good, "shard": True},
        {**good, "v": 99},
        {**good, "location": "/etc"},
        {"job": good["job"]},
        {**good, "plan": "f" * 64},
        {**good, "shard": 10**8},
    ]
    for kwargs in forged:
        app.send_task("embed.text", kwargs=kwargs, queue=QUEUE)
    app.conf.accept_content = ["json", "pickle"]
    app.send_task("embed.text", args=[_Touch(touched)], queue=QUEUE, serializer="pickle")

    with worker(broker.url, tmp_path):
        floor.send(3)
        floor.wait_for(3)

    assert floor.published() == {3}
    assert not touched.exists()


def test_with_a_key_only_signed_messages_are_worked_on(broker: EmbeddedBroker, job: Job, tmp_path: Path) -> None:
    """Unsigned ones, those signed with another key, and those whose shard, job or plan was changed touch nothing."""
    key, floor = "k" * 32, Floor(job, broker.url)
    app = Celery(set_as_current=False)
    app.conf.update(celery_settings(broker.url))
    message = ShardMessage(job=job.id, shard=0, plan=job.record.plan.digest)
    signed = message.to_kwargs(key)
    forged: list[dict[str, object]] = [
        message.to_kwargs(),
        message.to_kwargs("another key of some length"),
        {**signed, "shard": 1},
        {**signed, "plan": "f" * 64},
        {**signed, "job": job.id + "x"},
        {**signed, "mac": None},
        {**signed, "mac": signed["mac"][:-1]},
        {**signed, "mac": "é" * 64},
        {**signed, "mac": ["x"]},
    ]
    for kwargs in forged:
        app.send_task("embed.text", kwargs=kwargs, queue=QUEUE)
    good = ShardMessage(job=job.id, shard=3, plan=job.record.plan.digest).to_kwargs(key)
    app.send_task("embed.text", kwargs=good, queue=QUEUE)

    log = tmp_path / "log"
    with worker(broker.url, tmp_path, env={"EMBEDMILL_MESSAGE_KEY": key}, log=log):
        floor.wait_for(3)

    assert floor.published() == {3}
    assert log.read_text().count("EMBEDMILL_MESSAGE_KEY; dropped") == len(forged)
    assert key not in log.read_text()


def test_a_job_runs_with_signed_messages(tmp_path: Path) -> None:
    """`run` with a key: its coordinator signs, its workers check. A key that could be guessed is refused."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(20))
    words = ("run", manifest, "-m", "hash", "-o", tmp_path / "out", "--workers", "1")

    short = embedmill(*words, env={"EMBEDMILL_MESSAGE_KEY": "guess"})
    done = embedmill(*words, env={"EMBEDMILL_MESSAGE_KEY": "0123456789abcdef01234567"})

    assert (short.returncode, done.returncode) == (2, 0), done.stderr
    assert "EMBEDMILL_MESSAGE_KEY has 5 characters" in short.stderr


class _Touch:
    """Touches a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self._path, "w"))


def test_a_killed_child_costs_nothing(broker: EmbeddedBroker, job: Job, tmp_path: Path) -> None:
    """The shard whose process was killed is done by the next child, without waiting for the lease to run out."""
    floor = Floor(job, broker.url)
    with worker(broker.url, tmp_path, delay_ms=200) as supervisor:
        floor.send(0)
        floor.wait_for_lease(0)
        for child in children(main_of(supervisor.pid)):
            kill(child)

        floor.wait_for(0)


def test_sigterm_lets_the_shard_in_work_finish(broker: EmbeddedBroker, job: Job, tmp_path: Path) -> None:
    """A worker that is told to end publishes what it has in hand, and takes nothing else."""
    floor = Floor(job, broker.url)
    with worker(broker.url, tmp_path, delay_ms=150) as supervisor:
        floor.send(0, 1, 2)
        floor.wait_for_lease(0)

        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(60)

    assert floor.published() == {0}


def test_reset_connections_are_survived(broker: EmbeddedBroker, job: Job, tmp_path: Path) -> None:
    """All connections cut by the server in the middle of a shard: the worker finishes it and takes the next."""
    floor = Floor(job, broker.url)
    with worker(broker.url, tmp_path, delay_ms=150):
        floor.send(0)
        floor.wait_for_lease(0)
        for kind in ("normal", "pubsub"):
            floor.client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")  # type: ignore[no-untyped-call]
        floor.wait_for(0)
        floor.send(1)

        floor.wait_for(1)


def test_a_half_open_connection_does_not_stop_a_worker(broker: EmbeddedBroker, job: Job, tmp_path: Path) -> None:
    """The cable is cut in the middle of a shard: the worker notices, connects anew, and takes the next."""
    floor = Floor(job, broker.url)
    with (
        Proxy(broker.folder / "broker.sock") as proxy,
        worker(through_port(broker.url, proxy.port), tmp_path, delay_ms=200),
    ):
        floor.send(0)
        floor.wait_for_lease(0)
        assert proxy.blackhole() > 0
        floor.wait_for(0)
        floor.send(1)

        floor.wait_for(1, timeout_s=180)


def test_a_full_redis_pauses_workers_and_does_not_end_them(broker: EmbeddedBroker, job: Job, tmp_path: Path) -> None:
    """At its memory limit Redis refuses writes; when there is room again the same worker goes on."""
    floor = Floor(job, broker.url)
    with worker(broker.url, tmp_path, delay_ms=50) as supervisor:
        floor.send(0)
        floor.wait_for(0)
        main = main_of(supervisor.pid)
        floor.client.config_set("maxmemory", "1")
        wait_for(lambda: _refuses_writes(floor.client), timeout_s=30, what="Redis to be full")
        floor.client.config_set("maxmemory", "0")
        floor.send(1)
        floor.wait_for(1)

        assert children(supervisor.pid) == [main]


def _refuses_writes(client: redis.Redis) -> bool:
    try:
        client.set("embedmill:probe", "x")
    except redis.ResponseError:
        return True
    return False


def test_a_wiped_redis_is_filled_again(broker: EmbeddedBroker, job: Job, tmp_path: Path) -> None:
    """FLUSHALL in the middle of a job: the coordinator and the workers end it, unattended."""
    floor = Floor(job, broker.url)
    coordinator = Coordinator(JobWork(job), board=RedisBoard(broker.url), queue=CeleryQueue(broker.url))
    wiped = False

    def finished() -> bool:
        nonlocal wiped
        progress = coordinator.tick()
        if progress.published >= 2 and not wiped:
            wiped = bool(floor.client.flushall())
        return progress.done

    with worker(broker.url, tmp_path, delay_ms=20):
        wait_for(finished, timeout_s=180, what="the job's end")

    assert wiped
    assert floor.published() == set(range(12))


def test_no_row_is_seen_on_redis(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Texts, paths and kept values stay in the store: what crosses Redis names job, shard and plan."""
    rows = [replace(row, id=f"canary-{row.id}", text=f"canary {row.id}", kept=("canary",)) for row in text_rows(10)]
    digest = resolve_model("hash").card.digest
    job = planned_job(LocalStore(tmp_path / "job"), [rows], model_digest=digest)
    floor = Floor(job, broker.url)
    seen: list[str] = []
    with floor.client.monitor() as monitor:  # type: ignore[no-untyped-call]
        with worker(broker.url, tmp_path):
            floor.send(0)
            floor.wait_for(0)
        floor.client.echo("the end")
        for command in monitor.listen():
            seen.append(str(command["command"]))
            if "the end" in seen[-1]:
                break

    assert any(QUEUE in line for line in seen)
    assert not [line for line in seen if "canary" in line]
    assert floor.client.llen(depth_key(QUEUE)) == 0
