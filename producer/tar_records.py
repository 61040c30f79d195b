"""webdataset tars as manifests: what lies together under one key is a row, or a row for each of its media."""

import contextlib
import dataclasses
import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO

from producer.folder_records import files_below
from producer.manifest_source import changed, manifest_errors, open_source, version_of
from producer.records import Line, Record, relative_uri
from producer.tar_groups import TarGroup
from producer.tar_members import FOLDER, TarMember, tar_members
from schemas.errors import ManifestError
from schemas.failures import Reject
from schemas.redaction import redact
from storage.store import canonical_location

#: A key is all up to the first dot of a member's last name; hidden files have none, and "__" is webdataset's own.
_KEY = re.compile(r"((?:.*/)?(?!__)[^./][^./]*)\.([^/]*)", re.DOTALL)
_RANGE = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}")
_GZIP = b"\x1f\x8b"


class TarManifest:
    """The rows of plain tars, in the order of the tars and of their members.

    A medium is a row with the uri `shard.tar::member`; a text beside it is its column `caption` and is not embedded.
    A text without a medium is a row of text. The id is the key; of several media or texts, the key with the ending.
    The top level of a JSON beside them is columns for --keep; its `text` or `caption` stands in for a text member.
    """

    columns: tuple[str, ...] | None = None  # each row has its own

    def __init__(self, location: str, base: str, tars: Callable[[], Iterable[str]]) -> None:
        self.location = location
        self.name = redact(location)  # what messages call it
        self.base = base  # what the uris are relative to
        self.sha256: str | None = None  # known once records() came to its end
        self.left_out = 0  # members of other endings; known then, too
        self._tars = tars  # their paths below the base

    def natural_type(self, column: str) -> str:
        """The type of a kept column when the user named none."""
        return "string"

    def records(self, columns: Collection[str] | None = None) -> Iterator[Line]:
        """Each row's place in the order and record, or Reject; `columns` changes nothing.

        Raises ManifestError when a tar cannot be read, is cut off, or changed since it was first read.
        """
        reading = _Reading()
        for number, found in enumerate(self._rows(reading), start=1):
            yield number, dataclasses.replace(found, line=number) if isinstance(found, Reject) else found
        if self.sha256 not in (None, reading.hash.hexdigest()):
            raise changed(self.name)
        self.sha256, self.left_out = reading.hash.hexdigest(), reading.left_out

    def digest(self) -> str:
        """The sha256 that reading the records will give: of the tars' sizes and times, and of all headers.

        The content is left out: it would be gigabytes, and no tar's content changes while its time stays.
        """
        reading = _Reading()
        for tar in self._tars():
            with self._opened(tar, reading) as archive:
                for _ in archive.members(reading):
                    pass
        return reading.hash.hexdigest()

    def _rows(self, reading: "_Reading") -> Iterator[Record | Reject]:
        for tar in self._tars():
            with self._opened(tar, reading) as archive:
                for group in _groups(archive, reading):
                    yield from group.records(archive.uri)

    @contextlib.contextmanager
    def _opened(self, tar: str, reading: "_Reading") -> Iterator["_Archive"]:
        location = posixpath.join(self.base, tar)
        name = redact(location)
        with manifest_errors(name), open_source(location) as file:
            if file.read(len(_GZIP)) == _GZIP:
                raise compressed(name)
            size, version = version_of(file)
            reading.note(tar, size, version)
            yield _Archive(file=file, size=size, name=name, uri=relative_uri(tar))

    def require(self, most: int | None = None) -> None:
        """Raise ManifestError unless the tars, or the first `most`, are there and are not compressed."""
        for tar in islice(self._tars(), most):
            with self._opened(tar, _Reading()):
                pass


def open_tars(location: str) -> TarManifest:
    """The tar, or the tars of a brace range such as `shard-{000..009}.tar`; raises ManifestError where one is missing.

    Of a range on S3 only the first is looked for: the others would take a request each.
    """
    pattern = canonical_location(location)
    base = posixpath.dirname(pattern.partition("{")[0] if _RANGE.search(pattern) else pattern)
    below = pattern.removeprefix(base).removeprefix("/")
    manifest = TarManifest(location, base, lambda: _expanded(below))
    manifest.require(1 if "://" in pattern else None)
    return manifest


def open_folder_of_tars(location: str) -> TarManifest:
    """All tars below a folder or S3 prefix, in the order of their paths' bytes."""
    return TarManifest(
        location,
        canonical_location(location),
        lambda: (path for path, version in files_below(location, is_tar) if version is not None),
    )


def is_tar(path: str) -> bool:
    """Whether the ending of `path` is that of a tar that can be read at random."""
    return path.endswith(".tar")


def compressed(name: str) -> ManifestError:
    return ManifestError(f"{name} is a compressed tar: its members cannot be read alone; unpack it to a plain .tar")


def _expanded(pattern: str) -> Iterator[str]:
    """The names that a pattern with ranges in braces stands for, in order."""
    found = _RANGE.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield from _expanded(f"{pattern[: found.start()]}{number:0{width}}{pattern[found.end() :]}")


class _Reading:
    """What one reading of the tars finds beside rows."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.left_out = 0

    def note(self, name: str, *values: object) -> None:
        """Take a tar or a member into the digest."""
        self.hash.update(os.fsencode(name) + f"\0{values}\0".encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Archive:
    """One opened tar."""

    file: IO[bytes]
    size: int  # bytes
    name: str  # what messages call it
    uri: str

    def members(self, reading: _Reading) -> Iterator[TarMember]:
        for member in tar_members(self.file, self.size, self.name):
            reading.note(member.name, member.offset, member.size, member.kind)
            yield member

    def content(self, member: TarMember) -> bytes:
        self.file.seek(member.offset)
        data = self.file.read(member.size)
        if len(data) != member.size:
            raise changed(self.name)
        return data


def _groups(archive: _Archive, reading: _Reading) -> Iterator[TarGroup]:
    """The groups of an archive; members without an ending belong to none."""
    group = TarGroup("", archive.name)
    for member in archive.members(reading):
        if member.kind == FOLDER:
            continue
        found = _KEY.fullmatch(member.name)
        if found is None and not member.kind:
            reading.left_out += 1
            continue
        key, ending = found.groups() if found else (member.name, "")
        if group.key != key:
            yield group
            group = TarGroup(key, archive.name)
        reading.left_out += not group.take(member, ending, archive.content)
    yield group
