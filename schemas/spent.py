"""Spent: the seconds and counts that one process measured, as the footer of a shard holds them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Step(StrEnum):
    """What a worker's time goes into. Those that run beside each other add up to more than the wall."""

    READ = "read"  # the shard's rows, from the plan
    FETCH = "fetch"  # media; seconds of all threads
    DECODE = "decode"  # media; seconds of all threads
    PREPROCESS = "preprocess"  # tokenizer and image processor
    DEVICE = "device"  # the forward pass
    COPY = "copy"  # to the device and back, where it has a memory of its own
    CHECK = "check"  # the canary
    WRITE = "write"  # outputs, Parquet, the store; of the shard before: a footer cannot know how long its file takes
    INPUT_WAIT = "input_wait"  # the device had nothing to do: its input was not there yet
    QUEUE_WAIT = "queue_wait"  # between two shards: the worker had no message
    LOAD_MODEL = "load_model"
    WALL = "wall"  # from the shard before to this one: all that the worker was there for


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was measured between two published shards of a worker, or the sum of that over many."""

    seconds: Mapping[str, float] = field(default_factory=dict)  # by Step
    items: int = 0  # that went through the model
    tokens: int = 0  # of these items
    padded: int = 0  # tokens that the batches took up: the items' and their padding
    batches: int = 0
    began_at: float = 0.0  # seconds since 1970, by the worker's clock

    def of(self, step: Step) -> float:
        return self.seconds.get(step, 0.0)

    def to_dict(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("items", "tokens", "padded", "batches")}
        return {"seconds": dict(self.seconds), **counts, "began_at": self.began_at}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Spent":
        """What `to_dict` wrote; raises ValueError or TypeError for anything else. Nothing is nothing spent."""
        try:
            counts = {name: int(raw.get(name, 0)) for name in ("items", "tokens", "padded", "batches")}
            seconds = {str(step): float(value) for step, value in dict(raw.get("seconds", {})).items()}
            return cls(seconds=seconds, **counts, began_at=float(raw.get("began_at", 0.0)))
        except (AttributeError, OverflowError) as err:
            raise ValueError("no measure of what was spent") from err


def total(parts: Iterable[Spent]) -> Spent:
    """The sum of `parts`; it began when the first of them did."""
    seconds: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    began_at = 0.0
    for part in parts:
        for step, value in part.seconds.items():
            seconds[step] += value  # type: ignore[assignment]  # a Counter of floats
        counts.update(items=part.items, tokens=part.tokens, padded=part.padded, batches=part.batches)
        if part.began_at:
            began_at = min(began_at or part.began_at, part.began_at)
    return Spent(seconds={step: round(value, 4) for step, value in seconds.items()}, **counts, began_at=began_at)
