"""A query: one text or one file as a row of its own, and the recipe that a job's model embeds it by."""

import os
from dataclasses import replace

from producer.parsing import RowParser
from producer.recipes import Wishes, recipe_for
from schemas.errors import Refused
from schemas.failures import DEFECT_MESSAGES, Reject, one_line
from schemas.model_cards import ModelCard
from schemas.recipe import Recipe, Role
from schemas.rows import MODALITY_BY_EXTENSION, ManifestRow, Modality, modality_of_uri

_ID = "query"


def text_row(text: str, takes: tuple[Modality, ...]) -> ManifestRow:
    """A text as a row, whatever it looks like; raises Refused for one that has no vector, or a model without texts."""
    _require_taken(Modality.TEXT, takes)
    row = RowParser(supported=takes).parse(1, {"id": _ID, "modality": str(Modality.TEXT), "text": text})
    if row is None or isinstance(row, Reject):
        raise Refused(f"the query is no row{f': {row.message}' if row else ''}; give a text")
    if row.defect is not None:
        raise Refused(f"the query cannot be embedded: {DEFECT_MESSAGES[row.defect]}")
    return row


def file_row(path: str, takes: tuple[Modality, ...]) -> ManifestRow:
    """A picture, a sound or a film of this machine as a row; raises Refused where it is none that the model takes."""
    modality = modality_of_uri(path)
    if modality is None:
        raise Refused(f"--file {one_line(path)}: its ending tells no medium; use {', '.join(MODALITY_BY_EXTENSION)}")
    _require_taken(modality, takes)
    if not os.path.isfile(path):  # noqa: PTH113  # pathlib raises for a NUL in the name, this says no
        raise Refused(f"--file {one_line(path)}: there is no such file")
    return ManifestRow(id=_ID, line=1, modality=modality, uri=os.path.realpath(path))


def query_recipe(card: ModelCard, recipe: Recipe) -> Recipe:
    """The recipe of a query to rows that were embedded by `recipe`.

    A model with a prompt for queries gets it, and rows that are documents are asked as queries; rows that were
    embedded with a prompt of the user's own are asked in the same way. A query is one vector, never segments.
    """
    recipe = replace(recipe, segment_s=0.0)
    own_prompt = recipe.role is Role.NONE and recipe.prompt != card.default_prompt
    asks = recipe.role is Role.DOCUMENT or "query" in dict(card.prompts)
    if own_prompt or not asks:
        return recipe
    prompt = recipe_for(card, Wishes(role=Role.QUERY, dtype=recipe.dtype)).prompt
    return replace(recipe, role=Role.QUERY, prompt=prompt)


def _require_taken(modality: Modality, takes: tuple[Modality, ...]) -> None:
    if modality not in takes:
        raise Refused(f"the job's model takes no {modality}, but {', '.join(takes)}; ask with one of these")
