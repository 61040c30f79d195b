"""A store that is slow and breaks as a file says, to try a mill by: `EMBEDMILL_STORE_FAULTS`."""

import errno
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from schemas.errors import StoreUnavailable
from storage.store import Store, StoredObject

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFaults:
    """How the store fails now; the content of the file."""

    delay_s: float = 0.0  # before each operation
    fail_before: float = 0.0  # share of operations that fail and change nothing
    fail_after: float = 0.0  # share of writes that are carried out, and are said to have failed
    lost_replies: float = 0.0  # share of creations whose answer is lost, so that the client sends them again
    error: str = "EIO"  # the name of the errno

    def write(self, path: Path) -> None:
        """Make it hold from now on, for whoever reads `path`."""
        private = path.with_name(f"{path.name}.new")
        private.write_text(json.dumps(asdict(self)))
        private.replace(path)

    @classmethod
    def read(cls, path: Path) -> "StoreFaults":
        """What `path` says; no faults where there is no such file."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return cls()


class FaultyStore:
    """`store`, failing as the file `faults` says at the moment of each operation."""

    def __init__(self, store: Store, faults: Path) -> None:
        self._store, self._faults = store, faults
        self.url = store.url

    def get(self, key: str) -> bytes:
        return self._tried(key, lambda: self._store.get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._tried(key, lambda: self._store.get_range(key, start, length))

    def size(self, key: str) -> int | None:
        return self._tried(key, lambda: self._store.size(key))

    def create(self, key: str, data: bytes) -> bool:
        created = self._tried(key, lambda: self._store.create(key, data), writes=True)
        if created and _happens(StoreFaults.read(self._faults).lost_replies):
            return self._store.create(key, data)  # what a client does whose first answer was lost
        return created

    def replace(self, key: str, data: bytes) -> None:
        self._tried(key, lambda: self._store.replace(key, data), writes=True)

    def delete(self, key: str) -> None:
        self._tried(key, lambda: self._store.delete(key), writes=True)

    def walk(self, prefix: str) -> Iterator[StoredObject]:
        return self._tried(prefix, lambda: self._store.walk(prefix))

    def folders(self) -> list[str]:
        return self._tried(".", self._store.folders)

    def _tried(self, key: str, operation: Callable[[], _T], *, writes: bool = False) -> _T:
        faults = StoreFaults.read(self._faults)
        time.sleep(faults.delay_s)
        if _happens(faults.fail_before):
            raise _failure(key, faults)
        done = operation()
        if writes and _happens(faults.fail_after):
            raise _failure(key, faults)
        return done


def with_faults(store: Store, path: str) -> Store:
    """`store` itself, or, where `path` names a file of faults, a store that fails as it says."""
    if not path:
        return store
    logger.warning("the store fails on purpose, as %s says", path, extra={"event": "store_faults"})
    return FaultyStore(store, Path(path))


def _happens(share: float) -> bool:
    return share > 0 and random.random() < share  # noqa: S311  # no secret


def _failure(key: str, faults: StoreFaults) -> StoreUnavailable:
    number = getattr(errno, faults.error, errno.EIO)
    return StoreUnavailable(f"{key}: {os.strerror(number)} (on purpose)")
