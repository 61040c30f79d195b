"""The isolated process: it embeds the rows that it is given one at a time, and may die of them.

    python -m workers.isolated < task.json

Started by workers/isolation.py, which reads what it writes and says what its death means.
"""

import contextlib
import json
import logging
import os
import resource
import sys
import threading
from collections.abc import Sequence
from typing import IO

from schemas.errors import StoreUnavailable
from schemas.failures import Failure
from schemas.settings import Settings
from storage.sample import read_sample
from workers.breadcrumb import CALIBRATION, Place
from workers.embedding import Embedded
from workers.isolation import STORE_FAILED, AloneTask, said_of
from workers.logs import configure
from workers.planned_work import Row, planned_rows, work_on
from workers.runtime import OpenJob, build_runtime

logger = logging.getLogger(__name__)


def main() -> None:
    """Read the task from stdin, and answer on stdout until every row is done."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold texts
    settings = Settings.from_environ(os.environ)
    configure(settings.worker_name)
    task = AloneTask.from_json(sys.stdin.readline())
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    try:
        _embed(task, build_runtime(settings).open(task.job, task.location), settings, _Answers(answers))
    except StoreUnavailable as err:
        logger.warning("%s", err, extra={"event": "store_failed", "shard": task.shard})
        sys.exit(STORE_FAILED)


class _Answers:
    """What is said to the parent; as the trail of a row it says again, at each step, that the row is in work."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._lock, self._row = pipe, threading.Lock(), -1

    def begin(self, row: int) -> None:
        self._row = row
        self._say(json.dumps({"row": row}).encode() + b"\n")

    def at(self, place: Place, inputs: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        self.begin(self._row)  # a row of many segments takes many steps, each of which may take its time
        return contextlib.nullcontext()

    def end(self, outcome: Embedded | Failure) -> None:
        self._say(said_of(self._row, outcome))

    def _say(self, message: bytes) -> None:
        with self._lock:  # two steps may begin at once
            self._pipe.write(message)
            self._pipe.flush()


def _embed(task: AloneTask, job: OpenJob, settings: Settings, answers: _Answers) -> None:
    rows: Sequence[Row]
    if task.shard == CALIBRATION:
        rows = read_sample(store=job.job.store, plan=job.job.record.plan)
    else:
        plan = job.plan(task.plan)
        rows = planned_rows(job.job.record.spec, plan.read_table(task.shard), plan.entry(task.shard).modality)
    job.load()
    for index in task.rows:
        answers.begin(index)
        [outcome] = work_on(job, [rows[index]], settings, lambda: False, lambda owners: answers)
        answers.end(outcome)


if __name__ == "__main__":
    main()
