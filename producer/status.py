"""Status: where a job stands, from the store and, where it can be reached, from Redis."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np

from producer.board import Board
from producer.estimate import read_estimate
from producer.job_receipt import receipt_of, written_receipt
from producer.outcomes import Outcomes, PublishedFile, count_outcomes, listed_outcomes, published_files
from producer.progress_note import MANY_SHARDS, read_note
from schemas.counted import counted
from schemas.errors import BrokerError, StoreError
from schemas.job import PlanRecord
from schemas.parsed_json import parsed_json
from schemas.queues import queue_name
from schemas.redaction import redact
from schemas.sizes import CPU, GIB
from storage import layout
from storage.jobs import Job
from storage.plans import planned_modalities

#: What stands for the codes of failures where only their number is known.
_OF_ANY_CODE = "of_any_code"


class JobState(StrEnum):
    """Where a job stands."""

    PLANNED = "planned"  # nothing is published yet
    UNFINISHED = "unfinished"  # some shards are published
    CANCELLED = "cancelled"  # stopped by `cancel`; it can be taken up again
    STOPPED = "stopped"  # by its coordinator, as a note says; it can be taken up again
    FINISHED = "finished"  # every row has its outcome


@dataclass(slots=True, kw_only=True)
class QueueStatus:
    """One queue of the job."""

    queue: str
    shards_left: int
    waiting: int | None = None  # messages; None where Redis cannot be reached
    workers: int | None = None


@dataclass(slots=True, kw_only=True)
class JobStatus:
    """What `embedmill status` shows."""

    job: str
    state: JobState
    location: str
    kind: str  # embed: its outcomes are vectors; rerank: scores
    model: str
    space: str
    dim: int
    rows: int
    vectors: int  # of rows that are cut into segments, more than one each
    rows_ok: int
    failures: dict[str, int]
    rejects: int
    skipped: int
    left_out: int
    shards: int
    published: int
    file_bytes: int
    retries: int
    vectors_by_modality: dict[str, int]
    equal: int = 0  # of rows_ok: their vectors were computed for another row of the same content
    reused: int = 0  # of rows_ok: their vectors are an earlier job's
    reusable: int = 0  # texts that the plan found in earlier jobs; media are known when they are fetched
    reuse_saves_s: float = 0.0  # estimated seconds of one core, or GPU, that these save
    queues: list[QueueStatus] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    receipt: dict[str, Any] | None = None  # where the time went, as far as shards are published
    report: str = ""  # where report.html lies, once it was made
    estimate: dict[str, Any] | None = None  # what the job was thought to take; of a finished one the receipt has it

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def computed(self) -> int:
        return self.rows_ok - self.equal - self.reused

    @property
    def left(self) -> int:
        return self.rows - self.rows_ok - self.failed

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"failed": self.failed, "left": self.left, "computed": self.computed}


def job_status(
    job: Job,
    board: Board | None = None,
    *,
    exact: bool = False,
    many: int = MANY_SHARDS,
    files: Callable[[Job], Iterable[PublishedFile]] = published_files,
) -> JobStatus:
    """Look into the store, and on the board where one is given; `files` reads what is published of an unended job.

    Of a job of `many` shards or more it is told what its coordinator, or its receipt, says; `exact` looks into each.
    """
    rounds, record = job.rounds(), job.record
    is_large = sum(plan.shards for plan in rounds) >= many and not exact
    seen = (_at_a_glance(job, rounds) if is_large else None) or _looked_into(job, files)
    outcomes = seen.outcomes
    status = JobStatus(
        job=job.id,
        state=_state(job, rounds, seen.published),
        location=job.store.url,
        kind=str(record.spec.kind),
        model=record.spec.model,
        space=record.space.digest,
        dim=record.space.dim,
        rows=record.plan.rows,
        vectors=outcomes.vectors,
        rows_ok=outcomes.rows_ok,
        failures=dict(sorted(outcomes.failures.items())),
        rejects=record.plan.rejects,
        skipped=record.plan.skipped,
        left_out=record.plan.left_out,
        shards=sum(plan.shards for plan in rounds),
        published=seen.published,
        file_bytes=outcomes.file_bytes,
        retries=len(rounds) - 1,
        vectors_by_modality=dict(sorted(outcomes.vectors_by_modality.items())),
        equal=outcomes.equal,
        reused=outcomes.reused,
        reusable=record.plan.reused,
        reuse_saves_s=round(record.plan.reuse_saves_s, 1),
        queues=[QueueStatus(queue=queue, shards_left=left) for queue, left in sorted(seen.left.items()) if left],
        notes=[seen.note] if seen.note else [],
        receipt=seen.receipt,
    )
    if job.store.size(layout.REPORT) is not None:
        status.report = f"{redact(job.store.url)}/{layout.REPORT}"
    if status.state is not JobState.FINISHED and (estimate := read_estimate(job)):
        status.estimate = estimate.to_dict()
    if status.state is JobState.STOPPED:
        status.notes.append(_why_stopped(job))
    elif board is not None and status.queues:
        _look_at_board(status, board)
    return status


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What is known of a job's shards."""

    outcomes: Outcomes
    published: int  # shards
    left: dict[str, int]  # shards that are not, by queue
    receipt: dict[str, Any] | None
    note: str = ""


