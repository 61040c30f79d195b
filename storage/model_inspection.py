"""Model inspection: the card of a folder in hub layout, from its configs and safetensors headers alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.model_cards import Family, Kind, ModelCard
from schemas.rows import Modality
from storage.model_digest import folder_digest
from storage.model_folder import ModelFolder, Module
from storage.model_traits import CHAT_FAMILIES, FAMILY_MODALITIES, traits_of
from storage.model_weights import weights_of

_FIRST_MODULES = ("Transformer", "CLIPModel")
_CODE_FILES = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
#: Families by the model_type of config.json.
_FAMILIES = {
    "clip": Family.CLIP,
    "siglip": Family.SIGLIP,
    "siglip2": Family.SIGLIP,
    "clap": Family.CLAP,
    "videoprism": Family.VIDEOPRISM,
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), Family.QWEN_VL),
    **dict.fromkeys(("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"), Family.OMNI),
}
_TOWERS = {
    frozenset({Modality.TEXT}): Family.SENTENCE_TRANSFORMER,
    FAMILY_MODALITIES[Family.CLIP]: Family.CLIP,
    FAMILY_MODALITIES[Family.CLAP]: Family.CLAP,
    FAMILY_MODALITIES[Family.VIDEOPRISM]: Family.VIDEOPRISM,
}
_KINDS = {"": Kind.EMBED, "SentenceTransformer": Kind.EMBED, "CrossEncoder": Kind.RERANK}
_COVERED = "embedmill takes models of texts, images, sounds, films and mixtures that sentence-transformers loads"


def inspect_folder(name: str, folder: Path, *, revision: str | None = None) -> ModelCard:
    """The card of a model folder in hub layout, from its configs and safetensors headers.

    Raises ModelError like `resolve_model`.
    """
    found = _read(ModelFolder(name, folder))
    files, modules = found.files, found.modules
    _refuse_unfit(found)
    family = _family(found)
    modalities = _modalities(found, family)
    weights = weights_of(files, modules)
    traits = traits_of(files, modules[0].path, found.config, family, modalities)
    prompts, default_prompt = _prompts(found)
    return ModelCard(
        name=name,
        family=family,
        kind=found.kind,
        dim=_scores(found) if found.kind is Kind.RERANK else _dim_after(files, modules[1:], traits.dim),
        modalities=modalities,
        digest=folder_digest(folder),
        revision=revision,
        params=weights.params,
        dtype=weights.dtype,
        max_tokens=traits.max_tokens,
        tokens_per_image=traits.tokens_per_image,
        tokens_per_frame=traits.tokens_per_frame,
        text_padding=traits.text_padding,
        prompts=prompts,
        default_prompt=default_prompt,
        audio_rate=traits.audio_rate,
        audio_window_s=traits.audio_window_s,
        video_frames=traits.video_frames,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What every question about a model is answered from."""

    files: ModelFolder
    modules: list[Module]
    config: dict[str, Any]  # of the first module
    saved: dict[str, Any]  # config_sentence_transformers.json: prompts, and the class that it was saved as
    declared: frozenset[str]  # modalities that sentence-transformers wrote down

    @property
    def architecture(self) -> str:
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def saved_as(self) -> str:
        """The class of sentence-transformers that it was saved as; versions before 5 did not write it down."""
        return str(self.saved.get("model_type") or "")

    @property
    def is_plain(self) -> bool:
        """Whether transformers, and not sentence-transformers, saved it."""
        return not (self.files.folder / "modules.json").exists()

    @property
    def kind(self) -> Kind:
        """Rerankers from before sentence-transformers wrote their kind down are known by their architecture."""
        classifies = self.architecture.endswith("ForSequenceClassification")
        if not self.saved_as and classifies and not any(module.name == "Pooling" for module in self.modules):
            return Kind.RERANK
        return _KINDS[self.saved_as]


def _read(files: ModelFolder) -> _Found:
    modules = files.modules()
    first = modules[0].path
    declared = files.part(files.optional(first / "sentence_bert_config.json"), "modality_config")
    return _Found(
        files=files,
        modules=modules,
        config=files.object(first / "config.json"),
        saved=files.optional(files.folder / "config_sentence_transformers.json"),
        declared=frozenset(declared),
    )


# --- refusals


def _refuse_unfit(found: _Found) -> None:
    """Raise ModelError for a model that asks for code, or that makes neither vectors nor scores."""
    files, modules = found.files, found.modules
    for folder in {files.folder, modules[0].path}:
        for name in _CODE_FILES:
            if "auto_map" in files.optional(folder / name):
                raise files.error(f"{name} asks for code of its own (auto_map); remote code is never run")
    _refuse_other_outputs(found)
    if modules[0].name not in _FIRST_MODULES:
        raise files.error(f"it begins with a {modules[0].name} module; {_COVERED}")
    if (modules[0].path / "adapter_config.json").exists():
        raise files.error("it is an adapter of another model; merge it into one, then give that")
    for module in modules:
        if module.name == "LogitScore" and "true_token_id" not in files.optional(module.path / "config.json"):
            where = module.path.relative_to(files.folder).as_posix()
            raise files.error(f"its score head says no token: {where}/config.json has no true_token_id; correct it")


