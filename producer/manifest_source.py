"""The manifest's bytes: from a folder or S3, hashed as they pass, unpacked, and refused when they change."""

import contextlib
import gzip
import hashlib
import io
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from schemas.errors import ManifestError
from schemas.failures import one_line
from schemas.redaction import redact

_CHUNK = 2**20

_LISTED_AT_ONCE = 1000

_GZIP = b"\x1f\x8b"

_BOM = b"\xef\xbb\xbf"

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def open_source(location: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    if location.startswith("s3://"):
        return _open_s3(location)
    if "://" in location:
        raise ManifestError(f"{redact(location)}: no such kind of place; give a path or s3://bucket/key")
    return _open_local(Path(location).expanduser())


def version_of(file: IO[bytes]) -> tuple[int, str]:
    """The bytes of what open_source opened, and what changes with its content."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, _S3File):
        return raw.size, str(raw.etag)
    status = os.fstat(file.fileno())
    return status.st_size, str(status.st_mtime_ns)


def listed_objects(location: str) -> Iterator[tuple[str, str]]:
    """The path below the prefix `location`, and the version, of each object there, in the order of the paths' bytes."""
    import obstore
    from obstore.store import S3Store

    bucket, _, prefix = location.removeprefix("s3://").rstrip("/").partition("/")
    above, before = f"{prefix}/" if prefix else "", ""
    for batch in obstore.list(S3Store.from_url(f"s3://{bucket}"), prefix=prefix or None, chunk_size=_LISTED_AT_ONCE):
        for meta in batch:
            path = meta["path"].removeprefix(above)
            if path.encode() <= before.encode():  # two readings would not give the same rows
                raise ManifestError(f"{redact(location)}: this store lists objects in no order; write a manifest file")
            before = path
            yield path, f"{meta['size']}:{meta['e_tag'] or meta['last_modified']}"


class Source:
    """The raw bytes of a manifest, hashed as they pass."""

    def __init__(self, file: IO[bytes], name: str, copies: contextlib.ExitStack) -> None:
        self._file, self._name, self._copies = file, name, copies
        self._hash = hashlib.sha256()
        self._ahead = b""  # read, but not yet given out
        self._read_whole = False

    def read(self, size: int) -> bytes:
        """The next bytes, as many as `size` unless the file ends."""
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        data += self._file.read(size - len(data))
        self._hash.update(data)
        return data

    def sha256(self) -> str:
        """The digest of all bytes, the unread ones too."""
        while not self._read_whole:
            self._read_whole = not self.read(_CHUNK)
        return self._hash.hexdigest()

    def text_chunks(self) -> Iterator[bytes]:
        """The content, unpacked, without byte order mark."""
        stream = self._stream()
        first = stream.read(_CHUNK)
        if first.startswith(_UTF16):
            raise ManifestError(f"{self._name} is UTF-16; save it as UTF-8")
        yield first.removeprefix(_BOM)
        while chunk := stream.read(_CHUNK):
            yield chunk

    def unpacked(self, *, hashed: bool = False) -> IO[bytes]:
        """A seekable file of the content: the manifest itself, or, of a gzip'd one, an unpacked copy."""
        stream = self._stream()
        if stream is not self:
            copy = tempfile.TemporaryFile(prefix="embedmill-manifest-")  # noqa: SIM115  # the next line closes it
            self._copies.enter_context(copy)
            while chunk := stream.read(_CHUNK):
                copy.write(chunk)
            self.sha256()
            copy.seek(0)
            return copy
        if hashed:
            self.sha256()
        self._file.seek(0)
        return self._file

    def _stream(self) -> "Source | gzip.GzipFile":
        """What to read the content from; gzip is told by its first bytes, whatever the name says."""
        self._ahead = self._file.read(len(_GZIP))
        return gzip.GzipFile(fileobj=self) if self._ahead == _GZIP else self  # type: ignore[call-overload]  # reads only


@contextlib.contextmanager
def _open_local(path: Path) -> Iterator[IO[bytes]]:
    """The file; raises ManifestError at the end when it is another one than at the start."""
    if not path.exists():
        raise ManifestError(f"{path} does not exist; give the path of a manifest")
    if not path.is_file():  # a pipe can be read only once, and a plan may need two readings
        raise ManifestError(f"{path} is not a file; give the path of a manifest")
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        yield file
    if _identity(before) != _identity(path.stat() if path.exists() else None):
        raise changed(str(path))


def _identity(stat: os.stat_result | None) -> tuple[int, ...]:
    return () if stat is None else (stat.st_ino, stat.st_size, stat.st_mtime_ns)


@contextlib.contextmanager
def _open_s3(location: str) -> Iterator[IO[bytes]]:
    from obstore.store import S3Store

    bucket, _, key = location.removeprefix("s3://").partition("/")
    with io.BufferedReader(_S3File(S3Store.from_url(f"s3://{bucket}"), key), _CHUNK) as file:
        yield file


class _S3File(io.RawIOBase):
    """One version of an object, read range by range; a new version in its place fails the next read."""

    def __init__(self, store: Any, key: str) -> None:  # Any: obstore is imported only where it is used
        import obstore

        super().__init__()
        meta = obstore.head(store, key)
        self._get, self._store, self._key = obstore.get, store, key
        self.etag, self.size, self._at = meta["e_tag"], meta["size"], 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:  # Any: typeshed's WriteableBuffer exists for type checkers only
        end = min(self._at + len(buffer), self.size)
        if end <= self._at:
            return 0
        data = self._get(self._store, self._key, options={"range": (self._at, end), "if_match": self.etag}).bytes()
        buffer[: len(data)] = memoryview(data)
        self._at += len(data)
        return len(data)


@contextlib.contextmanager
def manifest_errors(name: str) -> Iterator[None]:
    """Map what files, S3, gzip and Parquet raise to ManifestError, once, at this seam."""
    from obstore.exceptions import BaseError, PreconditionError

    try:
        yield
    except PreconditionError as err:
        raise changed(name) from err
    except FileNotFoundError as err:
        raise ManifestError(f"{name} does not exist; give the path of a manifest") from err
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise ManifestError(f"{name}: its gzip is cut off or corrupt ({err}); make it again") from err
    except pa.ArrowException as err:
        raise ManifestError(f"{name} cannot be read as Parquet: {_first_line(err)}; make it again") from err
    except UnicodeDecodeError as err:  # of texts it is the row's affair, and dealt with there
        raise ManifestError(f"{name}: the name of a column is not UTF-8; rename the column") from err
    except (OSError, BaseError) as err:
        raise ManifestError(f"{name} cannot be read: {_first_line(err)}") from err


def _first_line(err: Exception) -> str:
    return one_line(redact((str(err).splitlines() or [type(err).__name__])[0]))


def changed(name: str) -> ManifestError:
    return ManifestError(f"{name} changed while it was read; try again when it is complete")
