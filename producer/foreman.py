"""The foreman: one coordinator process that drives every submitted job it finds."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from producer.board import Board
from producer.coordinator import Coordinator, Progress
from producer.error_limit import ErrorLimit
from producer.finish import finish_job
from producer.progress_note import NoteWriter
from producer.spending import SpendLimit, spending_of
from producer.tally import Tally
from producer.task_queue import TaskQueue
from producer.turns import Turns
from producer.work import JobWork
from schemas.errors import EmbedmillError, Refused, Stopped
from schemas.redaction import redact
from storage import layout
from storage.jobs import Job, find_job, write_stopped
from storage.store import canonical_location, open_store, require_within

logger = logging.getLogger(__name__)

#: Seconds between two looks for submitted jobs in the store itself.
_LOOK_EVERY_S = 30.0


class Foreman:
    """Finds submitted jobs on the board and below its roots, and drives them side by side."""

    def __init__(
        self,
        roots: tuple[str, ...],
        *,
        board: Board,
        queue: TaskQueue,
        say: Callable[[str], None],
        ended: Callable[[Job], None] | None = None,
    ) -> None:
        """`ended` is told of each job that has ended, or was stopped; it must return at once."""
        self._ended = ended or (lambda job: None)
        self._roots, self._board, self._queue, self._say = roots, board, queue, say
        self._clock, self._looked_at = time.monotonic, -1e9
        self._turns = Turns()
        self._driven: dict[str, tuple[Job, Coordinator]] = {}
        self._notes: dict[str, NoteWriter] = {}
        self.progress: dict[str, Progress] = {}  # of each job at the last tick
        self.finished = self.stopped = 0  # jobs
        self._refused: set[str] = set()
        self._complaints: dict[str, str] = {}

    def tick(self) -> dict[str, Progress]:
        """Take up new jobs, then do one tick of each; finished and stopped jobs leave."""
        for location in self._locations():
            self._take_up(location)
        progress: dict[str, Progress] = {}
        for job_id, (job, coordinator) in list(self._driven.items()):
            try:
                progress[job_id] = coordinator.tick()
                self._notes[job_id].write(coordinator, progress[job_id])
                if progress[job_id].done:
                    self._finish(job, coordinator)
            except EmbedmillError as err:
                if isinstance(err, Stopped):
                    self.stopped += 1
                    with _tolerated(job.store.url):
                        write_stopped(job, str(err))
                    self._ended(job)
                self._leave(job, coordinator, str(err), for_good=isinstance(err, Stopped))
        self.progress = progress
        return progress

    @property
    def tallies(self) -> dict[str, Tally]:
        """What the coordinator of each job counted."""
        return {job_id: coordinator.tally for job_id, (_, coordinator) in list(self._driven.items())}

    def release(self) -> None:
        """Let another coordinator take over at once."""
        for _, coordinator in self._driven.values():
            coordinator.release()

    def _locations(self) -> list[str]:
        """Where submitted jobs lie: Redis may have forgotten them, the store has not."""
        found: list[str] = []
        with _tolerated("the board"):
            found += self._board.submitted().values()
        if self._clock() - self._looked_at > _LOOK_EVERY_S:
            self._looked_at = self._clock()
            for root in self._roots:
                with _tolerated(root):
                    found += _jobs_below(root)
        return found

    def _take_up(self, location: str) -> None:
        if location in self._refused:
            return
        try:
            place = canonical_location(location)
            if any(job.store.url == place for job, _ in self._driven.values()):
                return
            require_within(place, self._roots, what="the job's folder")
            job = find_job(open_store(place))
            if job is None or job.is_cancelled() or job.has_ended():
                return
            told, notes = job.store.get(layout.SUBMITTED), NoteWriter(job)
            coordinator = Coordinator(
                JobWork(job),
                board=self._board,
                queue=self._queue,
                turns=self._turns,
                limit=ErrorLimit.from_json(told),
                spending=spending_of(job, SpendLimit.from_json(told)),
            )
        except (EmbedmillError, ValueError) as err:
            self._complain(location, str(err), for_good=isinstance(err, Refused | ValueError))
            return
        self._complaints.pop(location, None)
        self._say(f"{job.id}: taken up")
        self._driven[job.id], self._notes[job.id] = (job, coordinator), notes

    def _complain(self, location: str, why: str, *, for_good: bool) -> None:
        """Say once what keeps a job from being driven; what may pass is tried again."""
        if for_good:
            self._refused.add(location)
        if self._complaints.get(location) != why:
            self._complaints[location] = why
            self._say(f"{redact(location)}: {why}")

    def _finish(self, job: Job, coordinator: Coordinator) -> None:
        finish_job(job)
        self.finished += 1
        self._leave(job, coordinator, "finished", for_good=True)
        self._ended(job)

    def _leave(self, job: Job, coordinator: Coordinator, why: str, *, for_good: bool) -> None:
        self._driven.pop(job.id, None)
        self._notes.pop(job.id, None)
        coordinator.release()
        self._complain(job.store.url, f"{job.id}: {why}", for_good=False)
        if for_good:
            with _tolerated(job.store.url):
                if not job.is_cancelled():  # else `cancel` did so, and a new `submit` may have come since
                    job.store.delete(layout.SUBMITTED)
                    self._board.strike_off(job.id)
                    self._board.withdraw(job.id)


@contextlib.contextmanager
def _tolerated(what: str) -> Iterator[None]:
    """What one job or one place has, no other job pays for."""
    try:
        yield
    except EmbedmillError as err:
        logger.warning("%s: %s", redact(what), err)


def _jobs_below(root: str) -> list[str]:
    """Folders at `root` or right below it that hold a submitted job."""
    store = open_store(root)
    folders = [""] + [f"{name}/" for name in store.folders()]
    return [
        f"{store.url}/{folder}".rstrip("/")
        for folder in folders
        if store.size(f"{folder}{layout.SUBMITTED}") is not None
    ]
