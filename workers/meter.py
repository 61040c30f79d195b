"""The meter: where the time of one job goes in this process."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from schemas.spent import Spent, Step, total

_T = TypeVar("_T")

#: A worker without a message for longer was not waiting for this job's next shard: the job was stopped, or over.
_LONGEST_WAIT_S = 60.0


class Meter:
    """Seconds by step, and counts; any thread may measure.

    What is measured goes into the footer of the shard that is published next: nothing is lost with Redis, and what
    overlaps the border of two shards is in one of them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> None:
        self._clock, self._now, self._lock = clock, now, threading.Lock()
        self._seconds: dict[str, float] = {}
        self._items = self._tokens = self._padded = self._batches = 0
        self._since = self._left = clock()

    @contextlib.contextmanager
    def while_in(self, step: Step) -> Iterator[None]:
        """Add the time that the block takes to `step`."""
        started = self._clock()
        try:
            yield
        finally:
            self.add(step, self._clock() - started)

    def through(self, step: Step, coming: Iterable[_T]) -> Iterator[_T]:
        """`coming`, with the time that each takes to come added to `step`."""
        iterator = iter(coming)
        while True:
            with self.while_in(step):
                try:
                    found = next(iterator)
                except StopIteration:
                    return
            yield found
            del found  # or it is held while the next one comes

    def add(self, step: Step, seconds: float) -> None:
        with self._lock:
            self._seconds[step] = self._seconds.get(step, 0.0) + seconds

    def count(self, *, items: int, tokens: int, padded: int) -> None:
        """Note a batch that went through the model."""
        with self._lock:
            self._items += items
            self._tokens += tokens
            self._padded += padded
            self._batches += 1

    def enter(self, *, waited: bool) -> None:
        """A shard of the job is taken up; `waited`: since the last one the worker has done nothing else."""
        pause = self._clock() - self._left
        if waited and pause <= _LONGEST_WAIT_S:
            self.add(Step.QUEUE_WAIT, pause)
            return
        with self._lock:
            self._since += pause

    def leave(self) -> None:
        """The worker is done with a shard of the job."""
        self._left = self._clock()

    def take(self) -> Spent:
        """What was measured since the last time, and the wall's time; measuring begins anew."""
        with self._lock:
            wall, self._since = self._clock() - self._since, self._clock()
            spent = Spent(
                seconds={step: round(s, 4) for step, s in self._seconds.items()} | {Step.WALL: round(wall, 4)},
                items=self._items,
                tokens=self._tokens,
                padded=self._padded,
                batches=self._batches,
                began_at=round(self._now() - wall, 3),
            )
            self._seconds = {}
            self._items = self._tokens = self._padded = self._batches = 0
            return spent

    def give_back(self, spent: Spent) -> None:
        """Measured for a file that was not published: it goes into the next one."""
        with self._lock:
            wall = spent.of(Step.WALL)
            self._since -= wall
            both = total([Spent(seconds=self._seconds), spent])
            self._seconds = {step: s for step, s in both.seconds.items() if step != Step.WALL}
            self._items += spent.items
            self._tokens += spent.tokens
            self._padded += spent.padded
            self._batches += spent.batches
