"""Fetching: a row's uri becomes bytes, read from nowhere but below the allowed roots."""

import errno
import os
import re
import stat
from datetime import timedelta
from typing import TYPE_CHECKING

from schemas.errors import WorkerUnfit
from schemas.failures import Failure, FailureCode, Stage, one_line
from schemas.redaction import redact
from storage.store import canonical_location, store_answer

if TYPE_CHECKING:
    from obstore.store import S3Store

_S3 = "s3://"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
#: Longer than any path or key; resolving a path takes time that grows with the square of its length.
_MAX_URI = 4096

#: O_PATH, where there is one, walks folders that may be entered but not listed.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: O_NONBLOCK: opening a pipe must not wait for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_CODES: dict[int | None, tuple[FailureCode, str]] = {
    errno.ENOENT: (FailureCode.NOT_FOUND, "no such file"),
    errno.ENOTDIR: (FailureCode.NOT_FOUND, "no such file"),
    errno.ELOOP: (FailureCode.OUTSIDE_ROOT, "a link that leads in a circle, or was changed meanwhile"),
    errno.ENXIO: (FailureCode.NOT_A_FILE, "a pipe, a socket or a device"),
    errno.ENODEV: (FailureCode.NOT_A_FILE, "a pipe, a socket or a device"),
    errno.ENAMETOOLONG: (FailureCode.URI_INVALID, "a name too long for this file system"),
    errno.EINVAL: (FailureCode.URI_INVALID, "a name that this file system does not take"),
}
#: What this process has run out of is no fault of the row.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Fetcher:
    """Reads files and objects below `roots`; one for all threads of a process.

    `base` is the folder or s3:// prefix that relative uris are relative to; `max_bytes` is the most that a medium may
    have. Credentials and endpoint of object stores come from the process environment, never from a uri.
    """

    def __init__(self, base: str, roots: tuple[str, ...], max_bytes: int) -> None:
        places = tuple(map(canonical_location, roots))
        self._base = canonical_location(base) if base else ""
        self._folders = tuple(place for place in places if not place.startswith(_S3))
        self._prefixes = tuple(place for place in places if place.startswith(_S3))
        self._buckets = {bucket: _open_bucket(bucket) for bucket in sorted({_split(p)[0] for p in self._prefixes})}
        self._max_bytes = max_bytes

    def fetch(self, uri: str) -> bytes | Failure:
        """The content of `uri`, or why there is none; raises WorkerUnfit when this process is out of file handles."""
        problem = _problem(uri)
        if problem is not None:
            return _failure(*problem, uri)
        if not uri.startswith((_S3, "/")):
            if not self._base:
                return _failure(FailureCode.OUTSIDE_ROOT, "relative, and the job names no folder of media", uri)
            uri = f"{self._base.rstrip('/')}/{uri}"
        return self._object(uri) if uri.startswith(_S3) else self._file(uri)

    def _file(self, path: str) -> bytes | Failure:
        try:
            place = os.path.realpath(path)  # links are followed here, once; the walk below follows none
            for root in self._folders:
                if place == root or place.startswith(root.rstrip("/") + "/"):
                    parts = [part for part in place[len(root) :].split("/") if part]
                    return self._read(_open_below(root, parts or ["."]), path)
        except OSError as err:
            return _os_failure(err, path)
        return _failure(FailureCode.OUTSIDE_ROOT, "outside the media roots (--media-root names them)", path)

    def _read(self, handle: int, path: str) -> bytes | Failure:
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                return _failure(FailureCode.NOT_A_FILE, "a folder, a pipe or a device", path)
            problem = self._size_problem(status.st_size)
            if problem is not None:
                return _failure(*problem, path)
            with open(handle, "rb", closefd=False) as file:
                data = file.read(status.st_size + 1)
        finally:
            os.close(handle)
        if len(data) != status.st_size:
            return _failure(FailureCode.FETCH_FAILED, "the file changed while it was read", path)
        return data

    def _object(self, url: str) -> bytes | Failure:
        url = url.replace("/./", "/")
        if ".." in url.split("/"):  # a folder's is resolved and checked; an object's key means it literally
            return _failure(FailureCode.OUTSIDE_ROOT, "an object has no '..'; write its key", url)
        if not any(url == root or url.startswith(f"{root}/") for root in self._prefixes):
            return _failure(FailureCode.OUTSIDE_ROOT, "outside the media roots (--media-root names them)", url)
        bucket, key = _split(url)
        if not key or key.endswith("/"):
            return _failure(FailureCode.NOT_A_FILE, "a prefix, not an object", url)
        return self._download(bucket, key, url)

    def _download(self, bucket: str, key: str, url: str) -> bytes | Failure:
        import obstore
        from obstore.exceptions import BaseError, NotFoundError

        try:
            found = obstore.get(self._buckets[bucket], key)
            problem = self._size_problem(found.meta["size"])  # told by the reply's head, before its body is read
            if problem is not None:
                return _failure(*problem, url)
            return bytes(found.bytes())
        except (FileNotFoundError, NotFoundError):
            return _failure(FailureCode.NOT_FOUND, "no such object", url)
        except ValueError:  # an empty segment, for one: obstore has no spelling for such a key
            return _failure(FailureCode.URI_INVALID, "no usable key", url)
        except (OSError, BaseError) as err:
            return _failure(FailureCode.FETCH_FAILED, store_answer(err), url)

    def _size_problem(self, size: int) -> tuple[FailureCode, str] | None:
        if size == 0:
            return FailureCode.FILE_EMPTY, "zero bytes"
        if size > self._max_bytes:
            return FailureCode.FILE_TOO_LARGE, f"{size} bytes, over the limit of {self._max_bytes}"
        return None


def _problem(uri: str) -> tuple[FailureCode, str] | None:
    """What is wrong with `uri` as written; neither a file nor a socket is touched to find out."""
    if not uri:
        return FailureCode.URI_EMPTY, "the uri is empty; every media row needs one"
    if len(uri) > _MAX_URI or _UNUSABLE.search(uri):
        return FailureCode.URI_INVALID, f"control characters, or more than {_MAX_URI} characters"
    if "::" in uri or (_SCHEME.match(uri) and not uri.startswith(_S3)):
        return FailureCode.URI_SCHEME, "not a path or s3://bucket/key (a name with a colon is written ./name)"
    return None


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


def _open_bucket(bucket: str) -> "S3Store":
    from obstore.store import S3Store

    # About 6 s of retries: longer outages are the job's to wait out, not the row's.
    return S3Store(bucket, retry_config={"max_retries": 6, "retry_timeout": timedelta(seconds=60)})


def _split(url: str) -> tuple[str, str]:
    """Bucket and key of an s3:// url."""
    bucket, _, key = url.removeprefix(_S3).partition("/")
    return bucket, key


def _os_failure(err: OSError, path: str) -> Failure:
    if err.errno in _EXHAUSTED:
        raise WorkerUnfit(f"this process cannot open files any more: {err.strerror}; raise its limits") from err
    code, reason = _CODES.get(err.errno, (FailureCode.FETCH_FAILED, err.strerror or type(err).__name__))
    return _failure(code, reason, path)


def _failure(code: FailureCode, reason: str, uri: str) -> Failure:
    return Failure(code=code, stage=Stage.FETCH, message=one_line(f"{reason}: {redact(uri)}"))
