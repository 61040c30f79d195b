"""Care: a shard's rows embedded so that one that kills its process costs itself, and no more than three processes."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import redis

from schemas.failures import Failure, FailureCode
from schemas.settings import Settings
from workers.breadcrumb import Breadcrumb, NoTrail, ShardTrail, Trail
from workers.embedding import Embedded, as_equal
from workers.equal_rows import first_of_equals
from workers.isolation import AloneTask
from workers.planned_work import Row, work_on
from workers.suspects import MemorySuspects, SuspectBoard

if TYPE_CHECKING:
    from workers.runtime import OpenJob

logger = logging.getLogger(__name__)

#: Deaths of which no breadcrumb tells (whole machines went, or were taken), after which each row is a suspect.
UNEXPLAINED_DEATHS = 5
_OF_THE_PROCESS = frozenset({FailureCode.PROCESS_CRASHED, FailureCode.PROCESS_TIMEOUT, FailureCode.PROCESS_MEMORY})

Outcome = Embedded | Failure
#: Rows tried alone, each in its turn, in a process of their own.
Alone = Callable[[AloneTask, Callable[[], bool]], Iterator[tuple[int, Outcome]]]


def _nobody(task: AloneTask, should_stop: Callable[[], bool]) -> Iterator[tuple[int, Outcome]]:
    raise NotImplementedError("no process was given to try rows alone in")


@dataclass(slots=True)
class Care:
    """What a worker knows of rows that kill, and how it tries them."""

    suspects: SuspectBoard = field(default_factory=MemorySuspects)
    crumb: Breadcrumb | None = None
    alone: Alone = _nobody

    def embed(
        self,
        job: "OpenJob",
        task: AloneTask,
        rows: Sequence[Row],
        *,
        deaths: int,
        settings: Settings,
        should_stop: Callable[[], bool],
    ) -> list[Outcome]:
        """The outcome of each row: suspects are tried alone first, the others embedded as usual.

        `task` names the shard, `deaths` how many processes died in its middle.
        """
        first = first_of_equals(rows)  # of each row; what is said of one is said of all that equal it
        outcomes = self._of_suspects(task, first, deaths, should_stop)
        rest = [at for at in sorted(set(first)) if at not in outcomes]
        found = work_on(job, [rows[at] for at in rest], settings, should_stop, self._trail_of(task, rest))
        outcomes |= zip(rest, found, strict=True)
        return [outcomes[one] if one == at else as_equal(outcomes[one]) for at, one in enumerate(first)]

    def _of_suspects(
        self, task: AloneTask, first: Sequence[int], deaths: int, should_stop: Callable[[], bool]
    ) -> dict[int, Outcome]:
        suspects: set[int] = set()
        outcomes: dict[int, Outcome] = {}
        with contextlib.suppress(redis.RedisError):  # a hint: without it one more process may die
            suspects = {first[row] for row in self.suspects.suspects(task.job, task.shard) if row < len(first)}
            condemned = self.suspects.condemned(task.job, task.shard)
            outcomes |= {first[row]: failure for row, failure in condemned.items() if row < len(first)}
        if not suspects and deaths >= UNEXPLAINED_DEATHS:
            suspects = set(first)
        alone = replace(task, rows=tuple(sorted(suspects - set(outcomes))))
        if alone.rows:
            fields = {"event": "rows_alone", "shard": task.shard, "rows": len(alone.rows)}
            logger.info("rows in whose middle a process died are tried alone", extra=fields)
            for row, outcome in self.alone(alone, should_stop):
                outcomes[row] = outcome
                self._remember(task, row, outcome)
        return outcomes

    def _remember(self, task: AloneTask, row: int, outcome: Outcome) -> None:
        if isinstance(outcome, Failure) and outcome.code in _OF_THE_PROCESS:
            with contextlib.suppress(redis.RedisError):  # the next attempt would try it again
                self.suspects.condemn(task.job, task.shard, row, outcome)

    def _trail_of(self, task: AloneTask, rest: Sequence[int]) -> Callable[[Sequence[int]], Trail]:
        crumb = self.crumb
        if crumb is None:
            return lambda owners: NoTrail()
        suspect = partial(self._suspect, task)
        return lambda owners: ShardTrail(crumb, task.job, task.shard, [rest[at] for at in owners], suspect)

    def _suspect(self, task: AloneTask, rows: Sequence[int]) -> None:
        with contextlib.suppress(redis.RedisError):  # a hint: without it one more process may fail
            self.suspects.suspect(task.job, task.shard, rows)
