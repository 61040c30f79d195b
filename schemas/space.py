"""The vector space: all that changes a vector, and nothing else."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from schemas.model_cards import ModelCard
from schemas.recipe import OutputType, Recipe, Role
from schemas.rerank import Scoring

#: Raised whenever decoding gives other pixels: EXIF-transposed, RGB, transparency on white, PIL backend.
IMAGE_RULE = "rgb-on-white-exif-pil-1"
#: Raised whenever a text reaches the model otherwise: passed as written, the model's own truncation.
TEXT_RULE = "as-written-1"
#: Raised whenever decoding gives other samples, or windows are cut otherwise: mean of channels, soxr HQ, equal windows.
AUDIO_RULE = "mono-soxr-hq-windows-1"
#: Raised whenever other frames are taken: the middles of equal intervals, upright, swscale bicubic.
VIDEO_RULE = "middles-1"

_SAMPLING = ("segment_s", "frames", "fps", "frame_pixels")
_FLOATS = {OutputType.FLOAT32, OutputType.FLOAT16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The fields that make two vectors comparable; equal digests mean equal spaces."""

    model_digest: str
    dim: int  # of the vectors as written
    backend: str = "torch"
    text_padding: int | None = None
    text_rule: str = TEXT_RULE
    image_rule: str = IMAGE_RULE
    audio_rule: str = AUDIO_RULE
    video_rule: str = VIDEO_RULE
    recipe: Recipe = field(default_factory=Recipe)
    scoring: Scoring | None = None  # of a job that scores pairs: its space is that of the scores

    @classmethod
    def of(cls, card: ModelCard, recipe: Recipe | None = None, scoring: Scoring | None = None) -> "Space":
        """The space that this version of embedmill embeds a model in."""
        recipe = recipe or Recipe()
        return cls(
            model_digest=card.digest,
            dim=min(recipe.truncate_dim or card.dim, card.dim),
            text_padding=card.text_padding,
            recipe=recipe,
            scoring=scoring,
        )

    @property
    def digest(self) -> str:
        """The name of the space: 16 hex digits of the sha256 over its fields."""
        canonical = json.dumps(self.fields(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def fields(self) -> dict[str, Any]:
        """The fields by name, those of the recipe among them, as footers carry them."""
        own: dict[str, Any] = asdict(self)
        recipe: dict[str, Any] = own.pop("recipe")
        scoring: dict[str, Any] = own.pop("scoring") or {}
        return own | recipe | {"outputs": list(recipe["outputs"])} | scoring

    def differences(self, other: "Space") -> list[str]:
        """The names of the fields in which two spaces differ."""
        mine, theirs = self.fields(), other.fields()
        return [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]


def incomparable(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The names of the fields, as `Space.fields` gives them, for which vectors must not be compared.

    A query and a document of one model are made to be compared, so between these roles neither role nor prompt counts.
    Nor does how a film is sampled, or what a second column holds: the vectors still mean the same.
    """
    passed_over = set(_SAMPLING)
    if {mine.get("role"), theirs.get("role")} == {Role.QUERY, Role.DOCUMENT}:
        passed_over |= {"role", "prompt"}
    if _FLOATS & set(mine.get("outputs", ())) and _FLOATS & set(theirs.get("outputs", ())):
        passed_over.add("outputs")
    return sorted(n for n in {*mine, *theirs} - passed_over if mine.get(n) != theirs.get(n))
