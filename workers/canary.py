"""The canary: inputs whose vectors are known since the model was loaded: a device that errs without a word is seen."""

import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schemas.errors import DeviceFailed, WorkerUnfit
from schemas.model_cards import Kind, ModelCard
from schemas.rows import Modality
from workers.content import Film, Sound
from workers.encoder import Encoder, OutOfMemory
from workers.loading import Loaded
from workers.pair_scorer import LoadedPair, PairScorer

#: The least cosine between what the model gave at first and gives now: same device, same input, same batch.
_LEAST_COSINE = {"float32": 0.9999}
_LEAST_COSINE_OF_HALVES = 0.999
#: The most that a raw score may differ by, of its size or of one: two of the same pair, alone, on the same device.
_MOST_APART = {"float32": 1e-3}
_MOST_APART_OF_HALVES = 3e-2
#: A look is taken at most once in so many times as long as it takes: films take a processor seconds.
_LOOK_COSTS_AT_MOST = 100
#: But with this shard since the last look in any case: a sick device publishes no more than those before it.
_SHARDS_PER_LOOK = 3
_SENTENCE = "The quick brown fox jumps over the lazy dog while the mill grinds on."


class Canary:
    """One item of each modality that a model takes, and its vectors; of a model that scores, pairs and scores."""

    def __init__(
        self, encoder: Encoder | PairScorer, card: ModelCard, dtype: str, remembered: Path | None = None
    ) -> None:
        """Embed the items; `remembered` is where the same worker's earlier process wrote what they were.

        Raises DeviceFailed where they have changed since: the process is new, so it is not at fault.
        """
        self._encoder, self._name = encoder, card.name
        self._scores = card.kind is Kind.RERANK
        self._least = _LEAST_COSINE.get(dtype, _LEAST_COSINE_OF_HALVES)
        self._most_apart = _MOST_APART.get(dtype, _MOST_APART_OF_HALVES)
        begun = time.monotonic()
        items = probe_pairs(card) if self._scores else probes(card)
        vectors = [(item, self._vector(item)) for item in items]
        self._known = [(item, vector) for item, vector in vectors if vector is not None]
        is_whole = len(self._known) == len(vectors)
        self._checked_at = time.monotonic()
        self._cost_s = self._checked_at - begun
        self._shards = 0  # since then
        if remembered is not None and is_whole:  # else an item found no memory: the process before may not be gone yet
            self._compare_with(remembered)

    def is_due(self, every_s: float) -> bool:
        """Whether to look before a shard is published: with 0 always, else after `every_s`, or with the third shard.

        A look that takes long waits until it costs next to nothing, but not beyond the third shard.
        """
        self._shards += 1
        pause = max(every_s, _LOOK_COSTS_AT_MOST * self._cost_s)
        return not every_s or self._shards >= _SHARDS_PER_LOOK or time.monotonic() - self._checked_at > pause

    def check(self) -> None:
        """Embed the items again; raises WorkerUnfit where their vectors are others now, or there are none."""
        begun = time.monotonic()
        for item, known in self._known:
            now = self._vector(item)
            if now is not None and not self._agree(known, now):
                raise WorkerUnfit(f"{self._name} gives other vectors for the same input than when it was loaded")
        self._checked_at, self._shards = time.monotonic(), 0
        self._cost_s = self._checked_at - begun  # the first time was dearer: the device had to warm up

    def _vector(self, item: Loaded | LoadedPair) -> np.ndarray | None:
        """float32 (dim,), or None where the device has no memory for it: that is no wrong answer."""
        try:
            encoder: Any = self._encoder  # an encoder with items, or a scorer with pairs, by construction
            vectors = encoder.forward(encoder.preprocess([item]))
        except WorkerUnfit:
            raise
        except (OutOfMemory, MemoryError):
            return None
        except (RuntimeError, ValueError, TypeError, LookupError) as err:
            raise WorkerUnfit(f"{self._name} cannot embed a plain item: {err}") from err
        return np.asarray(vectors[0], np.float32)

    def _agree(self, known: np.ndarray, now: np.ndarray) -> bool:
        if now.shape != known.shape or not np.isfinite(now).all():
            return False
        if self._scores:
            return bool((np.abs(now - known) <= self._most_apart * np.maximum(1.0, np.abs(known))).all())
        norms = float(np.linalg.norm(now)) * float(np.linalg.norm(known))
        return float(now @ known) >= self._least * norms

    def _compare_with(self, path: Path) -> None:
        known = np.concatenate([vector for _, vector in self._known]) if self._known else np.zeros(0, np.float32)
        if not path.exists():
            private = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            private.write_bytes(known.astype("<f4").tobytes())
            private.replace(path)
            return
        before = np.frombuffer(path.read_bytes(), "<f4")
        if not self._agree(before, known):
            raise DeviceFailed(f"{self._name} gives other vectors than an earlier process had from the same device")


def probes(card: ModelCard) -> list[Loaded]:
    """An item of each modality."""
    return [probe(card, modality) for modality in sorted(card.modalities - {Modality.MIXED})]


def probe_pairs(card: ModelCard) -> list[LoadedPair]:
    """A pair for each modality: a text, where the model takes texts, with an item of it."""
    query = Modality.TEXT if Modality.TEXT in card.modalities else min(card.modalities)
    return [LoadedPair(probe(card, query), item) for item in probes(card)]


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
