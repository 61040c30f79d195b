"""Rows of one side of a join: consecutive, numbered, with what their scores need beside the vectors."""

from dataclasses import dataclass

import numpy as np

from similarity.exact import norms_of


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `first`, `first + 1`, ... of a side, with the constants that a form of score asks for."""

    first: int
    vectors: np.ndarray  # float32 (n, dim)
    norms: np.ndarray  # float64 (n,): the vectors' lengths, as `norms_of` gives them; 1 for a vector of zeros
    scale: np.ndarray | None = None  # float64 (n,), above zero; None: 1
    offset: np.ndarray | None = None  # float64 (n,); None: 0

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def cut(self, start: int, stop: int) -> "Rows":
        """The rows `start` to `stop`, counted from the first one here; a view."""
        return Rows(
            self.first + start,
            self.vectors[start:stop],
            self.norms[start:stop],
            None if self.scale is None else self.scale[start:stop],
            None if self.offset is None else self.offset[start:stop],
        )

    def take(self, at: np.ndarray) -> "Rows":
        """The rows at these places, as a copy; their numbers are no longer those of the side."""
        return Rows(
            0,
            self.vectors[at],
            self.norms[at],
            None if self.scale is None else self.scale[at],
            None if self.offset is None else self.offset[at],
        )


def rows_of(
    vectors: np.ndarray, *, first: int = 0, scale: np.ndarray | None = None, offset: np.ndarray | None = None
) -> Rows:
    """float32 (n, dim) `vectors` as rows, their lengths computed; a vector of zeros scores zero with everything."""
    norms = norms_of(vectors)
    norms[norms == 0] = 1.0
    return Rows(first, np.ascontiguousarray(vectors, np.float32), norms, scale, offset)
