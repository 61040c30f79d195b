"""The hash scorer: no model, but a score that is a function of the pair, so that every one can be checked.

It fails on purpose like the hash encoder, whose faults it shares; texts of either side may poison it.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from schemas.model_cards import ModelCard
from schemas.recipe import Recipe
from schemas.rerank import Activation, Scoring
from workers.encoder import Length
from workers.hash_encoder import HashEncoder, canonical_bytes
from workers.pair_scorer import LoadedPair


def expected_score(query: bytes, item: bytes, digest: str) -> np.float32:
    """The raw score of two sides' canonical bytes by the model `digest`: from -4 up to 4, in steps of 2**-20."""
    lengths = len(query).to_bytes(8, "little")
    seed = hashlib.sha256(digest.encode() + b"\0" + lengths + query + item).digest()
    return np.float32(int.from_bytes(seed[:4], "little") / 2**29 - 4.0)


class HashScorer:
    """A scorer without a model; its constructor takes what the hash encoder's does."""

    dim = 1

    def __init__(self, card: ModelCard, *, delay_s: float = 0.0, memory_tokens: int = 0, faults: str = "") -> None:
        self._card = card
        self._twin = HashEncoder(card, delay_s=delay_s, memory_tokens=memory_tokens, faults=faults)
        self._scoring = Scoring(activation=Activation.NONE)

    @property
    def activation(self) -> str:
        return "Identity" if self._scoring.activation is Activation.NONE else "Sigmoid"

    def told(self, recipe: Recipe, scoring: Scoring) -> "HashScorer":
        told = HashScorer(self._card)
        told._twin, told._scoring = self._twin, scoring
        return told

    def lengths(self, items: Sequence[LoadedPair]) -> list[Length]:
        queries = self._twin.lengths([pair.query for pair in items])
        of_items = self._twin.lengths([pair.item for pair in items])
        return [Length(query.padded + item.padded) for query, item in zip(queries, of_items, strict=True)]

    def preprocess(self, items: Sequence[LoadedPair]) -> tuple[list[tuple[bytes, bytes]], int]:
        longest = max(length.padded for length in self.lengths(items))
        return [(canonical_bytes(pair.query), canonical_bytes(pair.item)) for pair in items], longest * len(items)

    def forward(self, features: tuple[list[tuple[bytes, bytes]], int]) -> np.ndarray:
        pairs, tokens = features
        self._twin.begin(len(pairs), tokens)
        raw = np.array([[self._score(query, item)] for query, item in pairs], np.float32)
        return raw if self.activation == "Identity" else sigmoid(raw)

    def _score(self, query: bytes, item: bytes) -> float:
        raw = np.full(1, expected_score(query, item, self._card.digest))
        return float(self._twin.faulted(query if query.startswith(b"!") else item, raw)[0])


def sigmoid(raw: np.ndarray) -> np.ndarray:
    """1 / (1 + e**-raw) as float32."""
    return np.asarray(1.0 / (1.0 + np.exp(-raw.astype(np.float64))), np.float32)
