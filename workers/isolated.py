"""The isolated process: it embeds the rows that it is given one at a time, and may die of them.

    python -m workers.isolated < task.json

Started by workers/isolation.py, which reads what it writes and says what its death means.
"""

import json
import os
import resource
import sys
from typing import IO

from schemas.settings import Settings
from storage.plans import rows_of
from storage.sample import read_sample
from workers.breadcrumb import CALIBRATION
from workers.embedding import embed_rows
from workers.isolation import AloneTask, said_of
from workers.logs import configure
from workers.runtime import OpenJob, build_runtime


def main() -> None:
    """Read the task from stdin, and answer on stdout until every row is done."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold texts
    settings = Settings.from_environ(os.environ)
    configure(settings.worker_name)
    task = AloneTask.from_json(sys.stdin.readline())
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    _embed(task, build_runtime(settings).open(task.job, task.location), settings, answers)


def _embed(task: AloneTask, job: OpenJob, settings: Settings, answers: IO[bytes]) -> None:
    if task.shard == CALIBRATION:
        rows = read_sample(store=job.job.store, plan=job.job.record.plan)
    else:
        plan = job.plan(task.plan)
        rows = rows_of(plan.read_table(task.shard), plan.entry(task.shard).modality)
    job.encoder()
    for index in task.rows:
        answers.write(json.dumps({"row": index}).encode() + b"\n")
        answers.flush()
        [outcome] = embed_rows(job, [rows[index]], settings, lambda: False)
        answers.write(said_of(index, outcome))
        answers.flush()


if __name__ == "__main__":
    main()
