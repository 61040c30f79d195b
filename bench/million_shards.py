"""What a job of very many shards takes: `python -m bench.million_shards --shards 1000000`.

Publishes an index of so many shards; drives the job through reports of half of them; lists as many files; and asks
`embedmill status` before and after.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.plan_rows import CARD, in_child
from producer.board import MemoryBoard
from producer.coordinator import Coordinator
from producer.progress_note import NoteWriter
from producer.work import JobWork
from schemas.job import JobRecord, JobSpec
from schemas.rows import ManifestRow, Modality
from schemas.shard import ShardReport
from schemas.space import Space
from storage import layout
from storage.jobs import create_job, now, open_job
from storage.plans import PlanWriter
from storage.store import LocalStore

ROWS_A_SHARD = 100
#: Reports between two ticks.
_AT_ONCE = 5_000


class Outbox:
    """A task queue that forgets."""

    def send(self, *words: object) -> None: ...


def plan(folder: Path, shards: int) -> None:
    """A job of so many shards, whose entries all name one row group; what planning costs, plan_rows.py tells."""
    store, row = LocalStore(folder / "job"), ManifestRow(id="1", line=1, modality=Modality.TEXT, text="a cat")
    spec = JobSpec(manifest="/rows.jsonl", manifest_sha256="", model=CARD.name, model_digest=CARD.digest)
    with PlanWriter(()) as writer:
        writer.add_shard(Modality.TEXT, [row], 1.0)
        index = writer._index  # a million row groups take minutes, and nobody reads them here
        for number in range(1, shards):
            index.add(Modality.TEXT, ROWS_A_SHARD, 1.0, 0, 0, hashlib.sha256(b"%d" % number).hexdigest())
        writer.rows = 1 + (shards - 1) * ROWS_A_SHARD
        record, seconds = _timed(lambda: writer.publish(store))
    space = Space(model_digest=CARD.digest, dim=CARD.dim)
    job = JobRecord(id="job-million1", created_at=now(), spec=spec, space=space, plan=record, versions={})
    create_job(store, job)
    size = store.size(record.index) or 0
    _say("publish", shards=record.shards, seconds=round(seconds, 2), index_mb=round(size / 1e6, 1))


def drive(folder: Path) -> None:
    """Drive the job through reports of half of its shards."""
    job, board = open_job(LocalStore(folder / "job")), MemoryBoard()
    before = _rss_mb()
    coordinator, start_s = _timed(lambda: Coordinator(JobWork(job), board=board, queue=Outbox()))
    _, first_s = _timed(coordinator.tick)
    opened = _rss_mb()
    ticks = []
    digest, half = job.record.plan.digest, job.record.plan.shards // 2
    for begin in range(0, half, _AT_ONCE):
        board.said = [
            ShardReport(shard=n, plan=digest, outcome="published", worker="w", rows_ok=ROWS_A_SHARD)
            for n in range(begin, min(begin + _AT_ONCE, half))
        ]
        progress, tick_s = _timed(coordinator.tick)
        ticks.append(tick_s)
    _, idle_s = _timed(coordinator.tick)
    NoteWriter(job).write(coordinator, progress)
    _say(
        "drive",
        start_s=round(start_s, 2),
        first_tick_s=round(first_s, 2),
        report_us=round(1e6 * sum(ticks) / half, 1),
        idle_tick_ms=round(1000 * idle_s, 2),
        bytes_a_shard=round(1e6 * (opened - before) / job.record.plan.shards),
        rss_mb=round(opened),
    )


def list_store(folder: Path) -> None:
    """Drive the job to a listing of as many files as half of its shards."""
    job = open_job(LocalStore(folder / "job"))
    (folder / "job/data/modality=text").mkdir(parents=True)
    for shard in range(job.record.plan.shards // 2):
        (folder / "job" / layout.data_key(Modality.TEXT, shard)).touch()
    coordinator = Coordinator(JobWork(job), board=MemoryBoard(), queue=Outbox())
    progress, seconds = _timed(coordinator.tick)
    _say("list", published=progress.published, seconds=round(seconds, 2), peak_rss_mb=round(_peak_mb()))


def _status(folder: Path) -> dict[str, float]:
    """Seconds of `embedmill status`, start-up included."""
    code = "from producer.cli import app; app()"
    command = [sys.executable, "-c", code, "status", str(folder / "job"), "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, seconds = _timed(lambda: subprocess.run(command, check=False, capture_output=True))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)}


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _say(step: str, **told: object) -> None:
    sys.stdout.write(json.dumps({"step": step, **told, "peak_rss_mb": round(_peak_mb())}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do each step in a process of its own, and print a line of JSON for each."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--shards", type=int, default=1_000_000, help="of the job")
    arguments.add_argument("--folder", default=None, help="where all of it is written; default: the temp folder")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="embedmill-bench-", dir=given.folder) as name:
        folder = Path(name)
        in_child(plan, folder, given.shards)
        _say("status of a planned job", **_status(folder))
        in_child(drive, folder)
        _say("status of a job under way", **_status(folder))
        in_child(list_store, folder)


if __name__ == "__main__":
    main()
