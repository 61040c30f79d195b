"""A manifest that changes after it was planned, and jobs of other versions than the worker's."""

import json
from pathlib import Path

import pytest

from schemas.job import FORMAT, OLD_FORMAT
from schemas.message import ShardMessage
from schemas.settings import Settings
from storage.shards import published_shards
from tests.floor import Floor, hash_job
from tests.mill import embedmill, texts, write_jsonl
from tests.servers import redis_server
from workers.runtime import build_runtime


@pytest.mark.parametrize("change", ["append", "replace"])
def test_a_manifest_that_changed_since_the_plan_is_refused(tmp_path: Path, change: str) -> None:
    """Between plan and run: exit code 2, the field that differs by name, and not a shard is published."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(20))
    words = (manifest, "--model", "hash", "--out", tmp_path / "out")
    embedmill("plan", *words)
    write_jsonl(manifest, texts(21) if change == "append" else texts(20, seed=2))

    refused = embedmill("run", *words)

    assert refused.returncode == 2
    assert list((tmp_path / "out").glob("data/*/*")) == []
    assert "manifest_sha256: " in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("version", [OLD_FORMAT - 1, FORMAT + 1], ids=["older", "newer"])
def test_a_worker_leaves_jobs_of_another_format_to_others(tmp_path: Path, version: int) -> None:
    """It says which format it reads, publishes nothing, and no attempt of the shard is counted: it is not its fault."""
    with redis_server() as broker:
        floor = Floor(hash_job(tmp_path, [3]), broker.url)
        record = tmp_path / "job.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"v": version}))
        runtime = build_runtime(Settings(broker_url=broker.url, roots=(str(tmp_path),), worker_name="old"))
        message = ShardMessage(job=floor.job.id, shard=0, plan=floor.job.record.plan.digest)

        shown = runtime.work(message)
        said = floor.reports()

    assert [report.outcome for report in said] == [shown["outcome"]] == ["unfit"]
    assert f"has format {version}, this embedmill reads {OLD_FORMAT}, " in said[0].error
    assert list(published_shards(floor.job.store)) == []
