"""Model inspection: the card of a folder in hub layout, from its configs and safetensors headers alone."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ModelError
from schemas.model_cards import Family, ModelCard
from schemas.rows import Modality
from storage.model_digest import folder_digest

#: Weights whose formats can run code, or that no loader here takes.
_UNSAFE = frozenset((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".msgpack"))
_HEADER_LIMIT = 100 * 2**20  # bytes of a safetensors header, as the library itself has it

_MODULES = "sentence_transformers."
_FIRST_MODULES = ("Transformer", "CLIPModel")
_WEIGHTLESS_MODULES = ("Pooling", "Normalize", "Dropout")

_TEXT = frozenset({Modality.TEXT})
_TEXT_AND_IMAGE = frozenset({Modality.TEXT, Modality.IMAGE})
_COVERED = "this version embeds with text, CLIP and SigLIP models"


def inspect_folder(name: str, folder: Path, *, revision: str | None = None) -> ModelCard:
    """The card of a model folder in hub layout, from its configs and safetensors headers.

    Raises ModelError like `resolve_model`.
    """
    files = _Files(name, folder)
    modules = _modules(files)
    config = files.object(modules[0].path / "config.json")
    _refuse_remote_code(files, modules)
    _refuse_other_kinds(files, modules, config)
    _refuse_unsafe_weights(files, modules)
    traits = _traits(files, modules, config)
    return ModelCard(
        name=name,
        family=traits.family,
        dim=_dim_after(files, modules[1:], traits.dim),
        modalities=_TEXT if traits.family is Family.SENTENCE_TRANSFORMER else _TEXT_AND_IMAGE,
        digest=folder_digest(folder),
        revision=revision,
        params=sum(_params(files, module.path) for module in modules),
        max_tokens=traits.max_tokens,
        tokens_per_image=traits.tokens_per_image,
        text_padding=traits.text_padding,
    )


@dataclass(frozen=True, slots=True)
class _Files:
    """A model's folder, read by parts; what cannot be read is a ModelError that names it."""

    name: str
    folder: Path

    def json(self, path: Path) -> Any:  # Any: JSON
        try:
            return json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as err:
            raise self.error(f"{path.name} cannot be read ({type(err).__name__}); get it anew") from err

    def object(self, path: Path) -> dict[str, Any]:
        """The JSON object in a file that must be there."""
        found = self.json(path)
        if not isinstance(found, dict):
            where = path.relative_to(self.folder).as_posix()
            raise self.error(
                f"it has no {where}; give a folder in hub layout" if found is None else f"{where} is no JSON object"
            )
        return found

    def optional(self, path: Path) -> dict[str, Any]:
        """The JSON object in a file, empty where there is none."""
        return self.object(path) if path.exists() else {}

    def number(self, config: dict[str, Any], key: str, default: int = 0) -> int:
        """The whole number of a config; `default` where it is absent or null."""
        value = config.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise self.error(f"its config says {key} = {value!r}, which is no size")
        return int(value)

    def error(self, what: str) -> ModelError:
        return ModelError(f"model {self.name}: {what}")


@dataclass(frozen=True, slots=True)
class _Module:
    """One entry of modules.json."""

    kind: str  # its class, without the package
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """What the architecture alone says."""

    family: Family
    dim: int
    max_tokens: int
    tokens_per_image: int = 0
    text_padding: int | None = None


def _modules(files: _Files) -> list[_Module]:
    """The modules in their order; a plain transformers folder is one Transformer."""
    raw = files.json(files.folder / "modules.json")
    if raw is None:
        return [_Module("Transformer", files.folder)]
    if not isinstance(raw, list) or not raw or not all(isinstance(entry, dict) for entry in raw):
        raise files.error("modules.json is no list of modules")
    return [_module(files, entry) for entry in raw]


def _module(files: _Files, entry: dict[str, Any]) -> _Module:
    kind = str(entry.get("type", ""))
    if not kind.startswith(_MODULES):
        raise files.error(f"its module {kind} is code of its own; remote code is never run")
    path = (files.folder / str(entry.get("path", ""))).resolve()
    if not path.is_relative_to(files.folder):
        raise files.error(f"modules.json leads out of the folder, to {entry.get('path')}")
    return _Module(kind.rpartition(".")[2], path)


def _refuse_remote_code(files: _Files, modules: list[_Module]) -> None:
    for folder in {files.folder, modules[0].path}:
        for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
            if "auto_map" in files.optional(folder / name):
                raise files.error(f"{name} asks for code of its own (auto_map); remote code is never run")


def _refuse_other_kinds(files: _Files, modules: list[_Module], config: dict[str, Any]) -> None:
    declared = files.optional(files.folder / "config_sentence_transformers.json").get("model_type")
    if declared not in (None, "SentenceTransformer"):
        raise files.error(f"it is a {declared}; {_COVERED}")
    if modules[0].kind not in _FIRST_MODULES:
        raise files.error(f"it begins with a {modules[0].kind} module; {_COVERED}")
    if (modules[0].path / "adapter_config.json").exists():
        raise files.error("it is an adapter of another model; merge it into one, then give that")
    architecture = next(iter(config.get("architectures") or []), "")
    if str(architecture).endswith("ForSequenceClassification"):
        raise files.error(f"it is a {architecture}, a classifier or reranker; {_COVERED}")
    kind = config.get("model_type")
    if kind not in ("clip", "siglip", "siglip2") and not _is_text_model(config):
        raise files.error(f"it is a {kind} model; {_COVERED}")


