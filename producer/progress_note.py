"""The progress note: what a coordinator last saw of a job with very many shards, in the store, for `status` to read."""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from producer.coordinator import Coordinator, Progress
from schemas.errors import StoreError
from schemas.parsed_json import parsed_json
from storage import layout
from storage.jobs import Job

#: Jobs of fewer shards have none: looking into each of them takes no time.
MANY_SHARDS = 5_000
#: Seconds between two of them.
_EVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressNote:
    """Where the first round of a job stood."""

    at: float  # seconds since 1970
    published: int  # shards
    rows_done: int  # failures too
    failed: int  # rows
    left: dict[str, int]  # shards that are not published, by queue


class NoteWriter:
    """Writes notes of one job, now and then."""

    def __init__(self, job: Job, *, many: int = MANY_SHARDS, now: Callable[[], float] = time.time) -> None:
        self._job, self._now, self._at = job, now, 0.0
        self._is_wanted = job.record.plan.shards >= many and not job.is_finished(job.record.plan)

    def write(self, coordinator: Coordinator, progress: Progress) -> None:
        """Note `progress`, unless that was done just now; a store that fails is tried again at the next."""
        if not self._is_wanted or (self._now() - self._at < _EVERY_S and not progress.done):
            return
        self._at = self._now()
        note = ProgressNote(
            at=self._at,
            published=progress.published,
            rows_done=progress.rows_done,
            failed=progress.failed,
            left=coordinator.left(),
        )
        with contextlib.suppress(StoreError):
            self._job.store.replace(layout.PROGRESS, json.dumps(asdict(note)).encode() + b"\n")


def read_note(job: Job) -> ProgressNote | None:
    """The last note; None where there is none."""
    if job.store.size(layout.PROGRESS) is None:
        return None
    try:
        told = parsed_json(job.store.get(layout.PROGRESS))
        return ProgressNote(
            at=float(told["at"]),
            published=int(told["published"]),
            rows_done=int(told["rows_done"]),
            failed=int(told["failed"]),
            left={str(queue): int(shards) for queue, shards in told["left"].items()},
        )
    except (ValueError, LookupError, TypeError, AttributeError, StoreError):  # it is a hint
        return None
