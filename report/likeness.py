"""Likeness: how alike the rows of a sample are, by chance and at best, within a modality and across two."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from similarity.components import Components

#: Random pairs of a distribution, and the share of them that may reach the null threshold.
PAIRS, FPR = 200_000, 0.001
#: Nearest rows whose mean likeness tells how alone a row is.
NEAREST = 10
#: From the first cosine on rows are near copies, unless chance gives so much; from the second on they are anyway:
#: where a sample is full of copies, chance gives them.
COPY, SAME = 0.95, 0.99
_AT_ONCE = 16_384
_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Cosines of random pairs of two sets of rows, or of one."""

    left: str  # modalities
    right: str
    cosines: np.ndarray  # float32

    @property
    def name(self) -> str:
        return f"{self.left}-{self.right}"

    @property
    def is_within(self) -> bool:
        return self.left == self.right

    @property
    def mean(self) -> float:
        return float(self.cosines.mean())

    @property
    def deviation(self) -> float:
        return float(self.cosines.std())

    @property
    def threshold(self) -> float:
        """What one of a thousand random pairs reaches."""
        return float(np.quantile(self.cosines, 1 - FPR))


def random_spread(left: np.ndarray, right: np.ndarray, names: tuple[str, str], *, seed: int = 0) -> Spread:
    """Cosines of random pairs of rows, float32 (n, dim) of unit length; of one set, of two rows each."""
    rng, same = np.random.default_rng(seed), left is right
    count = min(PAIRS, len(left) * max(1, len(right) - same))
    x = rng.integers(0, len(left), count)
    y = rng.integers(0, max(1, len(right) - same), count)
    if same:
        y += y >= x  # any row but itself
    found = np.empty(count, np.float32)
    for at in range(0, count, _AT_ONCE):
        some = slice(at, at + _AT_ONCE)
        found[some] = np.einsum("ij,ij->i", left[x[some]], right[y[some]])
    return Spread(left=names[0], right=names[1], cosines=np.clip(found, -1, 1))


def gap_of(within: Sequence[Spread], across: Sequence[Spread], *, most: int = 3) -> tuple[list[Spread], list[Spread]]:
    """What shows the gap: of `across` the least alike that touch one of `within`, and those of `within` they touch."""
    drawn = {s.left for s in within}
    both = [s for s in across if {s.left, s.right} <= drawn] or [s for s in across if {s.left, s.right} & drawn]
    some = sorted(both, key=lambda s: s.mean)[:most]
    return [s for s in within if any(s.left in (a.left, a.right) for a in some)], some


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What lies around each row of a sample."""

    nearest: np.ndarray  # float32 (n,): cosine to its nearest other row
    density: np.ndarray  # float32 (n,): mean cosine to its nearest rows
    labels: np.ndarray  # int64 (n,): equal for rows that hang together as near copies
    threshold: float  # cosine from which they do


def look_around(vectors: np.ndarray, *, threshold: float) -> Surroundings:
    """Compare each row, float32 (n, dim) of unit length, with each other one; at least two rows."""
    count = len(vectors)
    near, hang = min(NEAREST, count - 1), Components(count)
    nearest, density = np.empty(count, np.float32), np.empty(count, np.float32)
    for at in range(0, count, _BLOCK):
        scores = vectors[at : at + _BLOCK] @ vectors.T
        rows = np.arange(len(scores))
        scores[rows, at + rows] = -np.inf
        best = np.minimum(-np.partition(-scores, near - 1, axis=1)[:, :near], 1.0)  # by rounding it may be more
        nearest[at : at + len(scores)], density[at : at + len(scores)] = best.max(axis=1), best.mean(axis=1)
        left, right = np.nonzero(scores >= threshold)
        hang.connect(left + at, right)
    return Surroundings(nearest=nearest, density=density, labels=hang.labels(), threshold=threshold)


def clusters_of(labels: np.ndarray, most: int) -> list[np.ndarray]:
    """The rows of the `most` largest clusters of two rows and more, the largest first."""
    order = np.argsort(labels, kind="stable")
    begins = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0]) if len(order) else np.zeros(0, np.int64)
    groups = [group for group in np.split(order, begins[1:]) if len(group) > 1]
    return sorted(groups, key=len, reverse=True)[:most]


def binned(values: np.ndarray, edges: Sequence[float]) -> list[float]:
    """The share of `values` in each interval."""
    counts, _ = np.histogram(values, bins=np.asarray(edges))
    return [float(count) for count in counts / max(1, len(values))]
