"""Fetching: a row's uri becomes bytes, read from nowhere but below the allowed roots and public hosts."""

import errno
import os
import re
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from schemas.errors import Refused
from schemas.failures import Failure, FailureCode
from schemas.redaction import redact
from storage.store import canonical_location
from workers.archive import Archives, Member, read_index
from workers.fetch_failure import SCHEME, Problem, fetch_failure, require_handles, size_problem
from workers.fetch_http import HttpSource, require_http_url
from workers.fetch_objects import OBJECT_SCHEMES, ObjectSource

_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
#: Longer than any path or key; resolving a path takes time that grows with the square of its length.
_MAX_URI = 4096
_HTTP = re.compile(r"https?://", re.IGNORECASE | re.ASCII)
#: The part of an http(s) URL in which `::` is a chain: an IPv6 host and a query may hold it.
_HTTP_PATH = re.compile(r"https?://[^/?#]*([^?#]*)", re.IGNORECASE | re.ASCII)

#: O_PATH, where there is one, walks folders that may be entered but not listed.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: O_NONBLOCK: opening a pipe must not wait for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: Headers of small members lie close to each other.
_WINDOW = 2**16
#: Blocked gzip has one part for 64 KiB; parts without content would cost time for nothing.
_GZIP_PARTS = 100_000
_GZIP_PIECE = 2**14

