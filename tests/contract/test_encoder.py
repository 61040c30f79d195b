"""What every encoder does: held by the real ones and by the hash encoder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.model_cards import ModelCard
from storage.model_files import ResolvedModel, resolve_model
from workers.encoder import Encoder, load_encoder
from workers.loading import Loaded

TEXTS = ["a cat", "the quick brown fox jumps over the lazy dog", "", "dogs bark", "é ü 猫 🐈", "cat " * 500]


@pytest.fixture(scope="module", params=["hash", "bert", "text_dense", "clip", "siglip"])
def model(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> ResolvedModel:
    return resolve_model(str(tiny_models.get(request.param, request.param)))


@pytest.fixture(scope="module")
def card(model: ResolvedModel) -> ModelCard:
    return model.card


@pytest.fixture(scope="module")
def encoder(model: ResolvedModel) -> Encoder:
    return load_encoder(model)


@pytest.fixture
def items(card: ModelCard, modality: str) -> list[Loaded]:
    if modality not in card.modalities:
        pytest.skip(f"{card.family} has no input for {modality}")
    if modality == "text":
        return [Loaded(text=text) for text in TEXTS]
    rng = np.random.default_rng(0)
    sizes = [(48, 40), (31, 64), (200, 10), (1, 1)]
    return [Loaded(image=Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8))) for w, h in sizes]


def encoded(encoder: Encoder, items: list[Loaded]) -> np.ndarray:
    return encoder.forward(encoder.preprocess(items))


@pytest.mark.parametrize("modality", ["text", "image"])
def test_vectors_are_of_the_cards_dimension(encoder: Encoder, card: ModelCard, items: list[Loaded]) -> None:
    """A batch gives one float32 vector an item, of the dimension that the plan was made with."""
    vectors = encoded(encoder, items)

    assert vectors.dtype == np.float32
    assert vectors.shape == (len(items), card.dim) == (len(items), encoder.dim)
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_vector_does_not_depend_on_its_batch(encoder: Encoder, items: list[Loaded]) -> None:
    """An item has the same vector alone, among others, and in another order."""
    together = encoded(encoder, items)
    backwards = encoded(encoder, items[::-1])[::-1]
    alone = np.concatenate([encoded(encoder, [item]) for item in items])

    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(together, backwards, atol=2e-6)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_items_that_differ_have_vectors_that_differ(encoder: Encoder, items: list[Loaded]) -> None:
    """No two of the items share a vector."""
    vectors = encoded(encoder, items)

    assert len(np.unique(vectors, axis=0)) == len(items)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_lengths_are_positive_and_within_the_model(encoder: Encoder, card: ModelCard, items: list[Loaded]) -> None:
    """Every item takes up at least one token, and no text more than the model's limit."""
    lengths = encoder.lengths(items)

    assert len(lengths) == len(items)
    assert all(1 <= n <= max(card.max_tokens, card.tokens_per_image) for n in lengths)


@pytest.mark.parametrize("modality", ["text"])
def test_lengths_are_the_tokens_of_a_batch(encoder: Encoder, items: list[Loaded]) -> None:
    """A batch is as wide as its longest item says, so that a budget of tokens bounds its memory."""
    features = [encoder.preprocess([item]) for item in items]
    if isinstance(features[0], list):
        pytest.skip("the hash encoder has no tokens")

    widths = [one["input_ids"].shape[1] for one in features]

    assert encoder.lengths(items) == widths
    assert encoder.preprocess(items)["input_ids"].shape == (len(items), max(widths))


@pytest.mark.parametrize("modality", ["text", "image"])
def test_features_outlive_the_next_preprocessing(encoder: Encoder, items: list[Loaded]) -> None:
    """Batches are prepared ahead: the features of one are not touched by the next, nor by a forward pass."""
    first, second = encoder.preprocess(items[:2]), encoder.preprocess(items[2:])

    again = encoder.forward(first)

    np.testing.assert_array_equal(again, encoder.forward(first))
    np.testing.assert_allclose(np.concatenate([again, encoder.forward(second)]), encoded(encoder, items), atol=2e-6)
