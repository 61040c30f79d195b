"""The traits of a model: what its architecture and the configs of its processor say, family by family."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.model_cards import Family
from schemas.rows import Modality
from storage.model_folder import ModelFolder

#: What a model of a family takes, unless its files say otherwise.
FAMILY_MODALITIES: dict[Family, frozenset[Modality]] = {
    Family.SENTENCE_TRANSFORMER: frozenset({Modality.TEXT}),
    Family.CROSS_ENCODER: frozenset({Modality.TEXT}),
    Family.CLIP: frozenset({Modality.TEXT, Modality.IMAGE}),
    Family.SIGLIP: frozenset({Modality.TEXT, Modality.IMAGE}),
    Family.CLAP: frozenset({Modality.TEXT, Modality.AUDIO}),
    Family.VIDEOPRISM: frozenset({Modality.TEXT, Modality.VIDEO}),
    Family.QWEN_VL: frozenset({Modality.TEXT, Modality.IMAGE, Modality.VIDEO, Modality.MIXED}),
    Family.OMNI: frozenset(set(Modality)),
}
#: Families that take everything through a chat template, several parts in one input.
CHAT_FAMILIES = frozenset({Family.QWEN_VL, Family.OMNI})

_HIDDEN = ("hidden_size", "dim", "d_model", "n_embd")
_LARGEST_IMAGE = 16_777_216  # pixels: what Qwen's published processors allow where a config says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the architecture alone says."""

    dim: int  # before the modules that follow; 0 where no config tells
    max_tokens: int
    tokens_per_image: int = 0
    tokens_per_frame: float = 0.0
    text_padding: int | None = None
    audio_rate: int = 0
    audio_window_s: float = 0.0
    video_frames: int = 0


def traits_of(
    files: ModelFolder, folder: Path, config: dict[str, Any], family: Family, modalities: frozenset[Modality]
) -> Traits:
    """The traits of the model whose `config` and processor lie in `folder`."""
    readers: dict[Family, Callable[[_Source], Traits]] = {
        Family.CLIP: _clip,
        Family.SIGLIP: _siglip,
        Family.CLAP: _clap,
        Family.VIDEOPRISM: _videoprism,
        Family.QWEN_VL: _chat,
        Family.OMNI: _chat,
    }
    return readers.get(family, _text)(_Source(files, folder, config, modalities))


@dataclass(frozen=True, slots=True)
class _Source:
    """Where traits are read from."""

    files: ModelFolder
    folder: Path
    config: dict[str, Any]
    modalities: frozenset[Modality]

    def tower(self, name: str) -> dict[str, Any]:
        return self.files.part(self.config, f"{name}_config")

    def number(self, config: dict[str, Any], key: str, default: int = 0) -> int:
        return self.files.number(config, key, default)

    def processor(self, part: str, *others: str) -> dict[str, Any]:
        """The config of one part of the processor: today in one file with the rest, before in a file of its own."""
        together = self.files.part(self.files.optional(self.folder / "processor_config.json"), part)
        for name in others:
            together = together or self.files.optional(self.folder / name)
        return together

    def max_tokens(self, text: dict[str, Any], default: int) -> int:
        """Texts are cut to the positions that the model has, or to fewer if its tokenizer says so."""
        positions = self.number(text, "max_position_embeddings", default)
        tokenizer = self.files.optional(self.folder / "tokenizer_config.json")  # 1e30 where nobody set it
        declared = self.number(self.files.optional(self.folder / "sentence_bert_config.json"), "max_seq_length")
        return declared or min(self.number(tokenizer, "model_max_length", positions), positions) or default


def _text(source: _Source) -> Traits:
    return Traits(
        dim=source.files.first_number(source.config, _HIDDEN), max_tokens=source.max_tokens(source.config, 512)
    )


def _clip(source: _Source) -> Traits:
    vision = source.tower("vision")
    return Traits(
        dim=source.number(source.config, "projection_dim", 512),
        max_tokens=source.max_tokens(source.tower("text"), 77),
        tokens_per_image=_patches(source, vision, patch_size=32) + 1,
    )


