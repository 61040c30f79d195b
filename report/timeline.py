"""The timeline: how many rows a second were done when, by what the published shards say of their workers' time."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from report.words import lasting
from schemas.shard import Footer
from schemas.spent import Step

_BINS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Rates in equal intervals of time."""

    began_at: float  # seconds since 1970
    seconds: float  # from the first shard's begin to the last one's end
    rates: dict[str, np.ndarray]  # rows a second in each interval, by modality
    workers: np.ndarray  # at work on average in each interval

    @property
    def step(self) -> float:
        return self.seconds / _BINS

    @property
    def middles(self) -> list[float]:
        """Of the intervals, in seconds from the begin."""
        return [(n + 0.5) * self.step for n in range(_BINS)]

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        return [(self.seconds * n / count, lasting(self.seconds * n / count)) for n in range(count + 1)]


def timeline_of(footers: Iterable[Footer], *, scale: float = 1.0) -> Timeline | None:
    """The timeline of these shards, their rows times `scale`; None where nothing was measured."""
    parts = [(f, f.spent.began_at, f.spent.of(Step.WALL)) for f in footers if f.spent.began_at > 0]
    parts = [(footer, began, wall) for footer, began, wall in parts if wall > 0]
    if not parts:
        return None
    begin, end = min(began for _, began, _ in parts), max(began + wall for _, began, wall in parts)
    step = max(end - begin, 1e-3) / _BINS
    rates: dict[str, np.ndarray] = {}
    workers = np.zeros(_BINS)
    edges = begin + step * np.arange(_BINS + 1)
    for footer, began, wall in parts:
        inside = np.clip(np.minimum(edges[1:], began + wall) - np.maximum(edges[:-1], began), 0, None)
        rows = rates.setdefault(footer.modality, np.zeros(_BINS))
        rows += scale * footer.rows_planned * inside / wall / step
        workers += scale * inside / step
    return Timeline(began_at=begin, seconds=_BINS * step, rates=dict(sorted(rates.items())), workers=workers)