_CODES: dict[int | None, tuple[FailureCode, str]] = {
    errno.ENOENT: (FailureCode.NOT_FOUND, "no such file"),
    errno.ENOTDIR: (FailureCode.NOT_FOUND, "no such file"),
    errno.ELOOP: (FailureCode.OUTSIDE_ROOT, "a link that leads in a circle, or was changed meanwhile"),
    errno.ENXIO: (FailureCode.NOT_A_FILE, "a pipe, a socket or a device"),
    errno.ENODEV: (FailureCode.NOT_A_FILE, "a pipe, a socket or a device"),
    errno.ENAMETOOLONG: (FailureCode.URI_INVALID, "a name too long for this file system"),
    errno.EINVAL: (FailureCode.URI_INVALID, "a name that this file system does not take"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRules:
    """Where media may come from, and how much of them."""

    base: str = ""  # the folder, s3://, gs:// or az:// prefix, or http(s) folder that relative uris are relative to
    roots: tuple[str, ...] = ()  # folders and prefixes; http(s) ones, where there are any, are the only http(s) allowed
    max_bytes: int = 64 * 2**20  # of one medium, also after gunzip
    max_seconds: float = 60.0  # of one medium over http(s), redirects and retries included
    allow_http: bool = False  # plain http:// too
    allow_private: bool = False  # private, loopback and link-local addresses too; never those of cloud metadata


class Fetcher:
    """Reads files, objects and web media as `rules` allow; one for all threads of a process.

    Credentials and endpoints of object stores come from the process environment, never from a uri.
    Raises Refused for a base or root that is none, and NotAllowed for a store that this process cannot open.
    """

    def __init__(self, rules: FetchRules) -> None:
        places = [_canonical(root) for root in rules.roots]
        self._base = _canonical(rules.base) if rules.base else ""
        self._folders = tuple(place for place in places if "://" not in place)
        self._max_bytes = rules.max_bytes
        self._archives = Archives()
        prefixes = tuple(place for place in places if place.startswith(OBJECT_SCHEMES))
        self._objects = ObjectSource(prefixes, rules.max_bytes, self._archives)
        self._web = HttpSource(
            roots=tuple(place for place in places if _HTTP.match(place)),
            max_bytes=rules.max_bytes,
            max_seconds=rules.max_seconds,
            allow_http=rules.allow_http,
            allow_private=rules.allow_private,
        )

    def fetch(self, uri: str) -> bytes | Failure:
        """The content of `uri`, or why there is none; raises WorkerUnfit when this process is out of file handles."""
        problem = _problem(uri)
        if problem is not None:
            return fetch_failure(*problem, uri)
        place, member = (uri, "") if _HTTP.match(uri) else _parted(uri)
        if not place.startswith("/") and not SCHEME.match(place):
            if not self._base:
                return fetch_failure(FailureCode.OUTSIDE_ROOT, "relative, and the job names no folder of media", uri)
            place = f"{self._base.rstrip('/')}/{place.removeprefix('./')}"
        data = self._content(place, member)
        if isinstance(data, bytes) and _is_gzip(member or place, data):
            unpacked = gunzip(data, self._max_bytes)
            return unpacked if isinstance(unpacked, bytes) else fetch_failure(*unpacked, uri)
        return data

    def close(self) -> None:
        """Let go of all connections at rest; a later fetch opens new ones."""
        self._web.close()

    def _content(self, place: str, member: str) -> bytes | Failure:
        """What lies at an absolute place that is no nonsense; `member` is empty unless the place is a tar."""
        if _HTTP.match(place):
            return fetch_failure(*_NO_WEB_MEMBERS, place) if member else self._web.fetch(place)
        if place.startswith(OBJECT_SCHEMES):
            place = place.replace("/./", "/")
            return self._objects.member(place, member) if member else self._objects.fetch(place)
        outcome = self._file(place, partial(self._member, member) if member else self._whole)
        return (
            outcome
            if isinstance(outcome, bytes)
            else fetch_failure(*outcome, f"{place}::{member}" if member else place)
        )

    def _file(self, path: str, read: Callable[[int], bytes | Problem]) -> bytes | Problem:
        """What `read` makes of a handle on `path`."""
        try:
            handle = self._open(path)
            if handle is None:
                return FailureCode.OUTSIDE_ROOT, "outside the media roots (--media-root names them)"
            try:
                return read(handle)
            finally:
                os.close(handle)
        except OSError as err:
            require_handles(err)
            return _CODES.get(err.errno, (FailureCode.FETCH_FAILED, err.strerror or type(err).__name__))

    def _open(self, path: str) -> int | None:
        """A handle on `path`, or None where it lies below no root."""
        place = os.path.realpath(path)  # links are followed here, once; the walk below follows none
        for root in self._folders:
            if place == root or place.startswith(root.rstrip("/") + "/"):
                parts = [part for part in place[len(root) :].split("/") if part]
                return _open_below(root, parts or ["."])
        return None

    def _whole(self, handle: int) -> bytes | Problem:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return FailureCode.NOT_A_FILE, "a folder, a pipe or a device"
        problem = size_problem(status.st_size, self._max_bytes)
        if problem is not None:
            return problem
        with open(handle, "rb", closefd=False) as file:
            data = file.read(status.st_size + 1)
        return data if len(data) == status.st_size else _CHANGED

    def _member(self, name: str, handle: int) -> bytes | Problem:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return FailureCode.NOT_A_FILE, "a folder, a pipe or a device"
        version = _version(status)
        read_at = partial(_read_at, handle)
        index = self._archives.index(
            (status.st_dev, status.st_ino), lambda: read_index(read_at, status.st_size, version, _WINDOW), version
        )
        member = index.find(name, self._max_bytes)
        if not isinstance(member, Member):
            return member
        data = _read_at(handle, member.offset, member.size)
        whole = len(data) == member.size and _version(os.fstat(handle)) == version
        return data if whole else _CHANGED


_CHANGED: Problem = (FailureCode.FETCH_FAILED, "the file changed while it was read")
_NO_WEB_MEMBERS: Problem = (FailureCode.URI_SCHEME, "no members of archives over http(s); copy the archive")


def gunzip(data: bytes, max_bytes: int) -> bytes | Problem:
    """`data` unpacked once, up to `max_bytes`; several parts in a row are one content, as gzip has it."""
    pieces: list[bytes] = []
    at = size = parts = 0
    while data[at : at + 1].strip(b"\0"):  # what follows the last part is padding
        unpacker = zlib.decompressobj(wbits=31)
        parts += 1
        try:
            while not unpacker.eof and at < len(data):
                pieces.append(unpacker.decompress(data[at : at + _GZIP_PIECE], max_bytes + 1 - size))
                size += len(pieces[-1])
                if size > max_bytes:
                    return FailureCode.FILE_TOO_LARGE, f"unpacked, over the limit of {max_bytes} bytes"
                at += len(data[at : at + _GZIP_PIECE]) - len(unpacker.unused_data)
        except zlib.error:
            return FailureCode.FETCH_FAILED, "corrupt gzip"
        if not unpacker.eof or parts > _GZIP_PARTS:
            return FailureCode.FETCH_FAILED, "gzip that is cut off, or in too many parts"
    return b"".join(pieces) if size else (FailureCode.FILE_EMPTY, "zero bytes, unpacked")


def _is_gzip(place: str, data: bytes) -> bool:
    name = re.split("[?#]", place, maxsplit=1)[0] if _HTTP.match(place) else place
    return name.endswith(".gz") and data.startswith(b"\x1f\x8b")


def _problem(uri: str) -> Problem | None:
    """What is wrong with `uri` as written; neither a file nor a socket is touched to find out."""
    if not uri:
        return FailureCode.URI_EMPTY, "the uri is empty; every media row needs one"
    if len(uri) > _MAX_URI or _UNUSABLE.search(uri):
        return FailureCode.URI_INVALID, f"control characters, or more than {_MAX_URI} characters"
    web = _HTTP_PATH.match(uri)
    if web is not None:
        return _NO_WEB_MEMBERS if "::" in web[1] else None
    if SCHEME.match(_parted(uri)[0]) and not uri.startswith(OBJECT_SCHEMES):
        reason = "not a path, https://, s3://, gs:// or az:// (a name with a colon is written ./name)"
        return FailureCode.URI_SCHEME, reason
    return _chain_problem(uri) if "::" in uri else None


def _chain_problem(uri: str) -> Problem | None:
    """What is wrong with archive.tar::member."""
    archive, _, member = uri.partition("::")
    if archive.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        return FailureCode.URI_SCHEME, "a compressed tar has no members that can be read alone; unpack it to .tar"
    if not archive.endswith(".tar") or not member or "::" in member or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", member):
        return FailureCode.URI_SCHEME, "not archive.tar::member (one archive, one member)"
    return None


def _parted(uri: str) -> tuple[str, str]:
    """Archive and member of archive.tar::member; the member of anything else is empty."""
    place, _, member = uri.partition("::")
    return place, member


def _canonical(place: str) -> str:
    """The one spelling of a base or root."""
    if _HTTP.match(place):
        return str(require_http_url(place)).rstrip("/")
    if "://" in place and not place.startswith(OBJECT_SCHEMES):
        raise Refused(f"{redact(place)}: media lie in folders, s3://, gs://, az:// and https:// places")
    return canonical_location(place)


def _open_below(root: str, parts: list[str]) -> int:
    """A handle on the file `parts` below the folder `root`, reached without following any link."""
    folder = os.open(root, _FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], _FILE, dir_fd=folder)
    finally:
        os.close(folder)


def _read_at(handle: int, offset: int, length: int) -> bytes:
    """`length` bytes at `offset`, fewer only at the file's end."""
    pieces = []
    while length > 0 and (piece := os.pread(handle, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
