"""What every encoder does: held by the real ones and by the hash encoder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from schemas.model_cards import ModelCard
from storage.model_files import resolve_model
from workers.encoder import Encoder, load_encoder
from workers.hash_encoder import canonical_bytes, expected_vector
from workers.loading import Loaded

TEXTS = ["", "a cat", "the quick brown fox jumps over the lazy dog", "dogs bark", "é ü 猫 🐈", "cat " * 500]
SIZES = [(48, 40), (31, 64), (200, 10), (1, 1)]
OF_TEXT = ["hash", "bert", "text_dense", "clip", "siglip"]
OF_IMAGES = ["hash", "clip", "siglip"]


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> tuple[ModelCard, Encoder]:
    """A model's card, and the model."""
    model = resolve_model(str(tiny_models.get(request.param, request.param)))
    return model.card, load_encoder(model)


@pytest.fixture
def card(loaded: tuple[ModelCard, Encoder]) -> ModelCard:
    return loaded[0]


@pytest.fixture
def encoder(loaded: tuple[ModelCard, Encoder]) -> Encoder:
    return loaded[1]


@pytest.fixture
def items(modality: str) -> list[Loaded]:
    if modality == "text":
        return [Loaded(text=text) for text in TEXTS]
    rng = np.random.default_rng(0)
    return [Loaded(image=Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8))) for w, h in SIZES]


def encoded(encoder: Encoder, items: list[Loaded]) -> np.ndarray:
    return encoder.forward(encoder.preprocess(items))


every_model = pytest.mark.parametrize(
    ("loaded", "modality"),
    [(name, "text") for name in OF_TEXT] + [(name, "image") for name in OF_IMAGES],
    indirect=["loaded"],
)


@every_model
def test_vectors_are_of_the_cards_dimension(encoder: Encoder, card: ModelCard, items: list[Loaded]) -> None:
    """A batch gives one float32 vector an item, of the dimension that the plan was made with."""
    vectors = encoded(encoder, items)

    assert vectors.dtype == np.float32
    assert vectors.shape == (len(items), card.dim) == (len(items), encoder.dim)
    assert np.isfinite(vectors).all()


@every_model
def test_a_vector_does_not_depend_on_its_batch(encoder: Encoder, items: list[Loaded]) -> None:
    """An item has the same vector alone, among others, and in another order."""
    together = encoded(encoder, items)
    backwards = encoded(encoder, items[::-1])[::-1]
    alone = np.concatenate([encoded(encoder, [item]) for item in items])

    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(together, backwards, atol=2e-6)


@every_model
def test_items_that_differ_have_vectors_that_differ(encoder: Encoder, items: list[Loaded]) -> None:
    """No two of the items share a vector."""
    vectors = encoded(encoder, items)

    assert len(np.unique(vectors, axis=0)) == len(items)


@every_model
def test_lengths_are_positive_and_within_the_model(encoder: Encoder, card: ModelCard, items: list[Loaded]) -> None:
    """Every item takes up at least one token, and no text more than the model's limit."""
    lengths = encoder.lengths(items)

    assert len(lengths) == len(items)
    assert all(1 <= n.padded <= max(card.max_tokens, card.tokens_per_image) for n in lengths)


@pytest.mark.parametrize(("loaded", "modality"), [(name, "text") for name in OF_TEXT[1:]], indirect=["loaded"])
def test_lengths_are_the_tokens_of_a_batch(encoder: Encoder, items: list[Loaded]) -> None:
    """A batch is as wide as its longest item says, so that a budget of tokens bounds its memory."""
    widths = [encoder.preprocess([item])["input_ids"].shape[1] for item in items]

    assert [length.padded for length in encoder.lengths(items)] == widths
    assert encoder.preprocess(items)["input_ids"].shape == (len(items), max(widths))


@every_model
def test_features_outlive_the_next_preprocessing(encoder: Encoder, items: list[Loaded]) -> None:
    """Batches are prepared ahead: the features of one are not touched by the next, nor by a forward pass."""
    first, second = encoder.preprocess(items[:2]), encoder.preprocess(items[2:])

    again = encoder.forward(first)

    np.testing.assert_array_equal(again, encoder.forward(first))
    np.testing.assert_allclose(np.concatenate([again, encoder.forward(second)]), encoded(encoder, items), atol=2e-6)


@pytest.mark.parametrize("loaded", ["hash"], indirect=True)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_hash_vector_can_be_told_from_its_row(encoder: Encoder, card: ModelCard, items: list[Loaded]) -> None:
    """Every vector that the hash encoder gives can be checked with nothing but the row and the model's digest."""
    vectors = encoded(encoder, items)

    wanted = [expected_vector(canonical_bytes(item), card.digest, card.dim) for item in items]

    np.testing.assert_array_equal(vectors, wanted)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("is_loud", [True, False])
def test_a_model_that_other_layers_would_change_keeps_its_own(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, is_loud: bool
) -> None:
    """Whether it then fails, or gives other vectors without a word."""
    model, items = resolve_model(str(tiny_models["bert"])), [Loaded(text=text) for text in TEXTS]
    known = encoded(load_encoder(model), items)

    def spoil(module: nn.Module) -> int:
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        for layer in layers:
            layer.weight.data = layer.weight.data[:, :-1] if is_loud else layer.weight.data * 1.1
        return len(layers)

    monkeypatch.setattr("workers.onednn_linear.use_onednn", spoil)

    assert np.allclose(encoded(load_encoder(model), items), known, atol=1e-5)
