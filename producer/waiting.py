"""Waiting: the shards of a lane that are not sent, in the order in which they will be."""

from collections import deque
from collections.abc import Iterable

import numpy as np


class Waiting:
    """A queue of shards; those that were there from the start take 8 bytes each."""

    def __init__(self) -> None:
        self._again: deque[int] = deque()  # before all others
        self._fresh: deque[np.ndarray] = deque()
        self._at = 0  # in the first of `_fresh`
        self._late: deque[int] = deque()

    def __bool__(self) -> bool:
        return bool(self._again or self._fresh or self._late)

    def fill(self, shards: np.ndarray) -> None:
        """Put `shards`, int64, behind those that are there; before anything else is appended."""
        if len(shards):
            self._fresh.append(shards)

    def append(self, shard: int) -> None:
        self._late.append(shard)

    def appendleft(self, shard: int) -> None:
        self._again.appendleft(shard)

    def extendleft(self, shards: Iterable[int]) -> None:
        """Each before all others, one after the other."""
        self._again.extendleft(shards)

    def popleft(self) -> int:
        if self._again:
            return self._again.popleft()
        if not self._fresh:
            return self._late.popleft()
        shard = int(self._fresh[0][self._at])
        self._at += 1
        if self._at == len(self._fresh[0]):
            self._fresh.popleft()
            self._at = 0
        return shard

    def clear(self) -> None:
        self._again.clear()
        self._fresh.clear()
        self._late.clear()
        self._at = 0
