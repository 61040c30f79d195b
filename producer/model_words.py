"""Model words: what `embedmill models` tells of a model, for people and for scripts."""

from dataclasses import asdict
from typing import Any

from schemas.errors import ModelError
from schemas.model_cards import DTYPE_BYTES, ModelCard
from schemas.sizes import CPU, GIB
from storage.model_catalog import KnownModel
from storage.model_files import describe_models
from storage.model_footprint import dtype_for, size_for


def known_model(name: str) -> KnownModel | None:
    """The model with that short name, or None."""
    return next((model for model in describe_models() if model.name == name), None)


def listed(model: KnownModel) -> str:
    """One line of `models list`."""
    takes = ",".join(sorted(model.modalities))
    kind = f"{model.kind}" if model.dim == 1 else f"{model.dim}-d"
    return f"{model.name:24} {kind:7} {_size(model.sketch())[0]:6} {takes:30} {model.about}".rstrip()


def card_fields(card: ModelCard) -> dict[str, Any]:
    """All that is known and computed of a model, by name; JSON takes it."""
    size, reason = _size(card)
    return {
        **asdict(card),
        "modalities": sorted(card.modalities),
        "prompts": dict(card.prompts),
        "weight_bytes": {dtype: card.weight_bytes(dtype) for dtype in DTYPE_BYTES},
        "size": size,
        "size_reason": reason,
        "default_dtype": dtype_for(card, size) if size in GIB else None,
    }


def card_lines(card: ModelCard, known: KnownModel | None = None) -> list[str]:
    """The same for people, without what the model does not have."""
    size, reason = _size(card)
    facts = {
        "name": card.name,
        "about": card.about,
        "kind": f"{card.kind} ({card.family})",
        "takes": ", ".join(sorted(card.modalities)),
        "dimensions": "" if card.dim == 1 else str(card.dim),
        "max tokens": str(card.max_tokens),
        "prompts": "; ".join(f"{name}: {text!r}" for name, text in card.prompts),
        "by default": repr(card.default_prompt) if card.default_prompt else "",
        "sounds": f"{card.audio_rate} Hz, windows of {card.audio_window_s:g} s" if card.audio_rate else "",
        "films": f"{card.video_frames} frames" if card.video_frames else "",
        "parameters": f"{card.params:,}" if card.params else "",
        "weights": ", ".join(f"{card.weight_bytes(d) / 2**30:.2f} GiB in {d}" for d in DTYPE_BYTES if card.params),
        "device": f"{_device(size)}: {reason}",
        "revision": _revision(card, known),
        "licence": known.licence if known else "",
        "digest": card.digest,
    }
    return [f"{name:11} {value}" for name, value in facts.items() if value]


def _size(card: ModelCard) -> tuple[str, str]:
    try:
        return size_for(card)
    except ModelError as err:
        return "none", str(err)


def _device(size: str) -> str:
    return "any processor (cpu)" if size == CPU else f"a GPU of {GIB[size]} GiB ({size})" if size in GIB else size


def _revision(card: ModelCard, known: KnownModel | None) -> str:
    if known is None or not known.repository:
        return card.revision or ""
    pinned = known.revision or "none is pinned: give " + f"{known.repository}@<40-hex commit>"
    return f"{pinned} ({known.repository})" if known.revision else pinned
