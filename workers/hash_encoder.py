"""The hash encoder: no model, but a vector that is a function of the row, so that every one can be checked.

It can be told to fail as models and devices do, so that what is built against that can be proved:

    poison      texts that begin with `!segfault`, `!exit`, `!hang`, `!memory`, `!device`, `!nan`, `!raise` do that,
                and `!quote` raises an error that quotes the text
    sticky@N    after N batches the device fails, for as long as the process lives
    drift@N     after N batches the vectors are wrong, and no error says so
"""

import ctypes
import hashlib
import math
import os
import threading
import time
from collections.abc import Sequence

import numpy as np

from schemas.errors import WorkerUnfit
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

    `delay_s` seconds a row stand in for its work, `memory_tokens` in a batch for a device's memory (0: no limit);
    `faults` are separated by commas.
    """

    def __init__(self, card: ModelCard, *, delay_s: float = 0.0, memory_tokens: int = 0, faults: str = "") -> None:
        self.dim = card.dim
        self._card, self._delay_s, self._memory_tokens = card, delay_s, memory_tokens
        named = (fault.partition("@") for fault in faults.split(",") if fault)
        self._faults = {name: int(after or 0) for name, _, after in named}
        self._batches = 0

    def told(self, recipe: Recipe) -> "HashEncoder":
        return self

    def lengths(self, items: Sequence[Loaded]) -> list[Length]:
        return [self._length(item) for item in items]

    def preprocess(self, items: Sequence[Loaded]) -> tuple[list[bytes], int]:
        longest = max(length.padded for length in self.lengths(items))
        return [canonical_bytes(item) for item in items], longest * len(items)

    def forward(self, features: tuple[list[bytes], int]) -> np.ndarray:
        contents, tokens = features
        self.begin(len(contents), tokens)
        return np.stack([self._vector(content) for content in contents])

    def begin(self, rows: int, tokens: int) -> None:
        """What a device does before it gives anything: find memory, take its time, fail."""
        if self._memory_tokens and tokens > self._memory_tokens:
            raise OutOfMemory(f"{tokens} tokens, over the {self._memory_tokens} that stand in for a device's memory")
        if self._delay_s:
            time.sleep(self._delay_s * rows)  # the work of a model, not a wait for anything
        self._batches += 1
        if self._faulty("sticky"):
            raise WorkerUnfit("the device failed and must be opened anew: a fault that was asked for")

    def _vector(self, content: bytes) -> np.ndarray:
        return self.faulted(content, expected_vector(content, self._card.digest, self.dim))

    def faulted(self, content: bytes, vector: np.ndarray) -> np.ndarray:
        """What becomes of the right answer for `content` by the faults that were asked for."""
        if content.startswith(b"!") and "poison" in self._faults:
            return _poisoned(content, vector)
        return -vector if self._faulty("drift") else vector

    def _faulty(self, fault: str) -> bool:
        return fault in self._faults and self._batches > self._faults[fault]

    def _length(self, item: Loaded) -> Length:
        tokens = None if item.text is None else len(item.text) // 4 + 1
        media = sum(1 for kind in item.kinds if kind != "text") * self._card.tokens_per_image
        return Length(media + (tokens or 0), tokens, tokens)


def _poisoned(content: bytes, vector: np.ndarray) -> np.ndarray:
    """What a row does that no model survives, or none answers rightly."""
    word = content[1:].split(maxsplit=1)[0]
    if word == b"segfault":
        ctypes.string_at(0)
    if word == b"exit":
        os._exit(13)
    if word == b"hang":
        threading.Event().wait()
    if word == b"memory":
        _fill_memory()
    if word == b"device":  # as an index out of range does on a GPU
        raise WorkerUnfit("the device failed and must be opened anew: this row broke it")
    if word == b"raise":
        raise RuntimeError("this row is not to its taste")
    if word == b"quote":
        raise ValueError(f"not in the vocabulary: {content!r}")
    return np.full_like(vector, np.nan) if word == b"nan" else vector


def _fill_memory() -> None:
    held = []
    while True:  # up to the limit of the process, or MemoryError
        held.append(np.ones(4 * 2**20, np.float64))
        time.sleep(0.01)  # the time that a model would take: what watches memory can see it grow
