"""A look at the fleet: jobs, queues and workers of one moment, with rates and stalls from the looks before."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from producer.board import Board
from producer.outcomes import PublishedFile, published_files
from producer.screen import Words
from producer.status import JobState, JobStatus, job_status
from schemas.counted import counted
from schemas.errors import BrokerError, EmbedmillError
from schemas.presence import WorkerPresence
from storage.jobs import Job

#: Seconds without a new outcome after which a job that has workers stands still: many times what a shard takes.
STALL_S = 120.0
#: Seconds that a rate is taken over.
_RATE_S = 60.0
_UNDER_WAY = (JobState.PLANNED, JobState.UNFINISHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLook:
    """One job."""

    status: JobStatus
    words: Words
    rate: float | None  # rows a second; None before it is known
    idle_s: float  # since the last new outcome that was seen

    @property
    def done(self) -> int:
        return self.status.rows_ok + self.status.failed

    @property
    def eta_s(self) -> float | None:
        return self.status.left / self.rate if self.rate else None

    @property
    def is_under_way(self) -> bool:
        return self.status.state in _UNDER_WAY

    @property
    def stall(self) -> str:
        """Why it stands still, or ""."""
        if not self.is_under_way or self.idle_s < STALL_S:
            return ""
        workers = max((queue.workers or 0 for queue in self.status.queues), default=0)
        known = any(queue.workers is not None for queue in self.status.queues)
        whose = f"with {counted(workers, 'worker')}" if workers else "and no worker serves it" if known else ""
        return f"nothing new for {self.idle_s:.0f} s {whose}".rstrip()


class Standing(Protocol):
    """How far a join or a dedup is."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def finished(self) -> bool: ...

    @property
    def panels(self) -> int | None: ...  # None: not known yet

    @property
    def panels_done(self) -> int: ...

    @property
    def prepared(self) -> int: ...  # objects of what comes before the panels

    @property
    def pairs(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLook:
    """One join or dedup."""

    standing: Standing
    idle_s: float  # since the last new object that was seen

    @property
    def stall(self) -> str:
        """That it stands still, or ""."""
        if self.standing.finished or self.idle_s < STALL_S:
            return ""
        return f"nothing new for {self.idle_s:.0f} s; the command that began it goes on with it"

    @property
    def words(self) -> str:
        """How far it is, in one line."""
        seen = self.standing
        if seen.panels is None and not seen.panels_done:
            return f"{counted(seen.prepared, 'object')} of what comes before its panels"
        of = "" if seen.panels is None else f" of {seen.panels:,}"
        panels = "panel" if (seen.panels or seen.panels_done) == 1 else "panels"
        return f"{seen.panels_done:,}{of} {panels}, {counted(seen.pairs, 'pair')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLook:
    """One queue, of all jobs that were looked at."""

    name: str
    left: int  # shards
    waiting: int | None  # messages; None where Redis is not looked at
    workers: int | None

    @property
    def is_unserved(self) -> bool:
        return self.workers == 0 and self.left > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLook:
    """What there is at one moment."""

    jobs: list[JobLook]
    queues: list[QueueLook]
    workers: list[WorkerPresence]
    models: dict[str, str]  # names by digest, of these jobs
    answers: list[AnswerLook] = field(default_factory=list)
    problem: str = ""  # why Redis is not seen

    @property
    def is_over(self) -> bool:
        """Whether no job, join or dedup is under way."""
        return not any(job.is_under_way for job in self.jobs) and all(a.standing.finished for a in self.answers)


@dataclass(slots=True)
class _Followed:
    job: Job
    files: dict[str, PublishedFile] = field(default_factory=dict)  # a published file never changes
    seen: deque[tuple[float, int]] = field(default_factory=deque)  # when how many rows had an outcome
    moved_at: float = 0.0


@dataclass(slots=True)
class _Answer:
    look: Callable[[], Standing]
    seen: tuple[int, int] | None = None  # panels and objects before them
    moved_at: float = 0.0


class FleetWatch:
    """Looks again and again; what it remembers makes each look cheap, and tells rates."""

    def __init__(
        self,
        jobs: Iterable[Job],
        board: Board | None = None,
        *,
        answers: Iterable[Callable[[], Standing]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`answers` look at joins and dedups, which have neither rows nor a queue of their own."""
        self._followed = [_Followed(job) for job in jobs]
        self._answers = [_Answer(look) for look in answers]
        self._board, self._clock = board, clock

    @property
    def jobs(self) -> list[Job]:
        return [followed.job for followed in self._followed]

    def add(self, job: Job) -> None:
        """Follow one more."""
        self._followed.append(_Followed(job))

    def look(self) -> FleetLook:
        """Raises StoreError where a job cannot be read."""
        looks = [self._job(followed) for followed in self._followed]
        workers, problem = self._workers()
        return FleetLook(
            jobs=looks,
            queues=_queues(looks),
            workers=workers,
            models={job.record.spec.model_digest: job.record.spec.model for job in self.jobs},
            problem=problem,
            answers=[self._answer(answer) for answer in self._answers],
        )

    def _answer(self, answer: _Answer) -> AnswerLook:
        standing, now = answer.look(), self._clock()
        seen = (standing.panels_done, standing.prepared)
        if answer.seen != seen:
            answer.seen, answer.moved_at = seen, now
        return AnswerLook(standing=standing, idle_s=now - answer.moved_at)

    def _job(self, followed: _Followed) -> JobLook:
        status = job_status(followed.job, self._board, files=lambda job: _known_files(job, followed.files))
        now, done = self._clock(), status.rows_ok + status.failed
        if not followed.seen or followed.seen[-1][1] != done:
            followed.moved_at = now
        followed.seen.append((now, done))
        while len(followed.seen) > 2 and now - followed.seen[1][0] > _RATE_S:
            followed.seen.popleft()
        return JobLook(
            status=status,
            words=Words.of(status.kind),
            rate=_rate(followed.seen),
            idle_s=now - followed.moved_at,
        )

    def _workers(self) -> tuple[list[WorkerPresence], str]:
        if self._board is None:
            return [], ""
        try:
            return self._board.workers(), ""
        except BrokerError as err:
            return [], str(err)


def _known_files(job: Job, known: dict[str, PublishedFile]) -> list[PublishedFile]:
    known |= {file.key: file for file in published_files(job, known=known)}
    return sorted(known.values(), key=lambda file: file.footer.shard)


def _rate(seen: Sequence[tuple[float, int]]) -> float | None:
    (first, before), (last, after) = seen[0], seen[-1]
    return (after - before) / (last - first) if last > first and after > before else None


def _queues(looks: Iterable[JobLook]) -> list[QueueLook]:
    found: dict[str, QueueLook] = {}
    for queue in (queue for look in looks for queue in look.status.queues):
        earlier = found.get(queue.queue)
        found[queue.queue] = QueueLook(
            name=queue.queue,
            left=queue.shards_left + (earlier.left if earlier else 0),
            waiting=queue.waiting,
            workers=queue.workers,
        )
    return [found[name] for name in sorted(found)]


def submitted_jobs(board: Board, open_at: Callable[[str], Job], known: Iterable[Job]) -> list[Job]:
    """The jobs that were submitted on this Redis, and are not known yet; those that cannot be read are passed over."""
    places, found = {job.store.url for job in known}, []
    for location in sorted(board.submitted().values()):
        try:
            job = open_at(location)
        except EmbedmillError:  # its coordinator complains of it
            continue
        if job.store.url not in places:
            found.append(job)
    return found
