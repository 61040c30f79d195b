"""Driving: the loop that takes a job to its end, on this machine's own workers or on others'."""

import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from producer.board import Board
from producer.coordinator import Coordinator, Progress
from producer.error_limit import ErrorLimit
from producer.finish import finish_job
from producer.progress_note import NoteWriter
from producer.screen import Screen
from producer.spending import Spending, SpendLimit, spending_of
from producer.task_queue import TaskQueue
from producer.work import JobWork, Work
from schemas.errors import BrokerError, LimitReached, Stopped
from storage.jobs import Job, write_stopped

TICK_S = 0.5
#: Workers of this machine that die so often, while nothing gets published, are not going to.
_MAX_DEATHS = 8


class Crew(Protocol):
    """Workers that live and die with this process."""

    @property
    def deaths(self) -> int: ...

    @property
    def size(self) -> int: ...

    def watch(self) -> None: ...


class Watched(Protocol):
    """A server that is started again when it died."""

    def watch(self) -> bool: ...


def drive(
    job: Job,
    *,
    board: Board,
    queue: TaskQueue,
    screen: Screen,
    crew: Crew | None = None,
    broker: Watched | None = None,
    limit: ErrorLimit | None = None,
    spend: SpendLimit | None = None,
) -> None:
    """Run the job's unfinished rounds to their end, and write what stands there.

    Raises Stopped for a job that cannot go on, LimitReached for one that may not, Interrupted when the user wants no
    more.
    """
    spending = spending_of(job, spend or SpendLimit())
    work = JobWork(job)
    try:
        drive_work(
            work,
            board=board,
            queue=queue,
            screen=screen,
            crew=crew,
            broker=broker,
            limit=limit,
            spending=spending,
            notes=NoteWriter(job),
        )
    except LimitReached as err:
        write_stopped(job, str(err))
        raise
    finish_job(job)


def drive_work(
    work: Work,
    *,
    board: Board,
    queue: TaskQueue,
    screen: Screen,
    crew: Crew | None = None,
    broker: Watched | None = None,
    limit: ErrorLimit | None = None,
    spending: Spending | None = None,
    notes: NoteWriter | None = None,
) -> None:
    """Have all of `work` published; raises like `drive`."""
    with contextlib.suppress(BrokerError):  # a stale mark would only make the workers wait
        board.uncancel(work.id)
    coordinator = Coordinator(work, board=board, queue=queue, limit=limit, spending=spending)
    try:
        _loop(coordinator, screen, crew, broker, notes)
    except Stopped:
        with contextlib.suppress(BrokerError):  # it may be what stopped us
            board.withdraw(work.id)
        raise
    finally:
        coordinator.release()


def _loop(
    coordinator: Coordinator, screen: Screen, crew: Crew | None, broker: Watched | None, notes: NoteWriter | None
) -> None:
    deaths = _DeathCount(crew)
    while True:
        if broker is not None and broker.watch():
            screen.say("the Redis server had died; it was started again, empty, and the job goes on")
        if crew is not None:
            crew.watch()
        progress = coordinator.tick()
        screen.show(progress)
        if notes is not None:
            notes.write(coordinator, progress)
        if progress.done:
            return
        deaths.check(progress)
        time.sleep(TICK_S)


class _DeathCount:
    """Gives up on workers that only die."""

    def __init__(self, crew: Crew | None) -> None:
        self._crew, self._published, self._at = crew, -1, 0

    def check(self, progress: Progress) -> None:
        if self._crew is None:
            return
        if progress.published != self._published:
            self._published, self._at = progress.published, self._crew.deaths
        if self._crew.deaths - self._at > _MAX_DEATHS * max(1, self._crew.size):
            raise Stopped("stopped: the workers die again and again, and nothing gets published; see their log")


def wait_until(condition: Callable[[], bool], *, timeout_s: float, pause_s: float = 0.2) -> bool:
    """True as soon as `condition` holds, False when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)
    return True