def _is_text_model(config: dict[str, Any]) -> bool:
    """Text models alone have a vocabulary, and no tower beside it."""
    return "vocab_size" in config and not any(f"{part}_config" in config for part in ("vision", "audio", "thinker"))


def _refuse_unsafe_weights(files: _Files, modules: list[_Module]) -> None:
    for module in modules:
        if module.kind in _WEIGHTLESS_MODULES:
            continue
        index = files.optional(module.path / "model.safetensors.index.json").get("weight_map")
        shards = set(index.values()) if isinstance(index, dict) else set()
        missing = sorted(str(shard) for shard in shards if not (module.path / str(shard)).is_file())
        if missing:
            raise files.error(f"{missing[0]} is missing; get it anew")
        if not any(module.path.glob("*.safetensors")):
            raise files.error(_no_weights(module.path, files.folder))


def _no_weights(folder: Path, top: Path) -> str:
    unsafe = sorted(path for path in folder.glob("*") if path.suffix in _UNSAFE)
    if not unsafe:
        where = folder.relative_to(top).as_posix()
        return f"{'it' if where == '.' else where} has no weights; safetensors are needed"
    return f"{unsafe[0].relative_to(top).as_posix()} may hold code; safetensors are needed, convert it first"


def _traits(files: _Files, modules: list[_Module], config: dict[str, Any]) -> _Traits:
    kind = config.get("model_type")
    if kind == "clip":
        return _clip_traits(files, config)
    if kind in ("siglip", "siglip2"):
        return _siglip_traits(files, config)
    return _text_traits(files, modules[0].path, config)


def _text_traits(files: _Files, folder: Path, config: dict[str, Any]) -> _Traits:
    hidden = next((n for key in ("hidden_size", "dim", "d_model", "n_embd") if (n := files.number(config, key))), 0)
    positions = files.number(config, "max_position_embeddings", 512)
    tokenizer = files.number(files.optional(folder / "tokenizer_config.json"), "model_max_length", positions)
    declared = files.number(files.optional(folder / "sentence_bert_config.json"), "max_seq_length")
    return _Traits(
        family=Family.SENTENCE_TRANSFORMER, dim=hidden, max_tokens=declared or min(tokenizer, positions) or 512
    )


def _clip_traits(files: _Files, config: dict[str, Any]) -> _Traits:
    text, vision = _tower(files, config, "text"), _tower(files, config, "vision")
    return _Traits(
        family=Family.CLIP,
        dim=files.number(config, "projection_dim", 512),
        max_tokens=files.number(text, "max_position_embeddings", 77),
        tokens_per_image=_patches(files, vision, patch_size=32) + 1,
    )


def _siglip_traits(files: _Files, config: dict[str, Any]) -> _Traits:
    text, vision = _tower(files, config, "text"), _tower(files, config, "vision")
    positions = files.number(text, "max_position_embeddings", 64)
    return _Traits(
        family=Family.SIGLIP,
        dim=files.number(vision, "hidden_size", 768),
        max_tokens=positions,
        tokens_per_image=files.number(vision, "num_patches") or _patches(files, vision, patch_size=16),
        text_padding=positions,
    )


def _tower(files: _Files, config: dict[str, Any], name: str) -> dict[str, Any]:
    tower = config.get(f"{name}_config") or {}
    if not isinstance(tower, dict):
        raise files.error(f"its config's {name}_config is no JSON object")
    return tower


def _patches(files: _Files, vision: dict[str, Any], *, patch_size: int) -> int:
    side = files.number(vision, "image_size", 224) // max(1, files.number(vision, "patch_size", patch_size))
    return side * side


def _dim_after(files: _Files, modules: list[_Module], dim: int) -> int:
    """The dimension that the modules after the first make of `dim`."""
    for module in modules:
        if module.kind == "Pooling":
            dim = _pooled_dim(files, files.object(module.path / "config.json")) or dim
        elif module.kind == "Dense":
            dim = files.number(files.object(module.path / "config.json"), "out_features")
    if not dim:
        raise files.error("its dimension is in none of its configs")
    return dim


def _pooled_dim(files: _Files, pooling: dict[str, Any]) -> int:
    width = files.number(pooling, "embedding_dimension") or files.number(pooling, "word_embedding_dimension")
    named = pooling.get("pooling_mode")
    on = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    modes = 1 if isinstance(named, str) else len(named) if isinstance(named, list) else len(on)
    return width * max(1, modes)


def _params(files: _Files, folder: Path) -> int:
    """The numbers in a folder's safetensors, counted in their headers (8 bytes of length, then JSON)."""
    return sum(_params_of(files, path) for path in folder.glob("*.safetensors"))


def _params_of(files: _Files, path: Path) -> int:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _HEADER_LIMIT else {}
        tensors = [tensor for key, tensor in header.items() if key != "__metadata__"]
        size = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        params: int = sum(math.prod(tensor["shape"]) for tensor in tensors)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as err:
        raise files.error(f"{path.name} is no safetensors file; get it anew") from err
    if path.stat().st_size != size:
        raise files.error(f"{path.name} has {path.stat().st_size} bytes of {size}; get it anew")
    return params
