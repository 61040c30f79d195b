"""A model's folder in hub layout, read by parts: what cannot be read is an error that names it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ModelError

_MODULES = "sentence_transformers."


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of modules.json."""

    kind: str  # its class, with the package
    path: Path

    @property
    def name(self) -> str:
        """Its class, without the package."""
        return self.kind.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model's folder; all errors name the model as the user did."""

    name: str
    folder: Path

    def modules(self) -> list[Module]:
        """The modules in their order; a plain transformers folder is one Transformer."""
        raw = self.json(self.folder / "modules.json")
        if raw is None:
            return [Module("Transformer", self.folder)]
        if not isinstance(raw, list) or not raw or not all(isinstance(entry, dict) for entry in raw):
            raise self.error("modules.json is no list of modules")
        return [self._module(entry) for entry in raw]

    def _module(self, entry: dict[str, Any]) -> Module:
        kind = str(entry.get("type", ""))
        if not kind.startswith(_MODULES):
            raise self.error(f"its module {kind} is code of its own; remote code is never run")
        path = (self.folder / str(entry.get("path", ""))).resolve()
        if not path.is_relative_to(self.folder):
            raise self.error(f"modules.json leads out of the folder, to {entry.get('path')}")
        return Module(kind, path)

    def json(self, path: Path) -> Any:  # Any: JSON
        """What is in a JSON file, None where there is none."""
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

    def part(self, config: dict[str, Any], key: str) -> dict[str, Any]:
        """The object under a key of a config, empty where it is absent or null."""
        value = config.get(key) or {}
        if not isinstance(value, dict):
            raise self.error(f"its config's {key} is no JSON object")
        return value

    def number(self, config: dict[str, Any], key: str, default: int = 0) -> int:
        """The whole number of a config; `default` where it is absent or null."""
        value = config.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise self.error(f"its config says {key} = {value!r}, which is no size")
        return int(value)

    def first_number(self, config: dict[str, Any], keys: tuple[str, ...]) -> int:
        """The first of these numbers that a config has and that is not zero; 0 where it has none."""
        return next((number for key in keys if (number := self.number(config, key))), 0)

    def error(self, what: str) -> ModelError:
        """A ModelError about this model."""
        return ModelError(f"model {self.name}: {what}")
