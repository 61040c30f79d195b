"""Turns: jobs of different models share a queue one model at a time, so that workers do not load them in turns."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from schemas.presence import WorkerPresence

#: Seconds that a model has a queue for itself while another one waits.
TURN_S = 120.0
#: A model that asked nothing for so many seconds has given its turn, or its place in the row, away.
_IDLE_S = 5.0


@dataclass(slots=True)
class _Waiting:
    since: float
    last: float


@dataclass(slots=True)
class _Turn:
    model: str
    began: float
    last: float
    waiting: dict[str, _Waiting] = field(default_factory=dict)


class Turns:
    """Whose turn it is on each queue; one for all jobs of a coordinator process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turns: dict[str, _Turn] = {}

    def may_send(self, queue: str, model: str, workers: Iterable[WorkerPresence]) -> bool:
        """Whether shards of `model` (a digest) may go to `queue` now.

        Always where every live worker of the queue has the model in memory: that costs no load.
        """
        now = self._clock()
        turn = self._turns.setdefault(queue, _Turn(model, now, now))
        if turn.model == model:
            turn.last = now
            return True
        _wait(turn, model, now)
        if (now - turn.last > _IDLE_S or now - turn.began > TURN_S) and _is_first(turn, model, now):
            del turn.waiting[model]
            self._turns[queue] = _Turn(model, now, now, turn.waiting)
            return True
        serving = [worker for worker in workers if queue in worker.queues]
        return bool(serving) and all(model in worker.models for worker in serving)


def _wait(turn: _Turn, model: str, now: float) -> None:
    place = turn.waiting.setdefault(model, _Waiting(now, now))
    if now - place.last > _IDLE_S:
        place.since = now
    place.last = now


def _is_first(turn: _Turn, model: str, now: float) -> bool:
    """Whether no model that still waits has waited longer."""
    since = turn.waiting[model].since
    return all(other.since >= since for other in turn.waiting.values() if now - other.last <= _IDLE_S)
