"""A job's published files, found and read as any reader of the folder does, without embedmill's own listing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from storage.store import Store, open_store


class Published(Protocol):
    """The objects of one job's prefix."""

    @property
    def url(self) -> str: ...

    def names(self, prefix: str) -> dict[str, int]:
        """The keys below `prefix`, and each one's bytes."""

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PublishedFolder:
    """A folder, by globbing."""

    url: str

    def names(self, prefix: str) -> dict[str, int]:
        folder, found = Path(self.url), {}
        for path in (folder / prefix).rglob("*"):
            try:
                if path.is_file():
                    found[path.relative_to(folder).as_posix()] = path.stat().st_size
            except FileNotFoundError:
                continue  # gone between the glob and the look: whoever had seen it will say so
        return found

    def read(self, name: str) -> bytes:
        return (Path(self.url) / name).read_bytes()


@dataclass(frozen=True, slots=True)
class PublishedObjects:
    """An object store, by listing."""

    url: str
    store: Store

    def names(self, prefix: str) -> dict[str, int]:
        return {item.key: item.size for item in self.store.walk(prefix)}

    def read(self, name: str) -> bytes:
        return self.store.get(name)


def published_at(url: str) -> Published:
    """The files at `url`, a folder or an s3:// prefix."""
    return PublishedObjects(url, open_store(url)) if "://" in url else PublishedFolder(url)
