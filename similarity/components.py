"""Components: which rows hang together by pairs, found as the pairs come; 8 bytes a row, whatever the pairs."""

import numpy as np


class Components:
    """Union-find over rows numbered from 0, a batch of pairs at a time.

    Each row points to one with a lesser number, or to itself: the least row of a component is its name, in whatever
    order its pairs came.
    """

    def __init__(self, rows: int) -> None:
        self._above = np.arange(rows)

    def connect(self, left: np.ndarray, right: np.ndarray) -> None:
        """Take in pairs of rows."""
        while True:
            one, other = self._roots(left), self._roots(right)
            self._above[left], self._above[right] = one, other  # next time the way is shorter
            apart = one != other
            if not apart.any():
                return
            left, right, one, other = left[apart], right[apart], one[apart], other[apart]
            np.minimum.at(self._above, np.maximum(one, other), np.minimum(one, other))

    def labels(self) -> np.ndarray:
        """int64 (rows,): the least row that each one hangs together with; its own number where it is alone."""
        return self._roots(np.arange(len(self._above)))

    def _roots(self, rows: np.ndarray) -> np.ndarray:
        while True:
            above = self._above[rows]
            if np.array_equal(above, rows):
                return rows
            rows = above
