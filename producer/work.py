"""Work: what a coordinator drives, be it a job's shards or a join's panels."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from schemas.queues import task_name
from storage import layout
from storage.jobs import Job
from storage.plans import PlanReader
from storage.shards import published_numbers, read_footer
from storage.store import keys_below


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Shards that were cut together, numbered from `first` on."""

    digest: str  # of the plan, as messages and reports name it
    first: int
    rows: np.ndarray  # int64 (shards,)
    is_retry: bool = False
    tasks: tuple[str, ...]  # of its shards, `embed.text` for one
    task_numbers: np.ndarray | None = None  # (shards,), each one's place among `tasks`; None: all are of the first

    def __len__(self) -> int:
        return len(self.rows)

    def shards(self) -> range:
        return range(self.first, self.first + len(self.rows))

    def task_of(self, shard: int) -> str:
        return self.tasks[0 if self.task_numbers is None else int(self.task_numbers[shard - self.first])]

    def by_task(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each task with its shards, int64 and sorted."""
        numbers = np.zeros(len(self), np.int8) if self.task_numbers is None else self.task_numbers
        for number, task in enumerate(self.tasks):
            yield task, np.flatnonzero(numbers == number) + self.first


class Work(Protocol):
    """Shards to be published, and where they are looked for; raises StoreError where the store cannot be read."""

    @property
    def id(self) -> str: ...

    @property
    def location(self) -> str: ...

    @property
    def size(self) -> str:
        """The class of device that its queues are for."""

    @property
    def model_digest(self) -> str: ...

    def cuts(self) -> Sequence[Cut]:
        """What is not finished."""

    def published(self) -> Iterable[int]:
        """The shards that are there."""

    def failed_rows(self, shards: Container[int]) -> dict[int, int]:
        """By published shard: how many of its rows failed, where any did."""

    def is_cancelled(self) -> bool: ...


class JobWork:
    """The unfinished rounds of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._plans = [job.reader(plan) for plan in job.rounds() if not job.is_finished(plan)]

    @property
    def id(self) -> str:
        return self._job.id

    @property
    def location(self) -> str:
        return self._job.store.url

    @property
    def size(self) -> str:
        return self._job.record.spec.size

    @property
    def model_digest(self) -> str:
        return self._job.record.spec.model_digest

    def cuts(self) -> list[Cut]:
        return [self._cut(plan) for plan in self._plans]

    def published(self) -> Iterable[int]:
        return published_numbers(self._job.store)

    def failed_rows(self, shards: Container[int]) -> dict[int, int]:
        attempts = map(layout.attempt_of, keys_below(self._job.store, layout.FAILURES))
        told = {}
        for shard in {attempt[0] for attempt in attempts if attempt is not None and attempt[0] in shards}:
            plan = next(plan for plan in self._plans if shard in plan.shards())
            told[shard] = read_footer(self._job.store, plan.modality(shard), shard).rows_failed
        return told

    def is_cancelled(self) -> bool:
        return self._job.is_cancelled()

    def _cut(self, plan: PlanReader) -> Cut:
        kind = self._job.record.spec.kind
        modalities, numbers = plan.modalities()
        return Cut(
            digest=plan.plan.digest,
            first=plan.plan.first_shard,
            rows=plan.rows,
            is_retry=plan.plan.round > 0,
            tasks=tuple(task_name(modality, kind) for modality in modalities),
            task_numbers=numbers,
        )
