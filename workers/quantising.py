"""Quantising: a row's vector as it is written, cut, scaled, and in each of the types that were asked for."""

import numpy as np

from schemas.failures import Failure, FailureCode, Stage
from schemas.recipe import OutputType, Recipe
from storage.ranges import LEVELS, Ranges

#: Inputs whose vectors have this length, within it, come from a model that gives unit vectors.
_UNIT = 1e-2  # what bfloat16 makes of a length of one


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
        scaled = (vectors - ranges.low) / (ranges.high - ranges.low) * np.float32(LEVELS)
        return np.asarray(np.clip(np.rint(scaled), 0, LEVELS) - 128, dtype=np.int8)
    return vectors


def overflows(vector: np.ndarray, recipe: Recipe) -> Failure | None:
    """Why `vector` cannot be written as float16, whose largest value is 65504."""
    if OutputType.FLOAT16 in recipe.outputs and np.abs(vector).max() > np.finfo(np.float16).max:
        message = "a value is beyond float16; ask for float32, or for unit length with --normalize"
        return Failure(code=FailureCode.VECTOR_NOT_FINITE, stage=Stage.CHECK, message=message)
    return None
