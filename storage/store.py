"""The object store: bytes under keys, created only if absent.

Two real stores and one contract: a folder (hard link + fsync) and any store obstore speaks to
(S3, and memory for tests).
"""

import contextlib
import math
import os
import random
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from schemas.errors import NotAllowed, NotFound, Refused, StoreError, StoreUnavailable
from schemas.redaction import redact
from storage.private_files import is_orphan, private_name

if TYPE_CHECKING:
    from obstore.store import MemoryStore, S3Store

TMP = "_tmp"
_FILE_MODE = 0o640
#: PUTs that may meet another writer of the same key (HTTP 409) before that is an error.
_CONFLICTS = 6
#: Another machine's private file that nobody touched for so long is nobody's.
_ABANDONED_S = 24 * 3600
_HTTP_STATUS = re.compile(r"status code: (\d{3})")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's key, relative to the store, its size in bytes, and when it was written."""

    key: str
    size: int
    modified: float = math.inf  # seconds since the epoch, by the store's clock; inf: not known


class Store(Protocol):
    """One job's prefix; keys are relative to it and use `/`.

    Each method raises StoreError when the store fails, and NotFound for a missing object.
    """

    url: str

    def get(self, key: str) -> bytes: ...

    def get_range(self, key: str, start: int, length: int) -> bytes: ...

    def size(self, key: str) -> int | None:
        """The object's size in bytes, or None where there is none."""

    def create(self, key: str, data: bytes) -> bool:
        """Store `data` whole and durably unless the key exists; False when it does."""

    def replace(self, key: str, data: bytes) -> None:
        """Store `data` whole, over whatever was there."""

    def delete(self, key: str) -> None:
        """Remove the object; one that does not exist is no error."""

    def walk(self, prefix: str) -> Iterator[StoredObject]:
        """Every object below the folder `prefix`, in no order."""

    def folders(self) -> list[str]:
        """The names of the folders right below the store."""


def open_store(url: str) -> Store:
    """The store at a folder or an `s3://bucket/prefix`.

    Credentials and endpoint come from the process environment (AWS_*), never from `url`.
    Raises Refused for any other scheme.
    """
    if url.startswith("s3://"):
        from obstore.store import S3Store

        return ObjectStore(url, S3Store.from_url(url))
    if "://" not in url and Path(url).is_file():
        raise Refused(f"{url} is a file; give a folder")
    if "://" in url:
        raise Refused(f"{redact(url)}: unknown kind of store; use a folder or s3://bucket/prefix")
    return LocalStore(Path(url))


def keys_below(store: Store, prefix: str) -> Iterator[str]:
    """The key of every object below the folder `prefix`, in no order; in a folder their sizes are not looked at."""
    return store.keys(prefix) if isinstance(store, LocalStore) else (item.key for item in store.walk(prefix))


def require_create_only(store: Store) -> None:
    """The promise that everything rests on, tried: the second to create a key is refused, and changes nothing.

    Raises Refused where the store cannot be written, or does not keep the promise.
    """
    key = f"{TMP}/{uuid.uuid4().hex}.probe"
    try:
        store.create(key, b"1")
        second = store.create(key, b"2")
        kept = store.get(key) == b"1"
        store.delete(key)
    except StoreError as err:
        why = getattr(err.__cause__, "strerror", None) or err
        raise Refused(f"{redact(store.url)} cannot be written: {why}; check the place and its rights") from err
    if second or not kept:  # the first may be told that it exists: its own, carried out and asked for again
        raise Refused(
            f"{redact(store.url)} overwrites what exists: rows could be lost; "
            "use a store with conditional writes (If-None-Match)"
        )


def canonical_location(url: str) -> str:
    """The one spelling of a location: an absolute path without links, or a URL without trailing slash."""
    if "://" in url:
        scheme, _, path = url.partition("://")
        parts = path.rstrip("/").split("/")
        if "%" in path or any(part in ("", ".", "..") for part in parts):
            raise Refused(f"{redact(url)}: give a bucket and plain names, without `.`, `..`, empty parts or %")
        return f"{scheme}://{'/'.join(parts)}"
    return os.path.realpath(os.path.expanduser(url))


