"""The hash encoder: no model, but a vector that is a function of the row, so that every one can be checked."""

import hashlib
import math
import time
from collections.abc import Sequence

import numpy as np

from schemas.model_cards import ModelCard
from schemas.recipe import Recipe
from workers.encoder import Length, OutOfMemory
from workers.loading import Loaded


def expected_vector(content: bytes, digest: str, dim: int) -> np.ndarray:
    """The vector of a row's canonical bytes in the space of the model `digest`: float32 (dim,), of unit length."""
    seed = hashlib.sha256(digest.encode() + b"\0" + content).digest()
    raw = hashlib.shake_256(seed).digest(4 * dim)
    values = np.frombuffer(raw, "<u4").astype(np.float64) / 2**31 - 1.0
    norm = math.hypot(*values.tolist())  # not numpy's: its last bit depends on the processor
    return (values / norm).astype(np.float32)


def canonical_bytes(item: Loaded) -> bytes:
    """The bytes that stand for an item: its media's sizes and samples, then its text's UTF-8."""
    parts = []
    if item.image is not None:
        parts += [f"{item.image.width}x{item.image.height}:".encode(), item.image.tobytes()]
    if item.film is not None:
        parts += [f"{item.film.frames.shape}:".encode(), item.film.frames.tobytes()]
    if item.sound is not None:
        parts += [f"{item.sound.rate}:".encode(), item.sound.samples.tobytes()]
    return b"".join([*parts, (item.text or "").encode()])


class HashEncoder:
    """An encoder without a model.

    `delay_s` seconds a row stand in for its work, `memory_tokens` in a batch for a device's memory (0: no limit).
    """

    def __init__(self, card: ModelCard, *, delay_s: float = 0.0, memory_tokens: int = 0) -> None:
        self.dim = card.dim
        self._card, self._delay_s, self._memory_tokens = card, delay_s, memory_tokens

    def told(self, recipe: Recipe) -> "HashEncoder":
        return self

    def lengths(self, items: Sequence[Loaded]) -> list[Length]:
        return [self._length(item) for item in items]

    def preprocess(self, items: Sequence[Loaded]) -> tuple[list[bytes], int]:
        longest = max(length.padded for length in self.lengths(items))
        return [canonical_bytes(item) for item in items], longest * len(items)

    def forward(self, features: tuple[list[bytes], int]) -> np.ndarray:
        contents, tokens = features
        if self._memory_tokens and tokens > self._memory_tokens:
            raise OutOfMemory(f"{tokens} tokens, over the {self._memory_tokens} that stand in for a device's memory")
        if self._delay_s:
            time.sleep(self._delay_s * len(contents))  # the work of a model, not a wait for anything
        return np.stack([expected_vector(content, self._card.digest, self.dim) for content in contents])

    def _length(self, item: Loaded) -> Length:
        tokens = None if item.text is None else len(item.text) // 4 + 1
        media = sum(1 for kind in item.kinds if kind != "text") * self._card.tokens_per_image
        return Length(media + (tokens or 0), tokens, tokens)