def _refuse_other_outputs(found: _Found) -> None:
    sparse, several = (
        any(f".{package}." in module.kind for module in found.modules)
        for package in ("sparse_encoder", "multi_vector_encoder")
    )
    if found.saved_as == "SparseEncoder" or sparse:
        raise found.files.error("it is a SparseEncoder, whose vectors are sparse; give a model of dense vectors")
    if found.saved_as == "MultiVectorEncoder" or several or found.architecture.endswith("ForRetrieval"):
        raise found.files.error("it is a MultiVectorEncoder, with many vectors a row; give a model of one vector")
    if found.saved_as not in _KINDS:
        raise found.files.error(f"it is a {found.saved_as}; {_COVERED}")


# --- family, modalities, kind


def _family(found: _Found) -> Family:
    kind = found.config.get("model_type")
    if kind == "conse":
        raise found.files.error("it is the model that comes with embedmill; give its short name, demo")
    family = _FAMILIES.get(str(kind)) or _declared_family(found)
    if family is None and _is_text_model(found.config):
        family = Family.SENTENCE_TRANSFORMER
    if family is None:
        raise found.files.error(f"it is a {kind} model; {_COVERED}")
    if family in CHAT_FAMILIES and found.is_plain:
        raise found.files.error(
            f"it is a {kind} model without an embedding or score head saved beside it; save it once with "
            'sentence-transformers as Transformer, Pooling("lasttoken"), Normalize, and give that folder'
        )
    if family is Family.SENTENCE_TRANSFORMER and found.kind is Kind.RERANK:
        return Family.CROSS_ENCODER
    return family


def _declared_family(found: _Found) -> Family | None:
    """The family of an architecture that is not known by name, by the modalities that were written down."""
    takes = _declared_modalities(found)
    if Modality.MIXED in takes:
        return Family.OMNI if Modality.AUDIO in takes else Family.QWEN_VL
    return _TOWERS.get(takes)


def _declared_modalities(found: _Found) -> frozenset[Modality]:
    """A model with a chat template (`message`) takes several parts in one input, if it knows more than one."""
    alone = frozenset(Modality(name) for name in found.declared if name in {*Modality} - {Modality.MIXED})
    return alone | {Modality.MIXED} if "message" in found.declared and len(alone) > 1 else alone


def _modalities(found: _Found, family: Family) -> frozenset[Modality]:
    return _declared_modalities(found) or FAMILY_MODALITIES[family]


def _is_text_model(config: dict[str, Any]) -> bool:
    """Text models alone have a vocabulary, and no tower beside it."""
    return "vocab_size" in config and not any(f"{part}_config" in config for part in ("vision", "audio", "thinker"))


# --- what it gives


def _prompts(found: _Found) -> tuple[tuple[tuple[str, str], ...], str]:
    """The prompts by name, and the text of the default; sentence-transformers writes down empty ones too."""
    prompts = found.files.part(found.saved, "prompts")
    for name, text in prompts.items():
        if not isinstance(text, str):
            raise found.files.error(f"its prompt {name} is no text; correct config_sentence_transformers.json")
    default = found.saved.get("default_prompt_name")
    said = tuple((name, text) for name, text in prompts.items() if text)
    return said, prompts.get(default, "") if isinstance(default, str) else ""


def _scores(found: _Found) -> int:
    """How many scores a pair is given: 1 for a relevance, else one a label."""
    modules = found.modules[1:]
    if any(module.name in ("LogitScore", "Dense") for module in modules):
        return _dim_after(found.files, modules, 1)
    labels = found.config.get("id2label")
    return len(labels) if isinstance(labels, dict) and labels else found.files.number(found.config, "num_labels", 2)


def _dim_after(files: ModelFolder, modules: list[Module], dim: int) -> int:
    """The dimension that the modules after the first make of `dim`."""
    for module in modules:
        if module.name == "Pooling":
            dim = _pooled_dim(files, files.object(module.path / "config.json")) or dim
        elif module.name == "Dense":
            dim = files.number(files.object(module.path / "config.json"), "out_features")
    if not dim:
        raise files.error("its dimension is in none of its configs")
    return dim


def _pooled_dim(files: ModelFolder, pooling: dict[str, Any]) -> int:
    width = files.first_number(pooling, ("embedding_dimension", "word_embedding_dimension"))
    named = pooling.get("pooling_mode")
    on = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    modes = 1 if isinstance(named, str) else len(named) if isinstance(named, list) else len(on)
    return width * max(1, modes)