def require_within(location: str, roots: tuple[str, ...], *, what: str) -> None:
    """Raise NotAllowed unless `location` is one of `roots` or lies below one."""
    place = canonical_location(location)
    for root in map(canonical_location, roots):
        if place == root or place.startswith(root.rstrip("/") + "/"):
            return
    raise NotAllowed(
        f"{what} {redact(place)} lies outside the allowed roots ({', '.join(map(redact, roots)) or 'none given'}); "
        "name its folder with --root"
    )


class LocalStore:
    """A folder: `create` is a private file, fsync, a hard link, fsync of the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(canonical_location(str(folder)))
        self._durable: set[Path] = set()  # folders whose names this process has flushed
        self.url = str(self._folder)

    def path(self, key: str) -> Path:
        """The file of `key`."""
        return self._folder / key

    def get(self, key: str) -> bytes:
        with _store_errors(key):
            return self.path(key).read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with _store_errors(key), self.path(key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def size(self, key: str) -> int | None:
        try:
            with _store_errors(key):
                return self.path(key).stat().st_size
        except NotFound:
            return None

    def create(self, key: str, data: bytes) -> bool:
        final = self.path(key)
        with _store_errors(key):
            if final.exists():
                _sync_folder(final.parent)  # the winner may not have come so far
                return False
            with self._private_file(data) as private:
                self._make_folder(final.parent)
                try:
                    os.link(private, final)
                except FileExistsError:
                    _sync_folder(final.parent)
                    return False
                _sync_folder(final.parent)
            return True

    def replace(self, key: str, data: bytes) -> None:
        final = self.path(key)
        with _store_errors(key), self._private_file(data) as private:
            self._make_folder(final.parent)
            os.replace(private, final)
            _sync_folder(final.parent)

    def delete(self, key: str) -> None:
        with _store_errors(key):
            self.path(key).unlink(missing_ok=True)

    def walk(self, prefix: str) -> Iterator[StoredObject]:
        for folder, _, names in os.walk(self.path(prefix), onerror=_raise_unless_missing):
            for name in names:
                path = Path(folder) / name
                try:
                    with _store_errors(name):
                        seen = path.stat()
                except NotFound:  # deleted while we walk
                    continue
                yield StoredObject(path.relative_to(self._folder).as_posix(), seen.st_size, seen.st_mtime)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that `walk` gives, in a fifth of its time, one by one: a folder may hold a million."""
        folders = [self.path(prefix)]
        while folders:
            folder = folders.pop()
            above = folder.relative_to(self._folder).as_posix()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if not entry.is_dir():
                            yield f"{above}/{entry.name}"
                        elif not entry.is_symlink():
                            folders.append(folder / entry.name)
            except OSError as err:
                _raise_unless_missing(err)

    def folders(self) -> list[str]:
        with _store_errors("."):
            return sorted(entry.name for entry in os.scandir(self._folder) if entry.is_dir() and entry.name != TMP)

    def sweep(self) -> None:
        """Remove the private files of processes of this machine that died, and of others those of yesterday."""
        with contextlib.suppress(OSError):  # tidiness must not fail a job
            now = self._file_clock()
            for path in self.path(TMP).iterdir():
                with contextlib.suppress(OSError):
                    if is_orphan(path, older_than_s=_ABANDONED_S, now=now):
                        path.unlink()

    def _file_clock(self) -> float:
        """The time by the clock that the files' own times are from: ours may be off by years."""
        with tempfile.NamedTemporaryFile(dir=self.path(TMP)) as probe:
            return os.fstat(probe.fileno()).st_mtime

    def folder_touched(self, name: str) -> float | None:
        """When the folder `name` was changed, in seconds since the epoch; None where there is none."""
        try:
            return self.path(name).stat().st_mtime
        except OSError:
            return None

    def drop_folder(self, name: str) -> bool:
        """Remove the folder `name` if it is empty."""
        try:
            self.path(name).rmdir()
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def _private_file(self, data: bytes) -> Iterator[Path]:
        private = self.path(TMP) / private_name()
        self._make_folder(private.parent)
        try:
            with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                if os.fstat(file.fileno()).st_size != len(data):
                    raise OSError(f"{private} has not the {len(data)} bytes that were written")
            yield private
        finally:
            with contextlib.suppress(OSError):  # only untidy, and what it held may be published: `sweep` takes it
                private.unlink()

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` and its parents durably: a folder that power loss takes back takes its files along.

        One that is there may be of a process that died before it had flushed it: the first time we do that too.
        """
        there = folder.exists()
        if there and (folder in self._durable or not folder.is_relative_to(self._folder)):
            return
        self._make_folder(folder.parent)
        if not there:
            folder.mkdir(exist_ok=True)
        try:
            _sync_folder(folder.parent)
        except PermissionError:
            if not there:  # else whoever made it there could flush it
                raise
        self._durable.add(folder)


class ObjectStore:
    """Any store that obstore speaks to; `create` is one conditional PUT (If-None-Match: *)."""

    def __init__(self, url: str, backend: "S3Store | MemoryStore") -> None:
        import obstore

        self.url = canonical_location(url)
        self._obstore = obstore
        self._backend = backend

    def get(self, key: str) -> bytes:
        with _store_errors(key):
            return bytes(self._obstore.get(self._backend, key).bytes())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with _store_errors(key):
            return bytes(self._obstore.get_range(self._backend, key, start=start, length=length))

    def size(self, key: str) -> int | None:
        try:
            with _store_errors(key):
                return self._obstore.head(self._backend, key)["size"]
        except NotFound:
            return None

    def create(self, key: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError

        with _store_errors(key):
            for attempt in range(_CONFLICTS):
                try:
                    self._obstore.put(self._backend, key, data, mode="create", use_multipart=False)
                except AlreadyExistsError:
                    if self.size(key) is not None:
                        return False
                    time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311  # 409: two at once, and neither won
                else:
                    return True
        raise StoreUnavailable(f"{key}: {_CONFLICTS} times the answer was that it is being created; it is not there")

    def replace(self, key: str, data: bytes) -> None:
        from obstore.exceptions import AlreadyExistsError

        with _store_errors(key):
            for attempt in range(_CONFLICTS):
                try:
                    # In one part: an upload in several that is killed in its middle would stay.
                    self._obstore.put(self._backend, key, data, use_multipart=False)
                except AlreadyExistsError:  # 409: another writer is at it
                    time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311
                else:
                    return
        raise StoreUnavailable(f"{key}: {_CONFLICTS} times the answer was that another writer is at it")

    def delete(self, key: str) -> None:
        with contextlib.suppress(NotFound), _store_errors(key):
            self._obstore.delete(self._backend, key)

    def walk(self, prefix: str) -> Iterator[StoredObject]:
        with _store_errors(prefix):
            for page in self._obstore.list(self._backend, prefix):
                for meta in page:
                    yield StoredObject(meta["path"], meta["size"], meta["last_modified"].timestamp())

    def folders(self) -> list[str]:
        with _store_errors("."):
            listing = self._obstore.list_with_delimiter(self._backend)
            return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in listing["common_prefixes"])


def memory_store() -> ObjectStore:
    """A store in this process' memory, for tests; held to the others by tests/contract."""
    from obstore.store import MemoryStore

    return ObjectStore("memory://job", MemoryStore())


@contextlib.contextmanager
def _store_errors(key: str) -> Iterator[None]:
    """Map what the store raises to StoreError, once, at this seam."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as err:
        raise NotFound(f"{key} does not exist") from err
    except (OSError, BaseError) as err:
        said = err.strerror or err if isinstance(err, OSError) else store_answer(err)
        raise StoreUnavailable(f"{key}: {said}") from err


def store_answer(err: Exception) -> str:
    """What the store answered, without its body: a signature error's body holds the key's id."""
    status = _HTTP_STATUS.search(str(err))
    return f"the store answered {status.group(1)}" if status else f"the store failed ({type(err).__name__})"


def _raise_unless_missing(err: OSError) -> None:
    """A folder that cannot be read is not an empty one."""
    if not isinstance(err, FileNotFoundError):
        raise StoreUnavailable(f"{err.filename} cannot be listed: {err.strerror}") from err


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
