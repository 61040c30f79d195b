"""The mel encoder: sounds by their timbre, from statistics of a mel spectrogram; no weights, no training.

A vector is the mean and the spread over time of the log energy in 64 bands (mel scale of O'Shaughnessy 1987), each
less its mean over the bands, so that loudness does not count. Sounds alike are near each other; words mean nothing
to it. It shows the mill's way with sounds where no model with weights can be had.
"""

from collections.abc import Sequence

import numpy as np

from schemas.model_cards import ModelCard
from schemas.recipe import Recipe
from workers.content import Sound
from workers.encoder import Length
from workers.loading import Loaded

_BANDS = 64
_WINDOW, _HOP = 512, 160  # samples: 32 ms and 10 ms at 16 kHz
_FLOOR = 1e-8  # energy below which there is silence
_TOKENS_PER_SECOND = 50


class MelEncoder:
    """An encoder of sounds; each vector is a function of its samples alone."""

    def __init__(self, card: ModelCard) -> None:
        self.dim = card.dim
        self._bands = _mel_filters(card.audio_rate)

    def told(self, recipe: Recipe) -> "MelEncoder":
        return self

    def lengths(self, items: Sequence[Loaded]) -> list[Length]:
        return [Length(1 + int(_sound_of(item).seconds * _TOKENS_PER_SECOND)) for item in items]

    def preprocess(self, items: Sequence[Loaded]) -> list[np.ndarray]:
        return [_sound_of(item).samples for item in items]

    def forward(self, features: list[np.ndarray]) -> np.ndarray:
        return np.stack([self._vector(samples) for samples in features])

    def _vector(self, samples: np.ndarray) -> np.ndarray:
        padded = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
        energy = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW))) ** 2
        log = np.log10(energy @ self._bands.T + _FLOOR)
        mean, spread = log.mean(axis=0), log.std(axis=0)
        statistics = np.concatenate([mean - mean.mean(), spread - spread.mean()])
        statistics[0] += 1e-3  # silence has a direction too
        vector: np.ndarray = (statistics / np.linalg.norm(statistics)).astype(np.float32)
        return vector


def _sound_of(item: Loaded) -> Sound:
    if item.sound is None:
        raise ValueError("the model takes sounds alone")
    return item.sound


def _mel_filters(rate: int) -> np.ndarray:
    """Triangles over the bins of a spectrum, float64 (bands, window / 2 + 1), equally wide on the mel scale."""
    edges = _hertz(np.linspace(_mel(50.0), _mel(rate / 2), _BANDS + 2))
    bins = np.fft.rfftfreq(_WINDOW, 1 / rate)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters: np.ndarray = np.maximum(0.0, np.minimum(rising, falling))
    return filters


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _hertz(mel: np.ndarray) -> np.ndarray:
    found: np.ndarray = 700 * (10 ** (mel / 2595) - 1)
    return found
