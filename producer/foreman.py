"""The foreman: one coordinator process that drives every submitted job it finds."""

import logging
import time
from collections.abc import Callable

from producer.board import Board
from producer.coordinator import Coordinator, Progress
from producer.finish import finish_job
from producer.task_queue import TaskQueue
from schemas.errors import BrokerError, EmbedmillError, Stopped
from storage import layout
from storage.jobs import Job, find_job
from storage.store import canonical_location, open_store, require_within

logger = logging.getLogger(__name__)

#: Seconds between two looks for submitted jobs in the store itself.
_LOOK_EVERY_S = 30.0


class Foreman:
    """Finds submitted jobs on the board and below its roots, and drives them side by side."""

    def __init__(self, roots: tuple[str, ...], *, board: Board, queue: TaskQueue, say: Callable[[str], None]) -> None:
        self._roots, self._board, self._queue, self._say = roots, board, queue, say
        self._clock, self._looked_at = time.monotonic, -1e9
        self._driven: dict[str, tuple[Job, Coordinator]] = {}
        self._refused: set[str] = set()

    def tick(self) -> dict[str, Progress]:
        """Take up new jobs, then do one tick of each; finished and stopped jobs leave."""
        for location in self._locations():
            self._take_up(location)
        progress: dict[str, Progress] = {}
        for job_id, (job, coordinator) in list(self._driven.items()):
            try:
                progress[job_id] = coordinator.tick()
                if progress[job_id].done:
                    self._finish(job, coordinator)
            except EmbedmillError as err:
                self._leave(job, coordinator, str(err), for_good=isinstance(err, Stopped))
        return progress

    def release(self) -> None:
        """Let another coordinator take over at once."""
        for _, coordinator in self._driven.values():
            coordinator.release()

    def _locations(self) -> list[str]:
        """Where submitted jobs lie: Redis may have forgotten them, the store has not."""
        found: list[str] = []
        try:
            found += self._board.submitted().values()
        except BrokerError as err:
            logger.warning("%s", err)
        if self._clock() - self._looked_at > _LOOK_EVERY_S:
            self._looked_at = self._clock()
            for root in self._roots:
                found += _jobs_below(root)
        return found

    def _take_up(self, location: str) -> None:
        place = canonical_location(location)
        if place in self._refused or any(job.store.url == place for job, _ in self._driven.values()):
            return
        try:
            require_within(place, self._roots, what="the job's folder")
            job = find_job(open_store(place))
        except EmbedmillError as err:
            self._refused.add(place)
            self._say(f"{place}: {err}")
            return
        if job is None or job.is_cancelled() or all(job.is_finished(plan) for plan in job.rounds()):
            return
        self._say(f"{job.id}: taken up")
        self._driven[job.id] = (job, Coordinator(job, board=self._board, queue=self._queue))

    def _finish(self, job: Job, coordinator: Coordinator) -> None:
        finish_job(job)
        self._leave(job, coordinator, "finished", for_good=True)

    def _leave(self, job: Job, coordinator: Coordinator, why: str, *, for_good: bool) -> None:
        self._say(f"{job.id}: {why}")
        del self._driven[job.id]
        coordinator.release()
        if for_good:
            job.store.delete(layout.SUBMITTED)
            try:
                self._board.strike_off(job.id)
            except BrokerError as err:
                logger.warning("%s", err)


def _jobs_below(root: str) -> list[str]:
    """Folders at `root` or right below it that hold a submitted job."""
    store = open_store(root)
    folders = [""] + [f"{name}/" for name in store.folders()]
    return [
        f"{store.url}/{folder}".rstrip("/")
        for folder in folders
        if store.size(f"{folder}{layout.SUBMITTED}") is not None
    ]
