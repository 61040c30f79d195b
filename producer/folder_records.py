"""Folders as manifests: every medium below a folder, or below an S3 prefix, is a row."""

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from functools import cached_property

from producer.manifest_source import changed, listed_objects, manifest_errors
from producer.records import Line, name_reject, relative_uri
from schemas.redaction import redact
from schemas.rows import modality_of_uri
from storage.store import canonical_location

#: A folder of this name is a local store's own.
_PRIVATE = b"_tmp"
#: A folder that holds a file of this name is a job's.
_JOB = b"job.json"

#: A file's path below the folder, and its version, which changes with its content; None for what is not asked for.
Found = tuple[str, str | None]


class FolderManifest:
    """Every medium below a folder, in the order of the paths' bytes; id and uri are the path from there.

    Not entered: hidden folders, `_tmp`, links to folders, and folders in it that hold a `job.json`, as a job's do.
    Hidden files are none of it. A link to a file is listed, a broken one too: that row fails, and says why.
    Below an S3 prefix, a `job.json` does not count: who lists it meets the files of a job before it.
    """

    columns: tuple[str, ...] | None = ("id", "modality", "uri")

    def __init__(self, location: str) -> None:
        self.location = location
        self.name = redact(location)  # what messages call it
        self.sha256: str | None = None  # of paths, sizes and times; known once records() came to its end
        self.left_out = 0  # files whose ending is none of a medium; known then, too

    @cached_property
    def base(self) -> str:
        """What the uris are relative to: the folder itself."""
        return canonical_location(self.location)

    def natural_type(self, column: str) -> str:
        """The type of a kept column when the user named none."""
        return "string"

    def records(self, columns: Collection[str] | None = None) -> Iterator[Line]:
        """Each medium's place in the order and record, or Reject; `columns` changes nothing.

        Raises ManifestError when the folder cannot be read, or changed since it was first read.
        """
        digest, left_out, number = hashlib.sha256(), 0, 0
        for path, version in files_below(self.location, is_medium):
            if version is None:
                left_out += 1
                continue
            number += 1
            digest.update(_digested(path, version))
            record = {"id": path, "modality": modality_of_uri(path), "uri": relative_uri(path)}
            yield number, name_reject(number, path) or record
        if self.sha256 not in (None, digest.hexdigest()):
            raise changed(self.name)
        self.sha256, self.left_out = digest.hexdigest(), left_out

    def digest(self) -> str:
        """The sha256 that reading the records will give."""
        digest = hashlib.sha256()
        for path, version in files_below(self.location, is_medium):
            if version is not None:
                digest.update(_digested(path, version))
        return digest.hexdigest()


def files_below(location: str, wanted: Callable[[str], bool]) -> Iterator[Found]:
    """The files below a folder or S3 prefix, in the order of their paths' bytes; hidden ones are not told of.

    Bytes of a path that are not UTF-8 are lone surrogates. Raises ManifestError when it cannot be read.
    """
    with manifest_errors(redact(location)):
        if location.startswith("s3://"):
            yield from _objects_below(location, wanted)
        else:
            yield from _local_files(os.fsencode(canonical_location(location)), wanted)


def is_medium(path: str) -> bool:
    """Whether the ending of `path` is one of images, sounds or films."""
    return modality_of_uri(path) is not None


def _digested(path: str, version: str) -> bytes:
    return b"%s\0%s\0" % (os.fsencode(path), version.encode())


def _local_files(root: bytes, wanted: Callable[[str], bool]) -> Iterator[Found]:
    """The files of the tree; held in memory are the names of one folder and of those around it."""
    pending = _names(root, b"")
    while pending:
        path = pending.pop()
        if path.endswith(b"/"):
            pending += _names(root, path)
            continue
        name = os.fsdecode(path)
        yield name, _version(os.path.join(root, path)) if wanted(name) else None  # noqa: PTH118  # bytes


def _names(root: bytes, folder: bytes) -> list[bytes]:
    """What is in `folder`, the last first, as paths from `root`; folders end in a slash, as they are sorted with."""
    names = []
    try:
        with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118  # bytes
            for entry in entries:
                if entry.name == _JOB and folder:
                    return []
                if not entry.name.startswith(b".") and entry.name != _PRIVATE:
                    names.append(folder + entry.name + (b"/" if entry.is_dir(follow_symlinks=False) else b""))
    except FileNotFoundError as err:
        raise changed(os.fsdecode(root)) from err
    return sorted(names, reverse=True)


def _version(path: bytes) -> str | None:
    """Size and time of a file; None for a folder behind a link, a pipe and a device."""
    try:
        status = os.stat(path)  # noqa: PTH116  # bytes
    except OSError:  # a broken link, or one in a circle
        status = _link_status(path)
    regular = stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)
    return f"{status.st_size}:{status.st_mtime_ns}" if regular else None


def _link_status(path: bytes) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError as err:
        raise changed(os.fsdecode(path)) from err


def _objects_below(location: str, wanted: Callable[[str], bool]) -> Iterator[Found]:
    for path, version in listed_objects(location):
        names = path.split("/")
        if not any(name.startswith(".") for name in names) and os.fsdecode(_PRIVATE) not in names:
            yield path, version if wanted(path) else None
