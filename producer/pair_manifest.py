"""The manifest of a rerank job: the pairs, in a file with two columns of ids, or in the folder of a join."""

import hashlib
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

from producer.manifest import ENDINGS, Manifest, open_manifest
from producer.records import Line
from schemas.errors import ManifestError
from schemas.failures import Reject, one_line
from schemas.redaction import redact
from storage import layout
from storage.answers import require_ended
from storage.store import canonical_location, open_store

#: Names of the columns that pairs are known by, those of the queries first.
NAMES = (("query_id", "item_id"), ("left_id", "right_id"))


def open_pairs(location: str) -> Manifest:
    """The pairs at `location`; raises ManifestError where none can be read, Refused while some are missing."""
    files = [] if _is_file(location) else _published_files(location)
    return PairFolder(location, files) if files else open_manifest(location)


def pair_columns(manifest: Manifest, query: str = "", item: str = "") -> tuple[str, str]:
    """The columns of the queries' and the items' ids: those that were named, else those there are."""
    if bool(query) != bool(item):
        raise ManifestError("--query-column and --item-column go together; give both, or neither")
    there = manifest.columns if manifest.columns is not None else _columns_seen(manifest)
    wanted = ((query, item),) if query else NAMES
    for names in wanted:
        if set(names) <= set(there):
            return names
    asked = " or ".join(" and ".join(names) for names in wanted)
    found = one_line(", ".join(there)) or "none"
    raise ManifestError(
        f"{manifest.name} has no columns {asked}; it has {found}; name them with --query-column and --item-column"
    )


class PairFolder:
    """The pairs in the Parquet files below data/ of a join, or of a rerank job, one after the other."""

    left_out = 0

    def __init__(self, location: str, files: list[str]) -> None:
        self.location, self.name = location, redact(location)
        self.sha256: str | None = None
        self._files = [open_manifest(file) for file in files]

    @property
    def base(self) -> str:
        """The folder itself; pairs name no media."""
        return self.location

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Those of the first file: a join gives all its files the same."""
        return self._files[0].columns or ()

    def natural_type(self, column: str) -> str:
        return self._files[0].natural_type(column)

    def records(self, columns: Collection[str] | None = None) -> Iterator[Line]:
        """Each pair, numbered through all files."""
        before = 0
        for file in self._files:
            last = 0
            for number, record in file.records(columns):
                last = number
                yield before + number, record
            before += last
        self.sha256 = self._digest_of([file.sha256 or "" for file in self._files])

    def digest(self) -> str:
        return self._digest_of([file.digest() for file in self._files])

    def _digest_of(self, digests: list[str]) -> str:
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _is_file(location: str) -> bool:
    """Whether a location is that of one file; an object, where its name ends like a manifest's."""
    if "://" in location:
        return location.lower().removesuffix(".gz").endswith(ENDINGS)
    return not Path(location).expanduser().is_dir()


def _published_files(location: str) -> list[str]:
    """The Parquet files below data/ of a folder, in their order; raises Refused where more of them are to come."""
    store = open_store(canonical_location(location))
    require_ended(store)
    keys = [item.key for item in store.walk(layout.DATA) if item.key.endswith(".parquet")]
    return [f"{store.url.rstrip('/')}/{key}" for key in sorted(keys)]


def _columns_seen(manifest: Manifest) -> tuple[str, ...]:
    """The columns of the first record."""
    for _, record in manifest.records():
        if not isinstance(record, Reject):
            return tuple(record)
    return ()
