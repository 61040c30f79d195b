"""Turns: jobs of different models share a queue one model at a time, so that workers do not load them in turns."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from schemas.presence import WorkerPresence

#: Seconds that a model has a queue for itself while another one waits.
TURN_S = 120.0
#: A model that sent nothing for so many seconds has given its turn away.
_IDLE_S = 5.0


@dataclass(slots=True)
class _Turn:
    model: str
    began: float
    last: float


class Turns:
    """Whose turn it is on each queue; one for all jobs of a coordinator process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turns: dict[str, _Turn] = {}

    def may_send(self, queue: str, model: str, workers: Iterable[WorkerPresence]) -> bool:
        """Whether shards of `model` (a digest) may go to `queue` now.

        Always where every live worker of the queue has the model in memory: that costs no load.
        """
        now, turn = self._clock(), self._turns.get(queue)
        if turn is None or turn.model == model or now - turn.last > _IDLE_S or now - turn.began > TURN_S:
            if turn is None or turn.model != model:
                turn = self._turns[queue] = _Turn(model, now, now)
            turn.last = now
            return True
        serving = [worker for worker in workers if queue in worker.queues]
        return bool(serving) and all(model in worker.models for worker in serving)
