"""The encoder: loaded items in, vectors out; the seam between the mill and a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from schemas.errors import EmbedmillError
from schemas.model_cards import Family
from schemas.recipe import Recipe
from storage.model_files import ResolvedModel, verify_weights
from workers.loading import Loaded
from workers.torchvision_cpu import make_torchvision_importable

#: What preprocessing makes of a batch and the forward pass takes; each encoder's own.
Features = Any


class OutOfMemory(EmbedmillError):
    """The device has no memory for this batch; a smaller one may fit."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long an item is to the model."""

    padded: int  # tokens that it takes up in a batch
    tokens_in: int | None = None  # tokens of its text
    tokens_used: int | None = None  # those that the model sees


class Encoder(Protocol):
    """One model in memory.

    `lengths` and `preprocess` are never called at the same time: tokenizers are not safe to share. `forward` may be.
    """

    dim: int

    def lengths(self, items: Sequence[Loaded]) -> list[Length]:
        """How long each item is, exactly."""

    def preprocess(self, items: Sequence[Loaded]) -> Features:
        """What the model is fed for `items`, which have the same kinds of parts; raises what its library raises."""

    def forward(self, features: Features) -> np.ndarray:
        """float32 (items, dim); raises OutOfMemory, or what the model library raises."""

    def told(self, recipe: Recipe) -> "Encoder":
        """The same model, fed with the recipe's prompt and role."""


def load_encoder(
    model: ResolvedModel,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    cache: str = "",
    delay_ms: float = 0.0,
    memory_tokens: int = 0,
    faults: str = "",
) -> Encoder:
    """Load a model whose files are those of its card; `cache` is where the demo model is built.

    `delay_ms` is what the model `hash` waits a row, `memory_tokens` what a batch of it may hold, `faults` how it fails.
    Raises WorkerUnfit where the files are not those of the card, do not load, or hold another model than it says.
    """
    if model.card.family is Family.HASH:
        from workers.hash_encoder import HashEncoder

        return HashEncoder(model.card, delay_s=delay_ms / 1000, memory_tokens=memory_tokens, faults=faults)
    if model.card.family is Family.MEL:
        from workers.mel_encoder import MelEncoder

        return MelEncoder(model.card)
    make_torchvision_importable()  # before transformers looks for it
    from workers.sentence_encoder import SentenceEncoder

    if model.card.family is Family.CONSE:
        from workers.demo_model import demo_folder

        folder = demo_folder(cache, model.card.digest)
        return SentenceEncoder(model.card, folder, device=device, dtype=dtype)
    assert model.folder is not None
    verify_weights(model.card, model.folder)
    return SentenceEncoder(model.card, model.folder, device=device, dtype=dtype)
