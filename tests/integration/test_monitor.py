"""Flower behind its password: what it shows, and to whom."""

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from producer.broker import EmbeddedBroker
from schemas.queues import celery_settings
from storage.jobs import Job
from tests.floor import QUEUE, Floor, hash_job, worker
from tests.mill import ENTRY, embedmill
from tests.servers import redis_server, wait_for
from tests.watching import PASSWORD, Page, watching

ROUTES = [
    "/",
    "/workers",
    "/workers?json=1",
    "/tasks",
    "/tasks/datatable",
    "/broker",
    "/api/workers",
    "/api/tasks",
    "/api/queues/length",
    "/metrics",
    "/static/js/flower.js",
    "/nowhere",
]


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Three shards in a folder."""
    return hash_job(tmp_path_factory.mktemp("mill") / "job", [10, 20, 30])


@pytest.fixture(scope="module")
def page(broker: EmbeddedBroker, job: Job, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A monitor that saw a worker do two of the job's shards; the third waits in a queue that nobody serves."""
    floor, logs = Floor(job, broker.url), tmp_path_factory.mktemp("logs")
    folder = Path(job.store.url.removeprefix("file://"))
    with watching(broker.url, logs / "monitor") as monitor, worker(broker.url, folder):
        floor.wait_for_workers(1)
        wait_for(lambda: "true" in monitor.get("/api/workers?status=1").body, timeout_s=60, what="a heartbeat")
        floor.send(0, 1)
        floor.queue.send("embed.image", "gpu8", [])
        floor.client.lpush("embedmill:embed.image.gpu8", "{}")
        wait_for(lambda: [r["state"] for r in monitor.rows()] == ["SUCCESS"] * 2, timeout_s=90, what="both shards")
        yield monitor


def test_a_shard_is_read_from_the_list(page: Page, job: Job) -> None:
    """Task, job, shard, queue, modality, rows and outcome are columns of their own, from events alone."""
    shown = {row["shard"]: row for row in page.rows()}

    assert {n: row["rows"] for n, row in shown.items()} == {0: 10, 1: 20}
    told = {name: shown[1][name] for name in ("name", "job", "queue", "modality", "failures", "outcome", "state")}
    assert told == {
        "name": "embed.text",
        "job": job.id,
        "queue": QUEUE,
        "modality": "text",
        "failures": 0,
        "outcome": "published",
        "state": "SUCCESS",
    }
    assert shown[1]["worker"].startswith("w0@")
    heads = page.get("/tasks").body
    assert all(f'data-column="{name}"' in heads for name in ("job", "shard", "queue", "modality", "rows"))
    assert not any(f'data-column="{name}"' in heads for name in ("args", "kwargs", "result"))


def test_shards_are_found_by_job_shard_and_queue(page: Page, job: Job) -> None:
    """The search field takes them by name."""
    words = {f"kwargs:job={job.id}": 2, "kwargs:shard=1": 1, f"kwargs:queue={QUEUE}": 2, "kwargs:queue=other": 0}
    asked = "/tasks/datatable?draw=1&start=0&length=9&order[0][column]=0&search[value]="

    assert {word: page.get(asked + word).json["recordsFiltered"] for word in words} == words


def test_no_path_and_no_secret_is_shown(page: Page, job: Job, broker: EmbeddedBroker) -> None:
    """Neither where the job lives, nor the plan's digest, nor a password is on any page."""
    uuid, worker_name = page.rows()[0]["uuid"], page.rows()[0]["worker"]
    pages = [*ROUTES, f"/task/{uuid}", f"/api/task/info/{uuid}", f"/worker/{worker_name}"]
    seen = [page.get(path) for path in pages]

    assert [reply.status for reply in seen] == [200, 200, 200, 200, 400] + [200] * 6 + [404] + [200] * 3
    secrets = (job.store.url.removeprefix("file://"), job.record.plan.digest, PASSWORD, broker.url.split("@")[0][-20:])
    assert not [path for path, reply in zip(pages, seen, strict=True) for word in secrets if word in reply.body]
    assert job.id in seen[-3].body and worker_name in seen[-1].body


def test_queues_are_shown_with_and_without_workers(page: Page) -> None:
    """A queue in which something waits is listed, and how many workers serve it, though no worker is ever asked."""
    queues = {queue["name"]: queue for queue in page.get("/api/queues/length").json["active_queues"]}

    assert {name: (queue["messages"], queue["consumers"]) for name, queue in queues.items()} == {
        QUEUE: (0, 1),
        "embed.image.gpu8": (1, 0),
    }
    assert "embed.image.gpu8" in page.get("/broker").body


