"""Recipes: what the user asked for and what the model's card says, resolved into how rows become vectors."""

from dataclasses import dataclass

from schemas.errors import Refused
from schemas.model_cards import DTYPE_BYTES, Kind, ModelCard
from schemas.recipe import OutputType, Recipe, Role
from schemas.rows import Modality
from schemas.sizes import require_size
from storage.model_footprint import dtype_for, size_for

#: Frames of a film where nobody says how many.
_FRAMES, _FRAMES_ONE_BY_ONE = 16, 8
#: Larger frames are scaled down to so many pixels: 768 x 432.
_FRAME_PIXELS = 331_776
#: What models call the prompt of what is searched, the likeliest first.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asked for; empty and zero: what the model's card says."""

    role: Role = Role.NONE
    prompt: str | None = None
    prompt_name: str = ""
    truncate_dim: int = 0
    normalize: bool = False
    dtype: str = ""
    outputs: tuple[OutputType, ...] = (OutputType.FLOAT32,)
    segment_s: float = 0.0
    frames: int = 0
    fps: float = 0.0
    size: str = ""


def taken_modalities(card: ModelCard) -> tuple[Modality, ...]:
    """The rows that a job with this model has an input for: films too where the model takes images."""
    # Not where rows are mixed: a film's frames would take the place of the row's own image.
    films = {Modality.VIDEO} if Modality.IMAGE in card.modalities and Modality.MIXED not in card.modalities else set()
    return tuple(sorted(card.modalities | films))


def chosen_size(card: ModelCard, wishes: Wishes) -> str:
    """The size of the devices that the job is for."""
    return require_size(wishes.size) if wishes.size else size_for(card)[0]


def recipe_for(card: ModelCard, wishes: Wishes) -> Recipe:
    """The recipe of a job; raises Refused for a wish that the model cannot fulfil."""
    if card.kind is Kind.RERANK:
        raise Refused(f"model {card.name} scores pairs and makes no vectors; give one that embeds")
    takes = taken_modalities(card)
    sounds, films = Modality.AUDIO in takes, Modality.VIDEO in takes
    if wishes.segment_s and not (sounds or films):
        raise Refused(f"--segment cuts sounds and films, and model {card.name} takes {', '.join(takes)}; leave it out")
    return Recipe(
        dtype=_dtype(card, wishes),
        role=wishes.role,
        prompt=_prompt(card, wishes),
        truncate_dim=_truncate_dim(card, wishes.truncate_dim),
        normalize=wishes.normalize,
        outputs=_outputs(wishes.outputs),
        segment_s=wishes.segment_s,
        audio_rate=card.audio_rate if sounds else 0,
        audio_window_s=card.audio_window_s if sounds else 0.0,
        frames=_frames(card, wishes.frames) if films else 0,
        fps=wishes.fps if films else 0.0,
        exact_frames=bool(films and card.video_frames),
        frame_pixels=_FRAME_PIXELS if films else 0,
        films_as_frames=films and Modality.VIDEO not in card.modalities,
    )


def recipe_for_pairs(card: ModelCard, wishes: Wishes) -> Recipe:
    """The recipe of a job that scores pairs; raises Refused for a model that gives no one score."""
    if card.kind is not Kind.RERANK:
        raise Refused(f"model {card.name} makes vectors and scores no pairs; give a reranker (a CrossEncoder)")
    if card.dim != 1:
        raise Refused(f"model {card.name} gives a pair {card.dim} scores, one a label; give one with a single score")
    films = Modality.VIDEO in card.modalities
    return Recipe(
        dtype=_dtype(card, wishes),
        prompt=_prompt(card, wishes),
        audio_rate=card.audio_rate if Modality.AUDIO in card.modalities else 0,
        frames=_frames(card, wishes.frames) if films else 0,
        fps=wishes.fps if films else 0.0,
        exact_frames=bool(films and card.video_frames),
        frame_pixels=_FRAME_PIXELS if films else 0,
    )


def _dtype(card: ModelCard, wishes: Wishes) -> str:
    if wishes.dtype and wishes.dtype not in DTYPE_BYTES:
        raise Refused(f"--dtype {wishes.dtype}: give one of {', '.join(DTYPE_BYTES)}")
    return wishes.dtype or dtype_for(card, chosen_size(card, wishes))


def _prompt(card: ModelCard, wishes: Wishes) -> str:
    """What was asked for by text, by name, or by role, in this order; else what the model does by itself."""
    prompts = dict(card.prompts)
    if wishes.prompt is not None:
        if wishes.prompt_name:
            raise Refused("--prompt and --prompt-name are two ways to say one thing; give one")
        return wishes.prompt
    if wishes.prompt_name:
        if wishes.prompt_name not in prompts:
            there = ", ".join(prompts) or "none"
            raise Refused(f"--prompt-name {wishes.prompt_name}: model {card.name} has {there}; or say it with --prompt")
        return prompts[wishes.prompt_name]
    names = {Role.QUERY: ("query",), Role.DOCUMENT: _DOCUMENT_PROMPTS, Role.NONE: ()}[wishes.role]
    # As in sentence-transformers: a side without a prompt of its own has none, not the default one.
    return next((prompts[name] for name in names if name in prompts), "" if wishes.role else card.default_prompt)


def _truncate_dim(card: ModelCard, asked: int) -> int:
    if asked > card.dim:
        raise Refused(f"--truncate-dim {asked}: model {card.name} has {card.dim} dimensions; give fewer")
    return 0 if asked == card.dim else asked


def _outputs(outputs: tuple[OutputType, ...]) -> tuple[OutputType, ...]:
    for output in outputs:
        if outputs.count(output) > 1:
            raise Refused(f"--output-dtype {output} is given twice; give it once")
    return outputs or (OutputType.FLOAT32,)


def _frames(card: ModelCard, asked: int) -> int:
    if card.video_frames and asked not in (0, card.video_frames):
        raise Refused(f"--frames {asked}: model {card.name} takes films of {card.video_frames} frames; leave it out")
    one_by_one = Modality.VIDEO not in card.modalities
    return asked or card.video_frames or (_FRAMES_ONE_BY_ONE if one_by_one else _FRAMES)
