"""The canary: inputs whose vectors are known since the model was loaded: a device that errs without a word is seen."""

import time
import uuid
from pathlib import Path

import numpy as np
from PIL import Image

from schemas.errors import DeviceFailed, WorkerUnfit
from schemas.model_cards import ModelCard
from schemas.rows import Modality
from workers.content import Film, Sound
from workers.encoder import Encoder, OutOfMemory
from workers.loading import Loaded

#: The least cosine between what the model gave at first and gives now: same device, same input, same batch.
_LEAST_COSINE = {"float32": 0.9999}
_LEAST_COSINE_OF_HALVES = 0.999
_SENTENCE = "The quick brown fox jumps over the lazy dog while the mill grinds on."


class Canary:
    """One item of each modality that a model takes, and its vectors."""

    def __init__(self, encoder: Encoder, card: ModelCard, dtype: str, remembered: Path | None = None) -> None:
        """Embed the items; `remembered` is where the same worker's earlier process wrote what they were.

        Raises DeviceFailed where they have changed since: the process is new, so it is not at fault.
        """
        self._encoder, self._name = encoder, card.name
        self._items = [probe(card, modality) for modality in sorted(card.modalities - {Modality.MIXED})]
        self._least = _LEAST_COSINE.get(dtype, _LEAST_COSINE_OF_HALVES)
        self._known = self._vectors()
        self._checked_at = time.monotonic()
        if remembered is not None:
            self._compare_with(remembered)

    @property
    def age_s(self) -> float:
        """Seconds since the vectors were last seen to be right."""
        return time.monotonic() - self._checked_at

    def check(self) -> None:
        """Embed the items again; raises WorkerUnfit where their vectors are others now, or there are none."""
        if not self._agrees(self._vectors()):
            raise WorkerUnfit(f"{self._name} gives other vectors for the same input than when it was loaded")
        self._checked_at = time.monotonic()

    def _vectors(self) -> np.ndarray:
        try:
            return np.concatenate([self._encoder.forward(self._encoder.preprocess([item])) for item in self._items])
        except WorkerUnfit:
            raise
        except (OutOfMemory, RuntimeError, ValueError, TypeError, LookupError, MemoryError) as err:
            raise WorkerUnfit(f"{self._name} fails on what it could embed when it was loaded: {err}") from err

    def _agrees(self, now: np.ndarray) -> bool:
        if now.shape != self._known.shape or not np.isfinite(now).all():
            return False
        norms = np.linalg.norm(now, axis=1) * np.linalg.norm(self._known, axis=1)
        cosines = (now * self._known).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
        return bool((cosines >= self._least).all())

    def _compare_with(self, path: Path) -> None:
        if not path.exists():
            private = path.with_suffix(f".{uuid.uuid4().hex}")
            private.write_bytes(self._known.astype("<f4").tobytes())
            private.replace(path)
            return
        before = np.frombuffer(path.read_bytes(), "<f4")
        if before.size != self._known.size or not self._agrees(before.reshape(self._known.shape)):
            raise DeviceFailed(f"{self._name} gives other vectors than an earlier process had from the same device")


def probe(card: ModelCard, modality: Modality) -> Loaded:
    """A small item of a modality, the same each time."""
    if modality is Modality.TEXT:
        return Loaded(text=_SENTENCE)
    if modality is Modality.IMAGE:
        return Loaded(image=Image.linear_gradient("L").resize((64, 64)).convert("RGB"))
    if modality is Modality.AUDIO:
        samples = np.sin(np.arange(card.audio_rate // 2, dtype=np.float32) / 10)
        return Loaded(sound=Sound(samples=samples, rate=card.audio_rate, seconds_in=0.5))
    count = card.video_frames or 4
    times = tuple(n / 2 for n in range(count))
    return Loaded(
        film=Film(
            frames=np.full((count, 32, 32, 3), 128, np.uint8),
            times_s=times,
            fps=2.0,
            start_s=0.0,
            end_s=count / 2,
            frames_in=count,
            seconds_in=count / 2,
        )
    )
