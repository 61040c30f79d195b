"""Work: what a coordinator drives, be it a job's shards or a join's panels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from schemas.queues import task_name
from storage import layout
from storage.jobs import Job
from storage.plans import PlanReader
from storage.shards import published_shards, read_footer


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Shards that were cut together, numbered from `first` on."""

    digest: str  # of the plan, as messages and reports name it
    first: int
    rows: np.ndarray  # int64 (shards,)
    is_retry: bool = False
    task_of: Callable[[int], str]  # the task of a shard, `embed.text` for one

    def __len__(self) -> int:
        return len(self.rows)

    def shards(self) -> range:
        return range(self.first, self.first + len(self.rows))


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

    def published(self) -> set[int]:
        """The shards that are there."""

    def failed_rows(self, shards: set[int]) -> dict[int, int]:
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

    def published(self) -> set[int]:
        return {shard for shard, _, _ in published_shards(self._job.store)}

    def failed_rows(self, shards: set[int]) -> dict[int, int]:
        attempts = (layout.attempt_of(item.key) for item in self._job.store.walk(layout.FAILURES))
        told = {}
        for shard in shards & {attempt[0] for attempt in attempts if attempt is not None}:
            plan = next(plan for plan in self._plans if shard in plan.shards())
            told[shard] = read_footer(self._job.store, plan.modality(shard), shard).rows_failed
        return told

    def is_cancelled(self) -> bool:
        return self._job.is_cancelled()

    def _cut(self, plan: PlanReader) -> Cut:
        kind = self._job.record.spec.kind
        return Cut(
            digest=plan.plan.digest,
            first=plan.plan.first_shard,
            rows=plan.rows,
            is_retry=plan.plan.round > 0,
            task_of=lambda shard: task_name(plan.modality(shard), kind),
        )
