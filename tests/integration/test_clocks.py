"""Wall clocks that are an hour or ten years off, and one that jumps while its worker works."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from producer.coordinator import Coordinator
from producer.task_queue import CeleryQueue
from producer.work import JobWork
from tests.faketime import fake_clock
from tests.floor import Floor, Overheard, check_published, hash_job, worker
from tests.mill import embedmill, texts, write_jsonl
from tests.servers import redis_server, wait_for

WRONG = ("-1h", "+1h", "+10y")
#: What another worker's clock is set to, one after the other, while it works.
STEPS = ("+3h", "-2d", "+10y", "-1h")
SIZES = [5] * 40


def test_wrong_clocks_among_workers_cost_nothing(tmp_path: Path) -> None:
    """An hour behind, an hour and ten years ahead, and jumping: each shard is worked on once."""
    jumping = fake_clock(tmp_path / "jumping", "+0")
    clocks = [jumping, *(fake_clock(tmp_path / offset, offset) for offset in WRONG)]
    with redis_server() as broker, ExitStack() as stack:
        floor = Floor(hash_job(tmp_path / "job", SIZES), broker.url)
        for clock in clocks:
            stack.enter_context(worker(broker.url, tmp_path, delay_ms=60, env=clock.environ()))
        floor.wait_for_workers(len(clocks))
        board = Overheard(broker.url)
        coordinator = Coordinator(JobWork(floor.job), board=board, queue=CeleryQueue(broker.url))
        for n, step in enumerate(STEPS, start=1):
            _drive(coordinator, until=n * len(SIZES) // (len(STEPS) + 1))
            jumping.set(step)
        wait_for(lambda: coordinator.tick().done, timeout_s=90, what="the job's end")

    outcomes = [report.outcome for report in board.heard]
    print({outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))})
    assert outcomes.count("published") == len(SIZES)
    assert outcomes.count("lost") == 0
    assert len({report.worker for report in board.heard}) == len(clocks)
    check_published(floor.job, SIZES)


def _drive(coordinator: Coordinator, *, until: int) -> None:
    wait_for(lambda: coordinator.tick().published >= until, timeout_s=90, what=f"{until} shards")


def test_a_job_of_a_machine_ten_years_ahead(tmp_path: Path) -> None:
    """Planner, coordinator, workers: the whole command with such a clock does its job."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(100))
    clock = fake_clock(tmp_path / "clock", "+10y")

    done = embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out", env=clock.environ())

    assert done.returncode == 0, done.stderr
    assert embedmill("verify", tmp_path / "out").returncode == 0


def test_a_clock_ahead_sweeps_nothing_that_is_young(tmp_path: Path) -> None:
    """Another machine's private file is a minute old by the disk's clock, whatever ours says."""
    private = tmp_path / "_tmp" / "elsewhere-1-abc.inprogress"
    private.parent.mkdir()
    private.touch()
    sweep = (
        f"from pathlib import Path; from storage.store import LocalStore; LocalStore(Path({str(tmp_path)!r})).sweep()"
    )
    clock = fake_clock(tmp_path / "clock", "+10y")

    subprocess.run([sys.executable, "-c", sweep], env={**os.environ, **clock.environ()}, check=True)

    assert private.exists()
