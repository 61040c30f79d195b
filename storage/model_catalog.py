"""The catalogue: models with a short name, those that embedmill ships cards for and those that users add in TOML."""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from schemas.errors import ModelError
from schemas.model_cards import DTYPE_BYTES, Family, Kind, ModelCard
from schemas.rows import Modality
from storage.model_traits import FAMILY_MODALITIES

#: Names of files with the user's own cards, separated like PATH; else models.toml in the user's configuration.
VARIABLE = "EMBEDMILL_MODELS"

_SHIPPED = Path(__file__).with_name("model_catalog.toml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PROMPT_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_KEYS = (
    "name",
    "repository",
    "folder",
    "revision",
    "family",
    "kind",
    "dim",
    "modalities",
    "params",
    "dtype",
    "max_tokens",
    "prompts",
    "default_prompt",
    "licence",
    "about",
)
_FAMILIES = tuple(FAMILY_MODALITIES)  # the others come with the package, and no card can describe them
_LARGEST = 2**53  # as far as a float counts

E = TypeVar("E", bound=StrEnum)
Prompts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model with a short name, described without looking at its files."""

    name: str
    family: Family
    kind: Kind = Kind.EMBED
    dim: int
    modalities: frozenset[Modality]
    params: int = 0  # 0: not known before its files are
    dtype: str = "float32"  # that its files are stored in
    max_tokens: int = 512
    repository: str = ""  # on the hub
    revision: str | None = None  # 40-hex commit; None: the user must pin
    folder: str = ""  # on this machine
    prompts: Prompts | None = None  # None: those that its files declare
    default_prompt: str = ""
    licence: str = ""  # SPDX; empty: look it up
    about: str = ""
    source: str = ""  # the file that the card is from; empty: it comes with embedmill

    def sketch(self) -> ModelCard:
        """The card as far as it is known without the files: enough to tell the size of device that it needs."""
        return ModelCard(
            name=self.name,
            family=self.family,
            kind=self.kind,
            dim=self.dim,
            modalities=self.modalities,
            digest="",
            revision=self.revision,
            params=self.params,
            dtype=self.dtype,
            max_tokens=self.max_tokens,
            prompts=self.prompts or (),
            default_prompt=self.default_prompt,
            about=self.about,
        )

    def completed(self, inspected: ModelCard) -> ModelCard:
        """The card that its files gave, with this one's prompts; raises ModelError where the two are at odds."""
        for key in ("family", "kind", "dim", "modalities"):
            said, found = getattr(self, key), getattr(inspected, key)
            if said != found:
                where = f"{self.source}: " if self.source else ""
                raise ModelError(
                    f"{where}model {self.name}: {key} is {_shown(said)} on its card and {_shown(found)} in its files; "
                    "correct the card, or give the revision that it is for"
                )
        prompts = inspected.prompts if self.prompts is None else self.prompts
        default = inspected.default_prompt if self.prompts is None else self.default_prompt
        return replace(inspected, prompts=prompts, default_prompt=default, about=self.about)


def read_catalogue(environ: Mapping[str, str], *, taken: Iterable[str] = ()) -> list[KnownModel]:
    """All cards, the shipped ones first; a name of `taken`, or one that is used twice, is refused with ModelError."""
    shipped = [replace(model, source="") for model in read_cards(_SHIPPED)]
    models = shipped + [model for path in _user_files(environ) for model in read_cards(path)]
    seen = dict.fromkeys(taken, "embedmill itself")
    for model in models:
        if model.name in seen:
            raise ModelError(f"{model.source}: model {model.name}: {seen[model.name]} has this name; choose another")
        seen[model.name] = model.source or "embedmill itself"
    return models


