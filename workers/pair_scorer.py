"""The pair scorer: loaded pairs in, scores out; the seam between the mill and a model that reads both sides at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from schemas.model_cards import Family
from schemas.recipe import Recipe
from schemas.rerank import Scoring
from storage.model_files import DEMO_RERANKER, ResolvedModel, verify_weights
from workers.encoder import Features, Length
from workers.loading import Loaded
from workers.torchvision_cpu import make_torchvision_importable


@dataclass(frozen=True, slots=True)
class LoadedPair:
    """One input of a model that scores: a query and an item."""

    query: Loaded
    item: Loaded

    @property
    def kinds(self) -> tuple[str, ...]:
        """The parts of both sides; pairs of one batch have the same."""
        return (*self.query.kinds, "|", *self.item.kinds)

    @property
    def texts(self) -> tuple[str, ...]:
        """What no message may quote."""
        return (*self.query.texts, *self.item.texts)


class PairScorer(Protocol):
    """One model in memory; like an Encoder, but its inputs are pairs and its outputs have one dimension."""

    dim: int  # 1

    def lengths(self, items: Sequence[LoadedPair]) -> list[Length]:
        """How long each pair is."""

    def preprocess(self, items: Sequence[LoadedPair]) -> Features:
        """What the model is fed for pairs of the same kinds; raises what its library raises."""

    def forward(self, features: Features) -> np.ndarray:
        """float32 (pairs, 1); raises OutOfMemory, or what the model library raises."""

    def told(self, recipe: Recipe, scoring: Scoring) -> "PairScorer":
        """The same model, fed and read as the job says; as it was loaded it gives raw scores."""

    @property
    def activation(self) -> str:
        """What is made of raw scores, by name."""


def load_scorer(
    model: ResolvedModel,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    delay_ms: float = 0.0,
    memory_tokens: int = 0,
    faults: str = "",
    cache: str = "",
) -> PairScorer:
    """Load a model that scores, whose files are those of its card; `cache` and the others as in `load_encoder`.

    Raises WorkerUnfit where the files are not those of the card, do not load, or hold another model than it says.
    """
    if model.card.family is Family.HASH:
        from workers.hash_scorer import HashScorer

        return HashScorer(model.card, delay_s=delay_ms / 1000, memory_tokens=memory_tokens, faults=faults)
    make_torchvision_importable()  # before transformers looks for it
    from workers.cross_scorer import CrossScorer

    if model.card.name == DEMO_RERANKER:
        from workers.apart_reader import register_apart_reader
        from workers.demo_reranker import demo_reranker_folder

        register_apart_reader()
        folder = demo_reranker_folder(cache, model.card.digest)
        return CrossScorer(model.card, folder, device=device, dtype=dtype)
    assert model.folder is not None
    verify_weights(model.card, model.folder)
    return CrossScorer(model.card, model.folder, device=device, dtype=dtype)
