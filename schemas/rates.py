"""Rates: how long a model takes for an item on a device of a size, and how that is known."""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from schemas.rows import Modality


class Source(StrEnum):
    """How rates are known; the better, the later."""

    GUESS = "guess"  # from the model's parameters: nothing was measured
    BENCH = "bench"  # `embedmill bench`
    JOB = "job"  # a finished job of the model


#: What the truth was within, as shares of an estimate.
BANDS = {Source.GUESS: (0.25, 4.0), Source.BENCH: (0.7, 1.5), Source.JOB: (0.8, 1.3)}

#: How much faster than one core a device is, guessed.
_GUESSED_SPEED = {"cpu": 1.0, "gpu8": 30.0, "gpu16": 50.0, "gpu24": 100.0, "gpu48": 150.0, "gpu80": 300.0}

#: An item that the planner takes for so many tokens takes a worker so many seconds.
Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Points by modality, the shortest item first, and what a worker takes before its first item."""

    source: Source
    points: Mapping[Modality, tuple[Point, ...]] = field(default_factory=dict)
    load_s: float = 0.0
    device: str = ""  # that was measured, in words
    at: str = ""  # when

    def seconds(self, modality: Modality, cost: float) -> float:
        """Of a worker, for an item that the planner takes for `cost` tokens.

        A modality that was not measured takes as long by the token as the longest item of the others.
        """
        points = self.points.get(modality) or (max(point for found in self.points.values() for point in found),)
        at = bisect_left(points, (cost, 0.0))
        if at == len(points):
            last, seconds = points[-1]
            return seconds * cost / last  # longer than any that was measured
        if not at:
            first, seconds = points[0]
            return seconds if len(points) > 1 else seconds * cost / first
        (low, fast), (high, slow) = points[at - 1], points[at]
        return fast + (slow - fast) * (cost - low) / (high - low)

    def to_dict(self) -> dict[str, Any]:
        points = {str(modality): [list(point) for point in found] for modality, found in self.points.items()}
        return {"source": self.source, "points": points, "load_s": self.load_s, "device": self.device, "at": self.at}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Rates":
        """What `to_dict` wrote; raises ValueError, TypeError, LookupError or AttributeError for anything else."""
        points = {
            Modality(name): tuple(sorted((float(c), float(s)) for c, s in p)) for name, p in raw["points"].items()
        }
        values = [value for found in points.values() for point in found for value in point]
        if not points or not all(points.values()) or not all(0 < value < math.inf for value in values):
            raise ValueError("a rate that is none")
        load_s = float(raw["load_s"])
        return cls(
            source=Source(raw["source"]),
            points=points,
            load_s=load_s if 0 <= load_s < math.inf else 0.0,
            device=str(raw["device"]),
            at=str(raw["at"]),
        )


def guessed_rates(tokens_per_second: float, size: str, weight_bytes: int) -> Rates:
    """Rates from what a core is thought to embed of a model a second."""
    points: tuple[Point, ...] = ((1.0, 1.0 / (tokens_per_second * _GUESSED_SPEED[size])),)
    return Rates(source=Source.GUESS, points=dict.fromkeys(Modality, points), load_s=3.0 + weight_bytes / 1e9)
