"""The shelf: the models that a worker holds in its device's memory; the one used longest ago leaves first."""

import gc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage.model_files import ResolvedModel
from workers.canary import Canary
from workers.encoder import Encoder
from workers.pair_scorer import PairScorer

Key = tuple[str, str]  # digest of the model, dtype of its computation

#: What a model's weights take up beside their bytes: buffers, tokenizer, processor.
_OVERHEAD_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Held:
    """A model in memory."""

    encoder: Encoder | PairScorer
    canary: Canary
    size: int  # bytes


class ModelShelf:
    """Models in memory, at most `capacity` bytes of weights (0: no limit), loaded by `load` when first asked for."""

    def __init__(
        self,
        load: Callable[[ResolvedModel, str], Encoder | PairScorer],
        *,
        capacity: int = 0,
        remember: Callable[[Key], Path | None] = lambda key: None,
    ) -> None:
        """`remember` says where the vectors of a model's canary are kept for this worker's next process."""
        self._load, self._capacity, self._remember = load, capacity, remember
        self._models: OrderedDict[Key, _Held] = OrderedDict()
        self.loads = 0

    @property
    def held(self) -> tuple[str, ...]:
        """Digests of the models in memory, the one used last at the end; safe to read from any thread."""
        return tuple(digest for digest, _ in tuple(self._models))

    def holds(self, digest: str, dtype: str) -> bool:
        return (digest, dtype) in self._models

    def has_room_for(self, model: ResolvedModel, dtype: str) -> bool:
        """Whether the model could be loaded beside those that are held."""
        used = sum(held.size for held in self._models.values())
        return not self._capacity or used + _bytes(model, dtype) <= self._capacity

    def get(self, model: ResolvedModel, dtype: str) -> Encoder | PairScorer:
        """The model's encoder, or its scorer, loaded where it is not held.

        One that is over the capacity by itself is held alone: the device has the last word on what fits.
        Raises WorkerUnfit where it does not load, DeviceFailed where it gives other vectors than it did before.
        """
        key = (model.card.digest, dtype)
        if key not in self._models:
            self._make_room(model, dtype)
            encoder = self._load(model, dtype)
            canary = Canary(encoder, model.card, dtype, self._remember(key))
            self._models[key] = _Held(encoder, canary, _bytes(model, dtype))
            self.loads += 1
        self._models.move_to_end(key)
        return self._models[key].encoder

    def canary(self, model: ResolvedModel, dtype: str) -> Canary | None:
        """The canary of a model that is held."""
        held = self._models.get((model.card.digest, dtype))
        return held.canary if held else None

    def clear(self) -> None:
        """Give back the memory of every model."""
        self._models.clear()
        gc.collect()

    def _make_room(self, model: ResolvedModel, dtype: str) -> None:
        while self._models and not self.has_room_for(model, dtype):
            self._models.popitem(last=False)
            gc.collect()  # a model is full of cycles: without this it stays until long after the next is loaded


def _bytes(model: ResolvedModel, dtype: str) -> int:
    return model.card.weight_bytes(dtype) + _OVERHEAD_BYTES
