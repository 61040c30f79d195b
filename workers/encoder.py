"""The encoder: loaded items in, vectors out; the seam between the mill and a model."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from schemas.errors import EmbedmillError
from schemas.model_cards import Family
from storage.model_files import ResolvedModel, verify_weights
from workers.loading import Loaded

#: What preprocessing makes of a batch and the forward pass takes; each encoder's own.
Features = Any


class OutOfMemory(EmbedmillError):
    """The device has no memory for this batch; a smaller one may fit."""


class Encoder(Protocol):
    """One model in memory. `lengths` and `preprocess` are called from one thread, `forward` from another."""

    dim: int

    def lengths(self, items: Sequence[Loaded]) -> list[int]:
        """The tokens that each item takes up in a batch, exactly."""

    def preprocess(self, items: Sequence[Loaded]) -> Features:
        """What the model is fed for `items`, which share a modality; raises what the model library raises."""

    def forward(self, features: Features) -> np.ndarray:
        """float32 (items, dim); raises OutOfMemory, or what the model library raises."""


def load_encoder(model: ResolvedModel, *, device: str = "cpu", cache: str = "", delay_ms: float = 0.0) -> Encoder:
    """Load a model whose files are those of its card; `cache` is where the demo model is built.

    `delay_ms` is what the model `hash` waits a row. Raises WorkerUnfit where the files are not those of the card,
    do not load, or hold another model than it says.
    """
    if model.card.family is Family.HASH:
        from workers.hash_encoder import HashEncoder

        return HashEncoder(model.card, delay_s=delay_ms / 1000)
    from workers.sentence_encoder import SentenceEncoder

    if model.card.family is Family.CONSE:
        from workers.demo_model import demo_folder

        return SentenceEncoder(model.card, demo_folder(cache, model.card.digest), device=device)
    assert model.folder is not None
    verify_weights(model.card, model.folder)
    return SentenceEncoder(model.card, model.folder, device=device)
