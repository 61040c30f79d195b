"""Poison: rows that kill, hang or fill the process, each paid for by itself and by at most three processes."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from producer.broker import EmbeddedBroker
from schemas.settings import Settings
from storage.jobs import Job, open_job
from storage.shards import footer_of, published_shards, read_failures
from storage.store import LocalStore
from tests.mill import embedmill, events, started, texts, write_jsonl
from tests.servers import redis_server
from workers.breadcrumb import Breadcrumb, Place
from workers.hash_encoder import expected_vector
from workers.minder import note_death

ROWS = 10_000
POISON = {
    1234: ("!segfault", "process_crashed"),
    3456: ("!hang", "process_timeout"),
    5678: ("!nan", "vector_not_finite"),
    7890: ("!memory", "process_memory"),
}
LIMITS = {"EMBEDMILL_STEP_LIMIT_S": "4", "EMBEDMILL_PROCESS_MEMORY_MB": "700"}


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with redis_server() as server:
        yield server


def failures_of(job: Job) -> dict[str, str]:
    """Each failed row's code."""
    footers = [footer_of(job.store, key) for _, key, _ in published_shards(job.store)]
    tables = [read_failures(job.store, footer.shard, footer.attempt).to_pylist() for footer in footers]
    return {row["id"]: row["code"] for table in tables for row in table}


def test_four_poisoned_rows_in_ten_thousand_cost_four_rows(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """One crashes its process, one hangs, one gives NaN, one fills the memory: four failures, 9,996 right vectors."""
    rows = texts(ROWS, longest=12)
    for number, (word, _) in POISON.items():
        rows[number]["text"] = f"{word} {number}"
    manifest, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    env = {"EMBEDMILL_BROKER_URL": broker.url} | LIMITS | {"EMBEDMILL_HASH_FAULTS": "poison"}
    embedmill("submit", manifest, "--model", "hash", "--out", out, "--shard-seconds", "0.1", env=env)

    with started("worker", "--root", tmp_path, "--workers", "2", env=env, log=tmp_path / "log"):
        done = embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)

    job = open_job(LocalStore(out))
    assert done.returncode == 0, done.stderr
    assert failures_of(job) == {rows[number]["id"]: code for number, (_, code) in POISON.items()}
    assert embedmill("verify", out).returncode == 0
    wanted = {row["id"]: row["text"].encode() for row in rows}
    found = 0
    for path in (out / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        for item, vector in zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True):
            assert vector == expected_vector(wanted[item], job.record.spec.model_digest, len(vector)).tolist()
            found += 1
    assert found == ROWS - len(POISON)
    # Three of the four end processes: of each one worker's, and two in which the row was alone.
    said = Counter(event.get("event") for event in events(tmp_path / "log"))
    assert (said["process_died"], said["row_alone_died"]) == (3, 6)


def test_a_poisoned_row_of_the_int8_sample_does_not_stop_the_job(tmp_path: Path) -> None:
    """Ranges are taken from the rows that live; the row fails, until a retry finds the fault gone."""
    rows = texts(40, longest=5)
    rows[7]["text"] = "!segfault"
    manifest, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    words = ("run", manifest, "--model", "hash", "--out", out, "--output-dtype", "int8", "--workers", "1")

    done = embedmill(*words, env=LIMITS | {"EMBEDMILL_HASH_FAULTS": "poison"})

    assert done.returncode == 1, done.stderr
    assert failures_of(open_job(LocalStore(out))) == {rows[7]["id"]: "process_crashed"}
    assert embedmill("verify", out).returncode == 0
    again = embedmill("retry", out, "--code", "process_crashed", "--workers", "1", "--json")
    assert (again.returncode, json.loads(again.stdout)["vectors"]) == (0, 40)


def test_a_row_that_breaks_the_device_costs_itself(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """The device fails in a row's middle: the row is tried alone too, and no worker is taken out of service for it."""
    rows = texts(60, longest=5)
    rows[17]["text"] = "!device"
    manifest, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    env = {"EMBEDMILL_BROKER_URL": broker.url, "EMBEDMILL_HASH_FAULTS": "poison"}
    embedmill("submit", manifest, "--model", "hash", "--out", out, env=env)

    with started("worker", "--root", tmp_path, "--workers", "1", env=env, log=tmp_path / "log") as worker:
        done = embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)
        code = worker.poll()

    assert (done.returncode, code) == (0, None), done.stderr
    assert failures_of(open_job(LocalStore(out))) == {rows[17]["id"]: "process_crashed"}
    assert embedmill("verify", out).returncode == 0


def test_a_death_leaves_its_rows_to_be_tried_alone(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """What was preprocessed and what was in the model are suspects; what was done before is none."""
    from redis import Redis

    from schemas.queues import CLIENT_OPTIONS, client_url
    from workers.suspects import RedisSuspects

    crumb = Breadcrumb(tmp_path / "w.crumb")
    settings = Settings(broker_url=broker.url, worker_name="w")
    with crumb.at(Place.MAIN, job="job-12345678", shard=7, rows=[1]):
        pass

    with (
        crumb.at(Place.MAIN, job="job-12345678", shard=7, rows=[2, 3]),
        crumb.at(Place.AHEAD, job="job-12345678", shard=7, rows=[4]),
    ):
        note_death(settings, Breadcrumb(tmp_path / "w.crumb"))  # as the main process has it

    with Redis.from_url(client_url(broker.url), **CLIENT_OPTIONS) as client:
        assert RedisSuspects(client).suspects("job-12345678", 7) == {2, 3, 4}
    assert crumb.steps() == []
