"""Routing: shards go to workers whose devices hold the model, and to no others."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.board import RedisBoard
from producer.broker import EmbeddedBroker
from schemas.shard import Footer
from storage.jobs import open_job
from storage.shards import footer_of, published_shards, read_failures
from storage.store import LocalStore
from tests.mill import embedmill, started, texts, write_jsonl
from tests.servers import redis_server, wait_for

SIZES = ("cpu", "gpu8", "gpu24")


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with redis_server() as server:
        yield server


def footers(out: Path) -> list[Footer]:
    store = LocalStore(out)
    return [footer_of(store, key) for _, key, _ in sorted(published_shards(store))]


@pytest.mark.model
def test_each_model_goes_to_workers_that_hold_it(
    broker: EmbeddedBroker, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """Three models of three sizes, a worker of each: none is sent to a smaller one, none is loaded twice anywhere.

    With the largest worker gone, `status` says at once what waits for what.
    """
    env = {"EMBEDMILL_BROKER_URL": broker.url}
    models = dict(zip(SIZES, ("text_st", "clip", "bert"), strict=True))
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(200))

    def submit(size: str, name: str) -> str:
        model, out = tiny_models[models[size]], tmp_path / name
        words = ("--size", size, "--dtype", "float32", "--shard-seconds", "0.01", "--modality", "text")
        done = embedmill("submit", manifest, "--model", model, "--out", out, *words, env=env)
        return done.stdout + done.stderr

    def worker(size: str) -> tuple[object, ...]:
        return "worker", "--root", tmp_path, "--workers", "1", "--device", "cpu", "--size", size

    for size in SIZES:
        submit(size, size)
    with started(*worker("cpu"), env=env), started(*worker("gpu8"), env=env):
        board = RedisBoard(broker.url)
        with started(*worker("gpu24"), env=env):
            done = embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)
            assert done.returncode == 0, done.stderr
            # Larger workers may have done the small jobs before the small one was up: it has then no model.
            wait_for(lambda: len(board.workers()) == 3, timeout_s=60, what="all three workers")
            present = {w.size: w for w in board.workers()}
        wait_for(lambda: len(board.workers()) == 2, timeout_s=60, what="the largest worker's end")
        said = submit("gpu24", "waits")

    for size in SIZES:
        used = {footer.worker for footer in footers(tmp_path / size)}
        able = {w.name for w in present.values() if SIZES.index(w.size) >= SIZES.index(size)}
        assert used <= able
        assert embedmill("verify", tmp_path / size).returncode == 0
        digest = open_job(LocalStore(tmp_path / size)).record.spec.model_digest
        assert {w.size for w in present.values() if digest in w.models} <= set(SIZES[SIZES.index(size) :])
    assert all(w.loads == len(w.models) for w in present.values())
    assert "shards wait for embed.text.gpu24, which no live worker serves" in said
    assert "needs a GPU of 24 GiB or more" in said


def test_a_row_too_large_for_its_device_goes_to_a_larger_one(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Its shard is done there, and says why."""
    env = {"EMBEDMILL_BROKER_URL": broker.url}
    rows = [*texts(30, longest=5), {"id": "long", "text": "word " * 200}]
    manifest = write_jsonl(tmp_path / "rows.jsonl", rows)
    embedmill("submit", manifest, "--model", "hash", "--out", tmp_path / "out", env=env)
    small = env | {"EMBEDMILL_HASH_MEMORY_TOKENS": "100", "EMBEDMILL_WORKER_NAME": "small"}
    words = ("worker", "--root", tmp_path, "--workers", "1", "--device", "cpu", "--size")

    with started(*words, "gpu8", "--queues", "embed.text.gpu8", env=env):
        board = RedisBoard(broker.url)
        wait_for(board.workers, timeout_s=60, what="the large worker")
        with started(*words, "cpu", env=small):
            done = embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)

    [footer] = footers(tmp_path / "out")
    status = json.loads(embedmill("status", tmp_path / "out", "--json").stdout)
    assert done.returncode == 0, done.stderr
    assert (status["vectors"], status["failures"]) == (31, {})
    assert footer.moved == "rows too large for cpu, even alone: 1"


def test_a_row_too_large_for_every_device_is_a_failure(tmp_path: Path) -> None:
    """Where no larger device is at hand, the row is told and the others have their vectors."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", [*texts(30, longest=5), {"id": "long", "text": "word " * 200}])

    done = embedmill(
        "run",
        manifest,
        "--model",
        "hash",
        "--out",
        tmp_path / "out",
        env={"EMBEDMILL_HASH_MEMORY_TOKENS": "100"},
    )

    store = LocalStore(tmp_path / "out")
    failures = [
        row
        for footer in footers(tmp_path / "out")
        for row in read_failures(store, footer.shard, footer.attempt).to_pylist()
    ]
    assert done.returncode == 1
    assert [(row["id"], row["code"]) for row in failures] == [("long", "too_large")]


def test_run_refuses_a_model_that_this_machine_cannot_hold(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """At once, with what it needs, instead of waiting for a worker that will not come."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(3))

    done = embedmill(
        "run", manifest, "--model", tiny_models["bert"], "--out", tmp_path / "out", "--size", "gpu80",
        env={"EMBEDMILL_DEVICE": "cpu"},
    )  # fmt: skip

    assert done.returncode == 2
    assert "needs a GPU of 80 GiB or more (gpu80), and this machine has cpu" in done.stderr
