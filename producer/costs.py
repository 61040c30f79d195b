"""Costs: what a row is estimated to take of a device, in tokens, and of memory, in bytes."""

import numpy as np

from schemas.model_cards import PIXELS_PER_TOKEN, ModelCard
from schemas.recipe import Recipe
from schemas.rows import ManifestRow, Modality, Part
from schemas.text_run import TextRun

#: What a sound is taken for before it is fetched, and the tokens that a second of it makes.
_GUESSED_SECONDS, _TOKENS_PER_SECOND = 10.0, 50.0
#: What fetching and decoding a film costs, in tokens of a small model.
_DECODING = 500.0


def text_cost(text: str, card: ModelCard) -> float:
    """The estimated tokens of a text: a token takes four characters, and two mark the ends."""
    return card.text_padding or min(len(text) / 4 + 2, card.max_tokens)


def run_costs(run: TextRun, card: ModelCard) -> np.ndarray:
    """What `text_cost` says of each text, float64 (rows,)."""
    if card.text_padding:
        return np.full(len(run), float(card.text_padding))
    lengths = np.fromiter(map(len, run.texts), np.int64, len(run))
    return np.minimum(lengths / 4 + 2, card.max_tokens)


def row_cost(row: ManifestRow, card: ModelCard, recipe: Recipe) -> float:
    """The estimated tokens of a row; one that is known to fail costs next to nothing."""
    if row.defect is not None:
        return 1.0
    cost = 0.0 if row.text is None else text_cost(row.text, card)
    if row.uri is not None:
        cost += _media_cost(row.modality, card, recipe)
    if row.parts:
        cost += sum(_part_cost(part, card, recipe) for part in row.parts)
    return cost


def _part_cost(part: Part, card: ModelCard, recipe: Recipe) -> float:
    return text_cost(part.text, card) if part.text is not None else _media_cost(part.modality, card, recipe)


def _media_cost(modality: Modality, card: ModelCard, recipe: Recipe) -> float:
    """A guess: how long a sound or a film is, nobody knows before it is fetched."""
    if modality is Modality.AUDIO:
        return _GUESSED_SECONDS * _TOKENS_PER_SECOND
    if modality is Modality.VIDEO:
        native = min(card.tokens_per_frame, recipe.frame_pixels / PIXELS_PER_TOKEN)
        per_frame = card.tokens_per_image if recipe.films_as_frames else native
        return _DECODING + recipe.frames * max(per_frame, 1.0)
    return max(card.tokens_per_image, 1)


def row_size(row: ManifestRow) -> int:
    """Bytes of its text, uri and kept strings."""
    size = sum(_bytes(value) for value in row.kept if isinstance(value, str)) if row.kept else 0
    if row.text is not None:
        size += _bytes(row.text)
    if row.parts:
        size += sum(_bytes(part.text or part.uri or "") for part in row.parts)
    return size if row.uri is None else size + len(row.uri)


def run_sizes(run: TextRun) -> np.ndarray:
    """What `row_size` says of each row, int64 (rows,)."""
    sizes = np.fromiter(map(_bytes, run.texts), np.int64, len(run))
    for column in run.kept:
        sizes += np.fromiter((_bytes(value) if isinstance(value, str) else 0 for value in column), np.int64, len(run))
    return sizes


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