def _looked_into(job: Job, files: Callable[[Job], Iterable[PublishedFile]]) -> _Seen:
    """What every shard says of itself, or the list of a finished job."""
    outcomes = listed_outcomes(job)
    found = list(files(job)) if outcomes is None else []
    outcomes = outcomes or count_outcomes(job, found)
    return _Seen(
        outcomes=outcomes,
        published=len(outcomes.shards),
        left=_queues_left(job, outcomes.shards),
        receipt=written_receipt(job) if not found else _receipt_so_far(job, found),
    )


def _at_a_glance(job: Job, rounds: list[PlanRecord]) -> _Seen | None:
    """What the receipt of a finished job says, or the note of a coordinator; None where only the shards can tell."""
    if all(job.is_finished(plan) for plan in rounds):
        return _by_receipt(written_receipt(job), len(rounds))
    note = read_note(job) if len(rounds) == 1 else None
    if note is None:
        return None
    when = datetime.fromtimestamp(note.at).astimezone().strftime("%H:%M:%S")
    rows_ok = note.rows_done - note.failed
    outcomes = Outcomes(
        rows=note.rows_done,
        rows_ok=rows_ok,
        vectors=rows_ok,
        failures=Counter({_OF_ANY_CODE: note.failed} if note.failed else {}),
    )
    return _Seen(
        outcomes=outcomes,
        published=note.published,
        left=note.left,
        receipt=None,
        note=f"this is what the job's coordinator saw at {when}; --exact looks into every shard, which takes long",
    )


def _by_receipt(receipt: dict[str, Any] | None, rounds: int) -> _Seen | None:
    try:
        told = (receipt or {})["outcomes"]
        if told["rounds"] != rounds:
            return None
        outcomes = Outcomes(
            rows=told["rows"],
            vectors=told["vectors"],
            rows_ok=told["rows_ok"],
            failures=Counter(told["failures"]),
            vectors_by_modality=Counter(told["vectors_by_modality"]),
            file_bytes=told["file_bytes"],
            equal=told["equal"],
            reused=told["reused"],
        )
        return _Seen(outcomes=outcomes, published=told["shards"], left={}, receipt=receipt)
    except (LookupError, TypeError, ValueError):  # of an older version
        return None


def _receipt_so_far(job: Job, files: list[PublishedFile]) -> dict[str, Any] | None:
    receipt = receipt_of(job, (file.footer for file in files))
    return receipt.to_dict() if receipt else None


def _state(job: Job, rounds: list[PlanRecord], published: int) -> JobState:
    if all(job.is_finished(plan) for plan in rounds):
        return JobState.FINISHED
    if job.store.size(layout.CANCELLED) is not None:
        return JobState.CANCELLED
    if job.store.size(layout.STOPPED) is not None:
        return JobState.STOPPED
    return JobState.UNFINISHED if published else JobState.PLANNED


def _why_stopped(job: Job) -> str:
    try:
        return str(parsed_json(job.store.get(layout.STOPPED))["why"])
    except (StoreError, ValueError, LookupError, TypeError):  # taken up again meanwhile
        return "stopped"


def _queues_left(job: Job, published: frozenset[int]) -> dict[str, int]:
    left = Counter[str]()
    there = np.fromiter(published, np.int64, len(published))
    for plan in job.rounds():
        if not job.is_finished(plan):
            modalities, numbers = planned_modalities(job.store, plan)
            is_left = ~np.isin(np.arange(plan.first_shard, plan.first_shard + plan.shards), there)
            for number, modality in enumerate(modalities):
                queue = queue_name(modality, job.record.spec.size, job.record.spec.kind)
                left[queue] += int(np.count_nonzero(is_left & (numbers == number)))
    return left


def _unserved(queue: QueueStatus, status: JobStatus) -> str:
    size = queue.queue.rpartition(".")[2]
    device = "a processor" if size == CPU else f"a GPU of {GIB[size]} GiB or more"
    return (
        f"{counted(queue.shards_left, 'shard waits', 'shards wait')} for {queue.queue}, which no live worker serves: "
        f"{status.model} needs {device}; start one there with `embedmill worker`"
    )


def _look_at_board(status: JobStatus, board: Board) -> None:
    try:
        workers = board.workers()
        for queue in status.queues:
            queue.waiting = board.depth(queue.queue)
            queue.workers = sum(1 for worker in workers if queue.queue in worker.queues)
            if not queue.workers:
                status.notes.append(_unserved(queue, status))
    except BrokerError as err:
        status.notes.append(str(err))
