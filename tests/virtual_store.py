"""A store in virtual time that delays, doubles and loses replies, as object stores and their clients do."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from schemas.errors import NotFound, StoreError, StoreUnavailable
from storage import layout
from storage.store import StoredObject

#: Seconds for which listings may leave out an object that was just created.
LISTING_LAG_S = 8.0


@dataclass
class Faults:
    """What goes wrong next: each armed fault strikes once, at the first operation that it fits."""

    armed: list[str] = field(default_factory=list)

    def strikes(self, name: str) -> bool:
        if name not in self.armed:
            return False
        self.armed.remove(name)
        return True


@dataclass
class Bucket:
    """What one job's store holds, and what became of it."""

    clock: Callable[[], float]
    faults: Faults
    objects: dict[str, bytes]
    away: bool = False
    hidden: dict[str, float] = field(default_factory=dict)  # key -> when listings show it
    flying: list[tuple[str, bytes]] = field(default_factory=list)  # PUTs whose clients were told that they failed
    published: dict[str, bytes] = field(default_factory=dict)  # data keys, as first created
    creations: Counter[str] = field(default_factory=Counter)

    def put(self, key: str, data: bytes) -> bool:
        """Create-if-absent, where the server does it."""
        if key in self.objects:
            return False
        self.objects[key] = data
        if key.startswith(layout.DATA):
            self.creations[key] += 1
            self.published.setdefault(key, data)
            if self.faults.strikes("listing_lags"):
                self.hidden[key] = self.clock() + LISTING_LAG_S
        return True

    def land(self) -> None:
        """PUTs that were on their way arrive now."""
        for key, data in self.flying:
            self.put(key, data)
        self.flying.clear()


class VirtualStore:
    """A `Store` over a bucket; what one client's listings showed is remembered in `shown`."""

    def __init__(self, bucket: Bucket, url: str) -> None:
        self.bucket, self.url = bucket, url
        self.shown: set[int] = set()

    def get(self, key: str) -> bytes:
        self._reach(key, "get_fails")
        try:
            return self.bucket.objects[key]
        except KeyError:
            raise NotFound(f"{key} does not exist") from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key)[start : start + length]

    def size(self, key: str) -> int | None:
        self._reach(key, "get_fails")
        data = self.bucket.objects.get(key)
        return None if data is None else len(data)

    def create(self, key: str, data: bytes) -> bool:
        faults = self.bucket.faults
        self._reach(key, "put_refused")
        if key.startswith(layout.DATA) and faults.strikes("put_late"):
            self.bucket.flying.append((key, data))
            raise StoreError(f"{key}: the store did not answer in time")
        applied = self.bucket.put(key, data)
        if faults.strikes("put_reply_lost"):
            raise StoreUnavailable(f"{key}: the connection was reset")
        if key.startswith(layout.DATA) and faults.strikes("put_doubled"):
            return False  # the client's library tried again by itself, and met its own object
        return applied

    def replace(self, key: str, data: bytes) -> None:
        self._reach(key, "put_refused")
        self.bucket.creations[key] += 1
        self.bucket.objects[key] = data

    def delete(self, key: str) -> None:
        self._reach(key, "put_refused")
        self.bucket.objects.pop(key, None)

    def walk(self, prefix: str) -> Iterator[StoredObject]:
        self._reach(prefix, "list_fails")
        now, hidden = self.bucket.clock(), self.bucket.hidden
        for key, data in list(self.bucket.objects.items()):
            if key.startswith(f"{prefix}/") and hidden.get(key, 0.0) <= now:
                shard = layout.shard_of(key)
                if shard is not None:
                    self.shown.add(shard)
                yield StoredObject(key, len(data))

    def folders(self) -> list[str]:
        return sorted({key.partition("/")[0] for key in self.bucket.objects if "/" in key})

    def _reach(self, key: str, fault: str) -> None:
        if self.bucket.away or self.bucket.faults.strikes(fault):
            raise StoreError(f"{key}: the store answered 503")


def bucket_of(objects: Mapping[str, bytes], clock: Callable[[], float], faults: Faults) -> Bucket:
    """A bucket that begins with `objects`."""
    return Bucket(clock, faults, dict(objects))
