"""A store that is full or slow, under real workers: a pause for the job, and no fault of any row or shard."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from producer.coordinator import MAX_ERRORS, Coordinator
from producer.finish import finish_job
from producer.task_queue import CeleryQueue
from producer.work import JobWork
from schemas.rows import Modality
from schemas.shard import ShardReport
from tests.floor import LEASE_S, QUEUE, Floor, Overheard, check_published, hash_job, worker
from tests.servers import redis_server, wait_for
from tests.strace import following

#: The coordinator's clock runs faster than ours: its pauses between tries are minutes.
FASTER = 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MiB of the test's own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=False).returncode:
        pytest.skip("only root may mount a file system, and not everywhere")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_waited_for(small_disk: Path, tmp_path: Path) -> None:
    """Filled in the middle of a job, and freed after more tries than an error may have: the job ends by itself."""
    sizes = [10] * 12
    with redis_server() as broker, worker(broker.url, tmp_path, delay_ms=20):
        floor = Floor(hash_job(small_disk / "job", sizes), broker.url)
        board = Overheard(broker.url)
        coordinator = Coordinator(
            JobWork(floor.job), board=board, queue=CeleryQueue(broker.url), clock=lambda: FASTER * time.monotonic()
        )
        wait_for(lambda: coordinator.tick().published >= 2, timeout_s=90, what="two shards")
        with full(small_disk):
            wait_for(lambda: _ticked(coordinator) and _tries(board) > MAX_ERRORS, timeout_s=90, what="failed tries")
        wait_for(lambda: coordinator.tick().done, timeout_s=90, what="the job's end")

    print(f"{len(_failed(board))} tries of {len({r.shard for r in _failed(board)})} shards met a full disk")
    finish_job(floor.job)
    assert {report.outcome for report in _failed(board)} == {"store_failed"}
    assert [report for report in board.heard if report.rows_failed or report.outcome == "error"] == []
    check_published(floor.job, sizes)
    assert not list(floor.job.store.walk("_tmp"))


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is free on `disk` for the length of a `with`."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    try:
        yield
    finally:
        ballast.unlink()


def _ticked(coordinator: Coordinator) -> bool:
    return not coordinator.tick().done


def _failed(board: Overheard) -> list[ShardReport]:
    return [report for report in board.heard if "No space left" in report.error]


def _tries(board: Overheard) -> int:
    """The failed tries of the shard that has most."""
    shards = [report.shard for report in _failed(board)]
    return max(map(shards.count, shards), default=0)


def test_a_slow_store_loses_no_lease(tmp_path: Path) -> None:
    """Each fsync takes half a second, and a publication longer than a lease: its holder stays the same to the end."""
    with (
        redis_server() as broker,
        worker(broker.url, tmp_path),
        worker(broker.url, tmp_path, queue=f"embed.{Modality.IMAGE}.cpu"),
    ):
        floor = Floor(hash_job(tmp_path / "job", [10]), broker.url)
        floor.wait_for_workers(2)
        slow, other = sorted(floor.present().values(), key=lambda each: each.queues != (QUEUE,))
        with following(slow.pid, tmp_path / "trace", inject=["fsync:delay_enter=500000"]):
            floor.send(0)
            holders = {floor.wait_for_lease(0)}
            began = time.monotonic()
            wait_for(lambda: list((tmp_path / "job" / "_tmp").glob("*")), timeout_s=60, what="the file being written")
            floor.send(0, queue=Modality.IMAGE)
            while "" not in holders:
                holders.add(floor.holder(0))
            took_s = time.monotonic() - began
            wait_for(lambda: len(floor.reports()) == 2, timeout_s=60, what="the words of both workers")
        said = {report.worker: report.outcome for report in floor.reports()}

    print(f"the lease was held for {took_s:.1f} s, {took_s / LEASE_S:.1f} of its periods")
    assert took_s > LEASE_S
    assert holders == {slow.name, ""}
    assert said == {slow.name: "published", other.name: "busy"}
    check_published(floor.job, [10])
