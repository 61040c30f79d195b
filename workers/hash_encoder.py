"""The hash encoder: no model, but a vector that is a function of the row, so that every one can be checked."""

import hashlib
import math
import time
from collections.abc import Sequence

import numpy as np

from schemas.model_cards import ModelCard
from workers.loading import Loaded


def expected_vector(content: bytes, digest: str, dim: int) -> np.ndarray:
    """The vector of a row's canonical bytes in the space of the model `digest`: float32 (dim,), of unit length."""
    seed = hashlib.sha256(digest.encode() + b"\0" + content).digest()
    raw = hashlib.shake_256(seed).digest(4 * dim)
    values = np.frombuffer(raw, "<u4").astype(np.float64) / 2**31 - 1.0
    norm = math.hypot(*values.tolist())  # not numpy's: its last bit depends on the processor
    return (values / norm).astype(np.float32)


def canonical_bytes(item: Loaded) -> bytes:
    """The bytes that stand for an item: a text's UTF-8, or an image's size and pixels."""
    if item.image is not None:
        return f"{item.image.width}x{item.image.height}:".encode() + item.image.tobytes()
    return (item.text or "").encode()


class HashEncoder:
    """An encoder without a model; `delay_s` seconds a row stand in for the work of one."""

    def __init__(self, card: ModelCard, *, delay_s: float = 0.0) -> None:
        self.dim = card.dim
        self._digest, self._delay_s = card.digest, delay_s
        self._tokens_per_image = card.tokens_per_image

    def lengths(self, items: Sequence[Loaded]) -> list[int]:
        return [self._tokens_per_image if item.text is None else len(item.text) // 4 + 1 for item in items]

    def preprocess(self, items: Sequence[Loaded]) -> list[bytes]:
        return [canonical_bytes(item) for item in items]

    def forward(self, features: list[bytes]) -> np.ndarray:
        if self._delay_s:
            time.sleep(self._delay_s * len(features))  # the work of a model, not a wait for anything
        return np.stack([expected_vector(content, self._digest, self.dim) for content in features])