def read_cards(path: Path) -> list[KnownModel]:
    """The cards of one TOML file; raises ModelError naming file, card and key."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as err:
        raise ModelError(f"{path} does not exist; correct {VARIABLE}") from err
    except (OSError, ValueError) as err:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ModelError(f"{path} cannot be read: {err}; it must be TOML with [[model]] tables") from err
    unknown = sorted(set(content) - {"model"})
    if unknown:
        raise ModelError(f"{path}: {unknown[0]} is unknown; cards are [[model]] tables")
    tables = content.get("model", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ModelError(f"{path}: model is no list of tables; write [[model]] before each card")
    return [_card(_Table(path, number, table)) for number, table in enumerate(tables, 1)]


def _user_files(environ: Mapping[str, str]) -> list[Path]:
    named = environ.get(VARIABLE, "")
    if named:
        return [Path(name).expanduser() for name in named.split(os.pathsep) if name]
    base = Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    default = base / "embedmill" / "models.toml"
    return [default] if default.is_file() else []


def _shown(value: object) -> str:
    return ", ".join(sorted(value)) if isinstance(value, frozenset) else str(value)


# --- one card


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of a file, read key by key; what is wrong is an error that names file, card and key."""

    path: Path
    number: int
    content: dict[str, Any]

    def text(self, key: str, default: str = "", *, pattern: re.Pattern[str] | None = None, form: str = "") -> str:
        """A text, without control characters and of the pattern's form."""
        value = self.content.get(key, default)
        if not isinstance(value, str):
            raise self.error(key, "is no text")
        if not value.isprintable():
            raise self.error(key, "holds control characters")
        if key in self.content and pattern is not None and not pattern.fullmatch(value):
            raise self.error(key, f"is not {form}")
        return value

    def count(self, key: str, default: int = 0) -> int:
        """A whole number that is not negative."""
        value = self.content.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
            raise self.error(key, "is no count")
        return value

    def choice(self, key: str, choices: Iterable[E], default: E | None = None) -> E:
        """One of some words."""
        allowed = tuple(choices)
        value = self.content.get(key, default)
        found = next((choice for choice in allowed if choice == value), None)
        if found is None:
            raise self.error(key, f"is none of {', '.join(allowed)}")
        return found

    def modalities(self, default: frozenset[Modality]) -> frozenset[Modality]:
        """A list of modalities."""
        value = self.content.get("modalities")
        if value is None:
            return default
        known = {str(modality) for modality in Modality}
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v in known for v in value):
            raise self.error("modalities", f"is no list of {', '.join(Modality)}")
        return frozenset(Modality(v) for v in value)

    def prompts(self) -> Prompts | None:
        """A table of prompts by name; None where the card has none, and those of the files are used."""
        value = self.content.get("prompts")
        if value is None:
            return None
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise self.error("prompts", "is no table of texts")
        for name in value:
            if not _PROMPT_NAME.fullmatch(name):
                raise self.error("prompts", f"has the name {name!r}, which is no plain word")
        return tuple(value.items())

    def error(self, key: str, what: str) -> ModelError:
        """A ModelError about a key of this card."""
        name = self.content.get("name")
        card = f"model {name}" if isinstance(name, str) and name.isprintable() else f"model number {self.number}"
        there = f" = {self.content[key]!r}" if key in self.content else ""
        return ModelError(f"{self.path}: {card}: {key}{there} {what}; correct the card")


def _card(table: _Table) -> KnownModel:
    unknown = sorted(set(table.content) - set(_KEYS))
    if unknown:
        raise table.error(unknown[0], f"is unknown; known are {', '.join(_KEYS)}")
    for key in ("name", "family", "dim"):
        if key not in table.content:
            raise table.error(key, "is missing")
    family = table.choice("family", _FAMILIES)
    prompts = table.prompts()
    return KnownModel(
        name=table.text("name", pattern=_NAME, form="a plain word"),
        family=family,
        kind=table.choice("kind", Kind, Kind.RERANK if family is Family.CROSS_ENCODER else Kind.EMBED),
        dim=_dim(table),
        modalities=table.modalities(FAMILY_MODALITIES[family]),
        params=table.count("params"),
        dtype=_dtype(table),
        max_tokens=table.count("max_tokens", 512),
        **_whereabouts(table),
        prompts=prompts,
        default_prompt=_default_prompt(table, prompts),
        licence=table.text("licence"),
        about=table.text("about"),
        source=str(table.path),
    )


def _dim(table: _Table) -> int:
    dim = table.count("dim")
    if not dim:
        raise table.error("dim", "is no dimension")
    return dim


def _dtype(table: _Table) -> str:
    dtype = table.text("dtype", "float32")
    if dtype not in DTYPE_BYTES:
        raise table.error("dtype", f"is none of {', '.join(DTYPE_BYTES)}")
    return dtype


def _whereabouts(table: _Table) -> dict[str, Any]:  # Any: keyword arguments of KnownModel
    """Where the files are: on the hub, pinned or not, or in a folder."""
    repository = table.text("repository", pattern=_REPOSITORY, form="org/name")
    folder = table.text("folder")
    revision = table.text("revision", pattern=_COMMIT, form="a 40-hex commit")
    if bool(repository) == bool(folder):
        raise table.error("folder" if folder else "repository", "must be there, or a folder: one of the two")
    if folder and revision:
        raise table.error("revision", "is for a repository; a folder is what it is")
    if folder and not Path(folder).expanduser().is_absolute():
        raise table.error("folder", "is relative; give its path from /")
    return {"repository": repository, "folder": folder, "revision": revision or None}


def _default_prompt(table: _Table, prompts: Prompts | None) -> str:
    """The text of the prompt that is used when none is asked for."""
    name = table.text("default_prompt")
    if not name:
        return ""
    if name not in dict(prompts or ()):
        raise table.error("default_prompt", "is the name of none of its prompts")
    return dict(prompts or ())[name]
