"""A job too many of whose rows fail: it stops soon, says so, and goes on when it is told to."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.broker import EmbeddedBroker
from tests.mill import embedmill, started, texts, write_jsonl
from tests.servers import redis_server


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with redis_server() as server:
        yield server


def test_a_job_that_fails_too_often_stops_and_can_be_resumed(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Every tenth row is NaN: with five in a hundred allowed it stops at once; with any it is finished, none twice."""
    rows = texts(3000, longest=5)
    for n, row in enumerate(rows[::10]):
        row["text"] = f"!nan {n}"  # each another text: equal ones are one shard's
    manifest, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    env = {"EMBEDMILL_BROKER_URL": broker.url, "EMBEDMILL_HASH_FAULTS": "poison", "EMBEDMILL_HASH_DELAY_MS": "1"}
    words = ("submit", manifest, "--model", "hash", "--out", out, "--shard-seconds", "0.01", "--max-error-rate")
    with started("worker", "--root", tmp_path, "--workers", "1", env=env):
        embedmill(*words, "0.05", env=env)
        embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)
        stopped = embedmill("watch", out, env=env)
        seen = json.loads(embedmill("status", out, "--json").stdout)
        embedmill(*words, "1", env=env)
        embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)

    assert (stopped.returncode, seen["state"]) == (3, "stopped")
    assert "more than the 0.05 of --max-error-rate" in stopped.stdout
    assert 200 <= seen["rows_ok"] + seen["failed"] < 1500
    done = json.loads(embedmill("verify", out, "--json").stdout)
    assert (done["complete"], done["vectors"], done["failures"]) == (True, 2700, 300)
