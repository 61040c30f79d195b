"""Eight workers that take up the same shard at the same instant, shard after shard, with no lease between them.

Run as `python -m tests.herd FOLDER`: it forks the workers, so that what is imported is imported once, and prints
what became of each delivery as JSON: for each shard the outcomes of the eight.
"""

import json
import multiprocessing
import sys
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from storage import layout
from storage.jobs import Job, open_job
from storage.store import LocalStore
from tests.inline import InlineMill

WORKERS = 8
_PATIENCE_S = 60.0


class StartLine(LocalStore):
    """A folder in which all workers find a shard unpublished before any of them goes on."""

    def __init__(self, folder: Path, barrier: Barrier) -> None:
        super().__init__(folder)
        self._barrier = barrier
        self._passed: set[int] = set()

    def size(self, key: str) -> int | None:
        found = super().size(key)
        shard = layout.shard_of(key)
        if shard is not None and shard not in self._passed:
            self._passed.add(shard)
            self._barrier.wait(_PATIENCE_S)
        return found


def _work(folder: Path, barrier: Barrier, results: "SimpleQueue[list[str]]") -> None:
    store = StartLine(folder, barrier)
    mill = InlineMill(Job(store, open_job(LocalStore(folder)).record))
    results.put([mill.work(mill.message(shard)) for shard in range(mill.job.record.plan.shards)])


def main() -> None:
    folder, context = Path(sys.argv[1]), multiprocessing.get_context("fork")
    barrier, results = context.Barrier(WORKERS), context.SimpleQueue()
    workers = [context.Process(target=_work, args=(folder, barrier, results)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    outcomes = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    print(json.dumps(list(zip(*outcomes, strict=True))))


if __name__ == "__main__":
    main()
