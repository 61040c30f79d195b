"""Windows: long sounds and films are cut the same way each time, never at random as model libraries do."""

import itertools
import math
from dataclasses import replace

import numpy as np

from workers.content import Film, Sound

#: A tail below this share of a segment is left out where there are others: too short to say anything.
_SHORTEST_TAIL = 0.1


def cut_sound(
    sound: Sound, *, segment_s: float, window_s: float
) -> list[tuple[list[Sound], float | None, float | None]]:
    """Segments of `segment_s` seconds (0: the whole), each with its windows of at most `window_s` (0: any length).

    Each with its start and end in seconds, None where the whole is one segment.
    """
    if not segment_s:
        return [(_equal_windows(sound, window_s), None, None)]
    length = max(1, round(segment_s * sound.rate))
    starts = range(0, len(sound.samples), length)
    if len(starts) > 1 and len(sound.samples) - starts[-1] < _SHORTEST_TAIL * length:
        starts = starts[:-1]
    cuts: list[tuple[list[Sound], float | None, float | None]] = []
    for start in starts:
        piece = replace(sound, samples=sound.samples[start : start + length])
        end = start + len(piece.samples)
        cuts.append((_equal_windows(piece, window_s), start / sound.rate, end / sound.rate))
    return cuts


def cut_film(film: Film, frames: int) -> Film:
    """`film` with exactly so many frames (0: as it is), each of its own used about equally often, in their order."""
    if not frames or len(film.frames) == frames:
        return film
    chosen = np.arange(frames) * len(film.frames) // frames
    return replace(film, frames=film.frames[chosen], times_s=tuple(film.times_s[n] for n in chosen))


def _equal_windows(sound: Sound, window_s: float) -> list[Sound]:
    """The fewest windows of equal length that none is over `window_s`: nothing is left out, and none is a stub."""
    limit = int(window_s * sound.rate)
    count = math.ceil(len(sound.samples) / limit) if limit else 1
    bounds = [len(sound.samples) * n // count for n in range(count + 1)]
    return [replace(sound, samples=sound.samples[a:b]) for a, b in itertools.pairwise(bounds)]
