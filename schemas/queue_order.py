"""The order in which a worker looks into its queues; kombu finds it by name (`queue_order_strategy`)."""

from collections.abc import Iterable

from schemas.sizes import GIB


class LargestSizeFirst:
    """kombu's cycle protocol: queues of the largest size first, in turns within a size.

    A large device takes small work only while no large work waits. Queues of no size of ours come first.
    """

    def __init__(self) -> None:
        self._queues: list[str] = []

    def update(self, queues: Iterable[str]) -> None:
        self._queues = sorted(queues)  # kombu gives a set

    def consume(self, count: int) -> list[str]:
        return sorted(self._queues, key=lambda queue: -GIB.get(queue.rpartition(".")[2], 1000))[:count]

    def rotate(self, last_used: str) -> str:
        """The queue that a message came from goes behind its like."""
        if last_used in self._queues:
            self._queues.remove(last_used)
            self._queues.append(last_used)
        return last_used
