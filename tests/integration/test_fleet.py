"""Jobs over a given Redis: submit, coordinate, worker, status, watch, cancel; in a folder and on S3."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.broker import EmbeddedBroker
from storage.jobs import open_job
from storage.shards import published_shards, read_shard
from storage.store import LocalStore, open_store
from tests.mill import alive, embedmill, started, texts, worker_pids, write_jsonl
from tests.servers import S3Server, redis_server, s3_server, wait_for


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def test_a_submitted_job_is_driven_to_its_end(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Submitted before anything listens, it is finished when a coordinator and a worker come."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(300))
    out, env = tmp_path / "out", {"EMBEDMILL_BROKER_URL": broker.url}

    submitted = embedmill("submit", manifest, "--model", "hash", "--out", out, env=env)
    before = embedmill("status", out, "--json", env=env)
    with started("worker", "--root", tmp_path, "--workers", "1", env=env):
        coordinated = embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)

    told = json.loads(before.stdout)
    assert submitted.returncode == 0
    assert (before.returncode, told["state"], told["queues"][0]["workers"]) == (3, "planned", 0)
    assert "which no live worker serves" in told["notes"][0]
    assert coordinated.returncode == 0, coordinated.stderr
    assert embedmill("watch", out).returncode == 0
    assert embedmill("verify", out).returncode == 0


def test_a_coordinator_finds_jobs_that_redis_forgot(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """With the list of submitted jobs wiped, the store still has the mark."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(50))
    out, env = tmp_path / "out", {"EMBEDMILL_BROKER_URL": broker.url}
    embedmill("submit", manifest, "--model", "hash", "--out", out, env=env)
    broker.stop()
    broker.watch()

    with started("worker", "--root", tmp_path, "--workers", "1", env=env):
        embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)

    assert embedmill("status", out).returncode == 0


def test_cancel_returns_when_the_workers_are_free(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """A cancelled job stops in the middle of its shards, and submitting it again finishes it."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(300))
    out = tmp_path / "out"
    env = {"EMBEDMILL_BROKER_URL": broker.url, "EMBEDMILL_LEASE_S": "2"}
    slow = env | {"EMBEDMILL_HASH_DELAY_MS": "20", "EMBEDMILL_BATCH_ITEMS": "4"}
    words = ("submit", manifest, "--model", "hash", "--out", out, "--shard-seconds", "0.1")
    embedmill(*words, env=env)
    with (
        started("worker", "--root", tmp_path, "--workers", "1", env=slow),
        started("coordinate", "--root", tmp_path, env=env),
    ):
        wait_for(lambda: list(out.glob("data/*/*")), timeout_s=60, what="the first shard")

        cancelled = embedmill("cancel", out, env=env)
        state = json.loads(embedmill("status", out, "--json").stdout)["state"]

        assert cancelled.returncode == 0, cancelled.stderr
        assert state == "cancelled"
        embedmill(*words, env=env)
        wait_for(lambda: (out / "manifest.json").exists(), timeout_s=120, what="the job's end")
    assert embedmill("verify", out).returncode == 0


def test_a_worker_touches_nothing_outside_its_roots(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """A job elsewhere is refused with the reason, and stops resumable instead of waiting for ever."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(20))
    env = {"EMBEDMILL_BROKER_URL": broker.url}
    (tmp_path / "allowed").mkdir()
    embedmill("submit", manifest, "--model", "hash", "--out", tmp_path / "out", env=env)

    with started("worker", "--root", tmp_path / "allowed", "--workers", "1", env=env):
        done = embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)

    assert "lies outside the allowed roots" in done.stderr
    assert list(published_shards(LocalStore(tmp_path / "out"))) == []


def test_sigterm_ends_a_worker_and_its_children(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """The supervisor ends with 0 once its workers have ended."""
    env = {"EMBEDMILL_BROKER_URL": broker.url}
    log = tmp_path / "log"
    with started("worker", "--root", tmp_path, "--workers", "2", env=env, log=log) as worker:
        wait_for(lambda: len(worker_pids(worker.pid)) >= 4, timeout_s=60, what="two workers with their children")
        below = worker_pids(worker.pid)
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(60)

    assert code == 0
    assert not any(alive(pid) for pid in below)
    assert "Traceback" not in log.read_text()


def test_a_job_lives_on_s3(s3: S3Server, tmp_path: Path) -> None:
    """Manifest, image and output on an S3 server: planned, embedded, verified; a second run does nothing."""
    import io

    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    base = f"s3://{s3.bucket}/in"
    manifest = "".join(json.dumps(row) + "\n" for row in [*texts(40), {"id": "img", "uri": "red.png"}])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environ().items():
            patch.setenv(name, value)
        source = open_store(base)
        source.create("rows.jsonl", manifest.encode())
        source.create("red.png", picture.getvalue())
        words = ("run", f"{base}/rows.jsonl", "--model", "hash", "--out", f"s3://{s3.bucket}/out")

        done, again = embedmill(*words), embedmill(*words)

        job = open_job(open_store(f"s3://{s3.bucket}/out"))
        rows = sum(len(read_shard(job.store, key)[1]) for _, key, _ in published_shards(job.store))
        verified = embedmill("verify", f"s3://{s3.bucket}/out")
    assert done.returncode == again.returncode == 0, done.stderr
    assert rows == 41
    assert verified.returncode == 0, verified.stdout


def test_json_is_all_that_stdout_gets(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """With a given Redis too: what workers and libraries say goes elsewhere."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(20))
    env = {"EMBEDMILL_BROKER_URL": broker.url}

    done = embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out", "--json", env=env)

    assert json.loads(done.stdout)["vectors"] == 20
    assert done.stderr == ""


def test_media_beside_the_manifests_folder_are_reached(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """`../images/x.png` is read when --media-root allows the folder, and is a failure when it does not."""
    from PIL import Image

    for name in ("manifests", "images"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "x.png")
    manifest = write_jsonl(tmp_path / "manifests" / "rows.jsonl", [{"id": "x", "uri": "../images/x.png"}])
    words = ("run", manifest, "--model", "hash", "--json", "--media-root")

    allowed = embedmill(*words, tmp_path / "images", "--out", tmp_path / "one")
    refused = embedmill(*words, tmp_path / "manifests", "--out", tmp_path / "two")

    assert json.loads(allowed.stdout)["vectors"] == 1
    assert json.loads(refused.stdout)["failures"] == {"outside_root": 1}
