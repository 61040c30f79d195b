"""Recipes: what a user asked for and what a card says, resolved."""

import dataclasses

import pytest

from producer.recipes import Wishes, recipe_for, taken_modalities
from schemas.errors import Refused
from schemas.model_cards import Family, Kind, ModelCard
from schemas.recipe import Recipe, Role
from schemas.rows import Modality
from schemas.space import Space, incomparable

CARD = ModelCard(
    name="m",
    family=Family.SENTENCE_TRANSFORMER,
    dim=64,
    modalities=frozenset({Modality.TEXT}),
    digest="0" * 64,
    prompts=(("passage", "passage: "), ("query", "query: ")),
    default_prompt="passage: ",
)


@pytest.mark.parametrize(
    ("wishes", "prompt"),
    [
        (Wishes(), "passage: "),
        (Wishes(role=Role.QUERY), "query: "),
        (Wishes(role=Role.DOCUMENT), "passage: "),
        (Wishes(prompt_name="query"), "query: "),
        (Wishes(prompt="mine: ", role=Role.QUERY), "mine: "),
        (Wishes(prompt=""), ""),
    ],
)
def test_the_prompt_is_what_was_asked_for(wishes: Wishes, prompt: str) -> None:
    """By text, by name, by role, in this order; else the model's own default."""
    assert recipe_for(CARD, wishes).prompt == prompt


def test_a_side_without_a_prompt_has_none() -> None:
    """As in sentence-transformers: a query is never embedded with the default prompt of documents."""
    card = dataclasses.replace(CARD, prompts=(("document", "passage: "),))

    assert recipe_for(card, Wishes(role=Role.QUERY)).prompt == ""


def test_a_reranker_is_refused() -> None:
    """It makes scores of pairs, not vectors of rows."""
    with pytest.raises(Refused, match="scores pairs and makes no vectors"):
        recipe_for(dataclasses.replace(CARD, kind=Kind.RERANK), Wishes())


def test_models_of_images_take_films_by_their_frames_unless_rows_are_mixed() -> None:
    """In a mixed row a film's frames would take the place of the row's own image."""
    images = dataclasses.replace(CARD, family=Family.CLIP, modalities=frozenset({Modality.TEXT, Modality.IMAGE}))
    mixed = dataclasses.replace(images, modalities=images.modalities | {Modality.MIXED})

    assert Modality.VIDEO in taken_modalities(images)
    assert recipe_for(images, Wishes()).films_as_frames
    assert Modality.VIDEO not in taken_modalities(mixed)


def test_queries_and_documents_may_be_compared_and_other_prompts_may_not() -> None:
    """The two sides of a search are made for each other; the error names what differs otherwise."""
    query, document = (Space.of(CARD, recipe_for(CARD, Wishes(role=role))) for role in (Role.QUERY, Role.DOCUMENT))
    other = Space.of(CARD, recipe_for(CARD, Wishes(prompt="Find cats.")))

    assert query.digest != document.digest
    assert incomparable(query.fields(), document.fields()) == []
    assert incomparable(document.fields(), other.fields()) == ["prompt", "role"]


def test_how_films_are_sampled_parts_no_spaces_that_are_compared() -> None:
    """A film through eight frames may be compared with one through sixteen, but its vectors are not the same."""
    eight, sixteen = (Space(model_digest="0" * 64, dim=8, recipe=Recipe(frames=n)) for n in (8, 16))

    assert eight.digest != sixteen.digest
    assert incomparable(eight.fields(), sixteen.fields()) == []
