"""Decoder replies, taken apart: a hostile medium may have taken a decoder over, so nothing is believed unseen."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from schemas.failures import Failure, FailureCode, Stage, one_line
from workers.content import Film, Sound

#: What a decoder may say of a medium. What becomes of the decoder itself, its parent sees.
_CODES = {
    FailureCode.FORMAT_UNSUPPORTED,
    FailureCode.TOO_MANY_PIXELS,
    FailureCode.TOO_LONG,
    FailureCode.NO_STREAM,
    FailureCode.MEDIA_EMPTY,
    FailureCode.DECODE_FAILED,
}
#: Type and axes of what each kind of medium becomes.
_ARRAYS = {"image": ("uint8", 3), "sound": ("float32", 1), "film": ("uint8", 4)}


class NotBelieved(Exception):  # says more than an error: never leaves the decoders
    """The decoder said what no decoder says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """An array that is to come."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a decoder says before the arrays."""

    told: dict[str, Any]
    arrays: tuple[Announced, ...]

    @classmethod
    def parse(cls, header: bytes | bytearray, kind: str, max_bytes: int) -> "Reply":
        """The reply to a request of `kind`, whose arrays are at most `max_bytes` together; raises NotBelieved."""
        with _doubted():
            told = json.loads(header)
            arrays = tuple(_announced(kind, array) for array in told["arrays"])
        if sum(array.nbytes for array in arrays) > max_bytes:
            raise NotBelieved("the decoder sent more than it may")
        return cls(told=told, arrays=arrays)

    @property
    def failure(self) -> Failure | None:
        """Why there is nothing, if it is said."""
        if "failure" not in self.told:
            return None
        with _doubted():
            code, message = FailureCode(self.told["failure"]["code"]), self.told["failure"]["message"]
        if code not in _CODES or not isinstance(message, str):
            raise NotBelieved("the decoder said what no decoder says")
        return Failure(code=code, stage=Stage.DECODE, message=one_line(message))


def image_of(reply: Reply, arrays: list[np.ndarray]) -> Image.Image:
    """The picture of a reply; raises NotBelieved."""
    with _doubted():
        [pixels] = arrays
    return Image.fromarray(pixels)


def sound_of(reply: Reply, arrays: list[np.ndarray], *, rate: int) -> Sound:
    """The sound of a reply, at the rate that was asked for; raises NotBelieved."""
    with _doubted():
        [samples] = arrays
        seconds_in = _measure(reply.told["seconds_in"])
    if not np.isfinite(samples).all():
        raise NotBelieved("the decoder sent samples that are none")
    return Sound(samples=samples, rate=rate, seconds_in=seconds_in)


def films_of(reply: Reply, arrays: list[np.ndarray]) -> list[Film]:
    """The film, or its segments; raises NotBelieved."""
    with _doubted():
        films = [_film_of(film, frames) for film, frames in zip(reply.told["films"], arrays, strict=True)]
    if not films:
        raise NotBelieved("the decoder sent no film")
    return films


def _film_of(told: dict[str, Any], frames: np.ndarray) -> Film:
    times_s = tuple(_measure(time) for time in told["times_s"])
    if len(times_s) != len(frames):
        raise ValueError("times and frames differ")
    names = ("fps", "start_s", "end_s", "seconds_in")
    return Film(
        frames=frames,
        times_s=times_s,
        frames_in=int(_measure(told["frames_in"])),
        **{name: _measure(told[name]) for name in names},
    )


def _measure(told: object) -> float:
    """A number that is finite, not below 0, and that a column can hold."""
    if not isinstance(told, int | float) or not math.isfinite(told) or not 0 <= told < 2**53:
        raise ValueError("no measure")
    return float(told)


def _announced(kind: str, told: dict[str, Any]) -> Announced:
    dtype, axes = _ARRAYS[kind]
    shape = told["shape"]
    if told["dtype"] != dtype or not isinstance(shape, list) or len(shape) != axes:
        raise ValueError("an array of another type")
    if not all(type(length) is int and 0 < length < 2**31 for length in shape) or (axes > 1 and shape[-1] != 3):
        raise ValueError("an array of another shape")
    return Announced(shape=tuple(shape), dtype=dtype)


@contextmanager
def _doubted() -> Iterator[None]:
    """Whatever is missing, of another type, or too deep within the `with` is not believed."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as err:
        raise NotBelieved("the decoder said what no decoder says") from err