def _siglip(source: _Source) -> Traits:
    vision = source.tower("vision")
    positions = source.number(source.tower("text"), "max_position_embeddings", 64)
    return Traits(
        dim=source.number(vision, "hidden_size", 768),
        max_tokens=positions,
        tokens_per_image=source.number(vision, "num_patches") or _patches(source, vision, patch_size=16),
        text_padding=positions,
    )


def _clap(source: _Source) -> Traits:
    rate, window_s = _audio(source)
    return Traits(
        dim=source.number(source.config, "projection_dim", 512),
        max_tokens=source.max_tokens(source.tower("text"), 512),
        audio_rate=rate,
        audio_window_s=window_s,
    )


def _videoprism(source: _Source) -> Traits:
    vision = source.tower("vision")
    side = source.number(vision, "image_size", 288) // max(1, _tubelet_side(vision))
    return Traits(
        dim=source.number(vision, "hidden_size", 768),
        max_tokens=source.max_tokens(source.tower("text"), 64),
        tokens_per_frame=float(side * side),
        video_frames=source.number(vision, "num_frames", 16),
    )


def _tubelet_side(vision: dict[str, Any]) -> int:
    tubelet = vision.get("tubelet_size")
    return int(tubelet[-1]) if isinstance(tubelet, list) and tubelet and isinstance(tubelet[-1], int) else 18


def _chat(source: _Source) -> Traits:
    text = source.tower("text") or source.config
    rate, window_s = _audio(source) if Modality.AUDIO in source.modalities else (0, 0.0)
    return Traits(
        dim=source.files.first_number(text, _HIDDEN),
        max_tokens=source.max_tokens(text, 32_768),
        tokens_per_image=_image_tokens(source) if Modality.IMAGE in source.modalities else 0,
        tokens_per_frame=_frame_tokens(source) if Modality.VIDEO in source.modalities else 0.0,
        audio_rate=rate,
        audio_window_s=window_s,
    )


def _audio(source: _Source) -> tuple[int, float]:
    """Samples a second, and the seconds of the longest sound."""
    extractor = source.processor("feature_extractor", "preprocessor_config.json")
    rate = source.number(extractor, "sampling_rate")
    if not rate:
        raise source.files.error("its audio rate is in none of its configs; get its preprocessor_config.json")
    samples = source.files.first_number(extractor, ("nb_max_samples", "n_samples"))
    seconds = source.files.first_number(extractor, ("max_length_s", "chunk_length"))
    return rate, samples / rate if samples else float(seconds)


def _patches(source: _Source, vision: dict[str, Any], *, patch_size: int) -> int:
    side = source.number(vision, "image_size", 224) // max(1, source.number(vision, "patch_size", patch_size))
    return side * side


def _image_tokens(source: _Source) -> int:
    images = source.processor("image_processor", "preprocessor_config.json")
    return _largest(source, images) // _pixels_per_token(source, images)


def _frame_tokens(source: _Source) -> float:
    """Two frames make one layer of tokens. Qwen3's limit is for the whole film, which has `min_frames` at least."""
    films = source.processor("video_processor", "video_preprocessor_config.json", "preprocessor_config.json")
    pixels = _largest(source, films)
    if str(films.get("video_processor_type", "")).startswith("Qwen3VL"):
        pixels //= max(1, source.number(films, "min_frames", 4))
    return pixels / _pixels_per_token(source, films) / max(1, source.number(films, "temporal_patch_size", 2))


def _largest(source: _Source, processor: dict[str, Any]) -> int:
    size = source.files.part(processor, "size")
    return (
        source.number(size, "longest_edge")
        or source.number(processor, "max_pixels")
        or source.number(size, "max_pixels", _LARGEST_IMAGE)
    )


def _pixels_per_token(source: _Source, processor: dict[str, Any]) -> int:
    vision = source.tower("vision")
    patch = source.number(processor, "patch_size") or source.number(vision, "patch_size", 14)
    merged = source.number(processor, "merge_size") or source.number(vision, "spatial_merge_size", 2)
    return int(max(1, (patch * merged) ** 2))
