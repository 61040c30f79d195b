"""Content: sounds and films, decoded; what lies between a medium's bytes and a model's input."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A sound in memory."""

    samples: np.ndarray  # float32 (n,), mono, finite
    rate: int  # Hz
    seconds_in: float  # length of the whole medium

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Frames taken from a film, or from a segment of one."""

    frames: np.ndarray  # uint8 (n, height, width, 3), RGB, upright
    times_s: tuple[float, ...]  # when each frame is shown, in seconds from the medium's start
    fps: float  # of the medium
    start_s: float  # of the segment that the frames are taken from
    end_s: float
    frames_in: int  # frames of the whole medium, estimated where the file does not tell
    seconds_in: float  # length of the whole medium
