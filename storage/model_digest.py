"""The digest of a model: one hash over every file that can change a vector."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import ModelError

#: Files that can change a vector.
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def folder_digest(folder: Path) -> str:
    """sha256 over the sorted names and sha256s of the files that can change a vector."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in _relevant(folder)):
        digest.update(f"{name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The hex sha256 of a file; raises ModelError where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise ModelError(f"{path} cannot be read: {err.strerror}; install the model anew") from err


def _relevant(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and any(path.match(pattern) for pattern in PATTERNS) and path.is_file():
            yield path
