"""Quantising: a row's vector as it is written, cut, scaled, and in each of the types that were asked for."""

from dataclasses import dataclass

import numpy as np

from schemas.errors import StoreError
from schemas.failures import Failure, FailureCode, Stage
from schemas.recipe import OutputType, Recipe
from schemas.sealed import sealed, unsealed

#: Inputs whose vectors have this length, within it, come from a model that gives unit vectors.
_UNIT = 1e-2  # what bfloat16 makes of a length of one
_LEVELS = 255


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

    def to_json(self) -> bytes:
        """float32 values in the shortest decimals that read back equal."""
        return sealed({"low": _decimals(self.low), "high": _decimals(self.high)})

    @classmethod
    def from_json(cls, data: bytes) -> "Ranges":
        """Parse what `to_json` wrote; raises StoreError for anything else."""
        try:
            raw = unsealed(data)
            return cls(np.array(raw["low"], np.float32), np.array(raw["high"], np.float32))
        except (ValueError, KeyError, TypeError) as err:
            raise StoreError("the job's int8 ranges are not what embedmill wrote; restore them") from err


def pooled(vectors: np.ndarray) -> np.ndarray:
    """The mean of a row's vectors, float32 (n, dim) to (dim,); of unit length where they all are."""
    if len(vectors) == 1:
        first: np.ndarray = vectors[0]
        return first
    mean = vectors.mean(axis=0, dtype=np.float64)
    if np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=_UNIT):
        mean /= np.linalg.norm(mean) or 1.0
    return np.asarray(mean, dtype=np.float32)


def finished(vector: np.ndarray, recipe: Recipe) -> np.ndarray | Failure:
    """`vector` with the dimensions and the length that the recipe asks for, or why it cannot have them."""
    if recipe.truncate_dim:
        vector = vector[: recipe.truncate_dim]
    norm = np.linalg.norm(vector)
    if not np.isfinite(norm) or not norm:
        code = FailureCode.VECTOR_NOT_FINITE if not np.isfinite(norm) else FailureCode.VECTOR_ZERO
        return Failure(code=code, stage=Stage.CHECK, message="no vector is left after averaging or cutting")
    if recipe.truncate_dim or recipe.normalize:
        vector = vector / norm
    return np.asarray(vector, dtype=np.float32)


def quantised(vectors: np.ndarray, output: OutputType, ranges: Ranges | None) -> np.ndarray:
    """float32 (n, dim) `vectors` as `output`: (n, dim), or for BINARY uint8 (n, dim / 8, rounded up).

    INT8 is `round((v - low) / (high - low) * 255) - 128`, values beyond the ranges clipped; each row for itself.
    """
    if output is OutputType.FLOAT16:
        return vectors.astype(np.float16)
    if output is OutputType.BINARY:
        return np.packbits(vectors > 0, axis=-1)
    if output is OutputType.INT8:
        assert ranges is not None
        scaled = (vectors - ranges.low) / (ranges.high - ranges.low) * np.float32(_LEVELS)
        return np.asarray(np.clip(np.rint(scaled), 0, _LEVELS) - 128, dtype=np.int8)
    return vectors


def overflows(vector: np.ndarray, recipe: Recipe) -> Failure | None:
    """Why `vector` cannot be written as float16, whose largest value is 65504."""
    if OutputType.FLOAT16 in recipe.outputs and np.abs(vector).max() > np.finfo(np.float16).max:
        message = "a value is beyond float16; ask for float32, or for unit length with --normalize"
        return Failure(code=FailureCode.VECTOR_NOT_FINITE, stage=Stage.CHECK, message=message)
    return None


def _decimals(values: np.ndarray) -> list[float]:
    return [float(str(value)) for value in values]
