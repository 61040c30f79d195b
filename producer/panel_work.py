"""Panel work: one round of a join or dedup, as a coordinator drives it."""

from collections.abc import Container, Iterator

import numpy as np

from producer.work import Cut
from schemas.errors import Stopped
from schemas.queues import JOIN_TASK
from storage import layout
from storage.phases import Comparison, Phase, plan_digest


class PanelWork:
    """The panels of `phases`, whose steps are numbered from `first` on; more pairs than `max_pairs` stop it."""

    def __init__(self, comparison: Comparison, phases: list[Phase], *, first: int, size: str, max_pairs: int) -> None:
        self._comparison, self._phases, self._first = comparison, phases, first
        self._size, self._max_pairs = size, max_pairs
        self._pairs: dict[int, int] = {}  # by published step

    @property
    def id(self) -> str:
        return self._comparison.record.id

    @property
    def location(self) -> str:
        return self._comparison.store.url

    @property
    def size(self) -> str:
        return self._size

    @property
    def model_digest(self) -> str:
        """None is needed: joins never wait for one another."""
        return ""

    def cuts(self) -> list[Cut]:
        rows = np.array([rows for phase in self._phases for rows in phase.rows], np.int64)
        return [Cut(digest=plan_digest(self._comparison), first=self._first, rows=rows, tasks=(JOIN_TASK,))]

    def published(self) -> set[int]:
        """The steps whose objects are there; raises Stopped where they have too many pairs."""
        there = {item.key for prefix in (layout.STAGE, layout.DATA) for item in self._comparison.store.walk(prefix)}
        found = set()
        for step, phase, panel in self._steps():
            if phase.key(panel) in there:
                found.add(step)
                if step not in self._pairs:
                    self._pairs[step] = phase.pairs(panel)
        if sum(self._pairs.values()) > self._max_pairs:
            raise Stopped(
                f"stopped: more than {self._max_pairs:,} pairs; allow more with --max-pairs, "
                "or ask for fewer with --top-k or a higher threshold, in another --out"
            )
        return found

    def failed_rows(self, shards: Container[int]) -> dict[int, int]:
        """No row of a join fails."""
        return {}

    def is_cancelled(self) -> bool:
        """The command that drives it is all there is to end."""
        return False

    def _steps(self) -> Iterator[tuple[int, Phase, int]]:
        step = self._first
        for phase in self._phases:
            for panel in range(len(phase)):
                yield step, phase, panel
                step += 1
