"""Ranges: what the levels of int8 vectors stand for."""

from dataclasses import dataclass

import numpy as np

from schemas.errors import StoreError
from schemas.sealed import sealed, unsealed

#: Steps between the least and the largest value.
LEVELS = 255
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Ranges:
    """The least and the largest value that a sample had in each dimension; frozen for a job."""

    low: np.ndarray  # float32 (dim,)
    high: np.ndarray  # float32 (dim,)

    @classmethod
    def of(cls, vectors: np.ndarray) -> "Ranges":
        """The ranges of float32 (n, dim) `vectors`; a dimension without a width gets a small one."""
        low, high = vectors.min(axis=0), vectors.max(axis=0)
        least = np.maximum(np.abs(low), 1) * np.float32(1e-6)  # some steps of float32, wherever it lies
        return cls(low, np.maximum(high, low + least))

    def values(self, levels: np.ndarray) -> np.ndarray:
        """float32 (n, dim): what int8 `levels` stand for."""
        steps = (levels.astype(np.float32) + 128) / np.float32(LEVELS)
        values: np.ndarray = self.low + steps * (self.high - self.low)
        return values

    def to_json(self) -> bytes:
        """float32 values in the shortest decimals that read back equal."""
        return sealed({"low": _decimals(self.low), "high": _decimals(self.high)})

    @classmethod
    def from_json(cls, data: bytes) -> "Ranges":
        """Parse what `to_json` wrote; raises StoreError for anything else."""
        try:
            raw = unsealed(data)
            low, high = _rows(raw["low"], raw["high"])
            return cls(low.astype(np.float32), high.astype(np.float32))
        except (ValueError, KeyError, TypeError, OverflowError) as err:
            raise StoreError("the job's int8 ranges are not what embedmill wrote; restore them") from err


def _rows(low: object, high: object) -> np.ndarray:
    """Both as float64 (2, dim); raises ValueError for others than finite numbers that float32 holds."""
    rows = np.array([low, high], np.float64)
    if rows.ndim != 2 or not (np.abs(rows) <= _LARGEST).all():
        raise ValueError("no ranges")
    return rows


def _decimals(values: np.ndarray) -> list[float]:
    return [float(str(value)) for value in values]