def test_prometheus_reads_its_metrics(page: Page) -> None:
    """Tasks by name and worker, and workers that live."""
    lines = page.get("/metrics").body.splitlines()

    told = [line for line in lines if line.startswith("flower_events_total") and 'type="task-succeeded"' in line]
    assert len(told) == 1 and 'task="embed.text"' in told[0] and told[0].endswith(" 2.0")
    assert [line for line in lines if line.startswith("flower_worker_online") and line.endswith(" 1.0")]


def test_nothing_is_seen_without_the_password(page: Page) -> None:
    """Every route answers 401 and nothing else, whatever stands in the header; the health check alone says OK."""
    headers = [None, "Basic", "Basic !!", "Basic ZW1iZWRtaWxs", "Bearer x", "Basic w6nDqTrDqQ=="]
    refused = [page.get(path, auth=header) for path in ROUTES for header in headers]
    posted = page.get("/api/worker/shutdown/x", data=b"", auth=None)

    assert {reply.status for reply in [*refused, posted]} == {401}
    assert {reply.body for reply in refused} == {"401: a name and a password are needed\n"}
    assert page.get("/healthcheck", auth=None).body == "OK"


def test_it_listens_on_this_machine_alone(page: Page) -> None:
    """Its only socket that listens is bound to 127.0.0.1."""
    port = int(page.url.rpartition(":")[2])
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    listening = [words[1] for words in lines if words[3] == "0A" and words[1].endswith(f":{port:04X}")]

    assert listening == [f"0100007F:{port:04X}"]


def test_nothing_can_be_changed(page: Page) -> None:
    """With the password too: workers and tasks cannot be started, stopped or altered."""
    worker_name = page.rows()[0]["worker"]
    paths = [
        f"/api/worker/shutdown/{worker_name}",
        f"/api/worker/pool/restart/{worker_name}",
        "/api/task/async-apply/embed.text",
        "/api/task/send-task/embed.text",
        "/api/task/revoke/x",
    ]

    assert {page.get(path, data=b"{}").status for path in paths} == {403}


def test_it_is_refused_where_others_could_look(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Another address without a password, a guessable one, a file that others read, an open Redis: one line each."""
    shared = tmp_path / "password"
    shared.write_text(PASSWORD)
    shared.chmod(0o640)
    env = {"EMBEDMILL_BROKER_URL": broker.url}
    lines = {
        "EMBEDMILL_MONITOR_PASSWORD": embedmill("monitor", "--address", "0.0.0.0", env=env),
        "no password": embedmill("monitor", env=env),
        "take 12 or more": embedmill("monitor", env=env | {"EMBEDMILL_MONITOR_PASSWORD": "short"}),
        "chmod 600": embedmill("monitor", "--password-file", shared, env=env),
        "has no TLS": embedmill("monitor", env={"EMBEDMILL_BROKER_URL": "redis://:x@192.0.2.1/0"}),
    }

    assert {words: (done.returncode, words in done.stderr) for words, done in lines.items()} == dict.fromkeys(
        lines, (2, True)
    )
    assert {done.stderr.count("\n") for done in lines.values()} == {1}


def test_a_new_password_is_printed_on_a_terminal(broker: EmbeddedBroker) -> None:
    """Where none is set a person gets one, once, and it opens the page."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "EMBEDMILL_BROKER_URL": broker.url}
    process = subprocess.Popen([*ENTRY, "monitor", "--port", "0"], stderr=theirs, env=env)
    os.close(theirs)
    told = ""
    while "password" not in told or not told.endswith("\n"):
        told += os.read(ours, 1000).decode()
    found = re.search(r"(http://\S+)/ .*\r\npassword, for this time: (\S+)", told)
    try:
        assert found is not None
        assert Page(found[1], password=found[2]).get("/workers").status == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0
        os.close(ours)


def test_workers_obey_nobody_on_redis_unless_told_to(page: Page, broker: EmbeddedBroker, job: Job) -> None:
    """A broadcast shutdown is not heard, and the worker takes the next shard; with EMBEDMILL_REMOTE_CONTROL it is."""
    floor, app = Floor(job, broker.url), Celery(set_as_current=False)
    app.conf.update(celery_settings(broker.url))
    app.control.shutdown()
    floor.send(2)
    floor.wait_for(2)
    unheard = app.control.ping(timeout=0.5)
    folder = Path(job.store.url.removeprefix("file://"))
    with worker(broker.url, folder, env={"EMBEDMILL_REMOTE_CONTROL": "1"}):
        floor.wait_for_workers(2)

        wait_for(lambda: len(app.control.ping(timeout=0.5) or ()) == 1, timeout_s=60, what="the answer of one worker")

    assert unheard == []
