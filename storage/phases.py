"""Phases: a comparison of many rows as panels that many machines may compute, each panel once."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from storage.store import Store


@dataclass(frozen=True, slots=True)
class Phase:
    """Panels that need nothing of each other; whose object is in the store is done."""

    name: str
    rows: Sequence[int]  # of each panel
    key: Callable[[int], str]  # the object of a panel
    do: Callable[[int], int]  # compute a panel and create its object, unless it is there; returns its pairs
    pairs: Callable[[int], int] = lambda panel: 0  # of a panel that is done

    def __len__(self) -> int:
        return len(self.rows)


class Record(Protocol):
    """What pins a join or a dedup."""

    @property
    def id(self) -> str: ...

    def to_json(self) -> bytes: ...


class Comparison(Protocol):
    """A join or a dedup, cut into panels."""

    @property
    def record(self) -> Record: ...

    @property
    def store(self) -> Store: ...

    def rounds(self) -> Iterator[list[Phase]]:
        """Phases that may run side by side; those of the next round need all of the round before."""


def plan_digest(comparison: Comparison) -> str:
    """The sha256 of its record: what a message calls its plan."""
    return hashlib.sha256(comparison.record.to_json()).hexdigest()


def step(comparison: Comparison, number: int) -> tuple[Phase, int]:
    """The phase and the panel of a step; steps are numbered through all rounds, as they come.

    Raises LookupError where there is none. What a round needs of the one before must be there.
    """
    first = 0
    for phases in comparison.rounds():
        for phase in phases:
            if number < first + len(phase):
                return phase, number - first
            first += len(phase)
    raise LookupError(f"{comparison.record.id} has no step {number}")


def panels_of(rows: int, panel_rows: int) -> list[int]:
    """The rows of each panel."""
    return [min(panel_rows, rows - first) for first in range(0, rows, panel_rows)]
