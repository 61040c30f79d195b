"""The lease: one worker at a time works on a shard, as long as Redis says so.

An economy and never a guard: without it a shard is at worst computed twice and published once.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Protocol

import redis

from schemas.queues import KEY_TTL_S, cancel_key, deaths_key, lease_key

logger = logging.getLogger(__name__)

#: Take the lease unless another owner holds it. A worker has one slot, so its own old lease is a dead child's.
_ACQUIRE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class LeaseBoard(Protocol):
    """Where leases are kept."""

    def acquire(self, job: str, shard: int, owner: str, ttl_s: float) -> bool:
        """Take or renew the lease; False while another owner holds it."""

    def release(self, job: str, shard: int, owner: str) -> None:
        """Give the lease back, if `owner` holds it."""

    def is_cancelled(self, job: str) -> bool: ...

    def begin(self, job: str, shard: int) -> int:
        """Count an attempt; returns how many before it began and never ended: their processes died."""

    def end(self, job: str, shard: int) -> None:
        """Forget the count: the attempt's process lives."""


class RedisLeases:
    """Leases on Redis, timed by the server's clock; raises redis.RedisError when it cannot be reached."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._acquire = client.register_script(_ACQUIRE)
        self._release = client.register_script(_RELEASE)

    def acquire(self, job: str, shard: int, owner: str, ttl_s: float) -> bool:
        return bool(self._acquire(keys=[lease_key(job, shard)], args=[owner, int(ttl_s * 1000)]))

    def release(self, job: str, shard: int, owner: str) -> None:
        self._release(keys=[lease_key(job, shard)], args=[owner])

    def is_cancelled(self, job: str) -> bool:
        return bool(self._client.exists(cancel_key(job)))

    def begin(self, job: str, shard: int) -> int:
        count = int(self._client.incr(deaths_key(job, shard)))
        self._client.expire(deaths_key(job, shard), KEY_TTL_S)
        return count - 1

    def end(self, job: str, shard: int) -> None:
        self._client.delete(deaths_key(job, shard))


class MemoryLeases:
    """Leases in this process, for tests; a lease lasts until it is released or `expire`d."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, int], str] = {}
        self._begun: dict[tuple[str, int], int] = {}
        self.cancelled: set[str] = set()

    def acquire(self, job: str, shard: int, owner: str, ttl_s: float) -> bool:
        return self._holders.setdefault((job, shard), owner) == owner

    def release(self, job: str, shard: int, owner: str) -> None:
        if self._holders.get((job, shard)) == owner:
            del self._holders[job, shard]

    def is_cancelled(self, job: str) -> bool:
        return job in self.cancelled

    def begin(self, job: str, shard: int) -> int:
        self._begun[job, shard] = self._begun.get((job, shard), 0) + 1
        return self._begun[job, shard] - 1

    def end(self, job: str, shard: int) -> None:
        self._begun.pop((job, shard), None)

    def expire(self, job: str, shard: int) -> None:
        """What the passing of time does on Redis."""
        self._holders.pop((job, shard), None)


class HeldLease:
    """A lease that is renewed until it is closed; `stop` is set when the work is for nothing."""

    def __init__(self, board: LeaseBoard, job: str, shard: int, owner: str, ttl_s: float) -> None:
        self._board, self._job, self._shard, self._owner, self._ttl_s = board, job, shard, owner, ttl_s
        self._closed = threading.Event()
        self.deaths = 0  # attempts before this one whose process died in the middle
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def _renew(self) -> None:
        while not self._closed.wait(self._ttl_s / 3):
            with contextlib.suppress(redis.RedisError):  # Redis is down: we work on, the store decides
                held = self._board.acquire(self._job, self._shard, self._owner, self._ttl_s)
                if not held or self._board.is_cancelled(self._job):
                    self.stop.set()
                    return

    def __enter__(self) -> "HeldLease":
        with contextlib.suppress(redis.RedisError):
            self.deaths = self._board.begin(self._job, self._shard)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        self._thread.join(timeout=self._ttl_s)
        with contextlib.suppress(redis.RedisError):  # both expire by themselves
            self._board.end(self._job, self._shard)
            self._board.release(self._job, self._shard, self._owner)


@contextlib.contextmanager
def lease(board: LeaseBoard, job: str, shard: int, owner: str, ttl_s: float) -> Iterator[HeldLease | None]:
    """Hold the shard's lease for the length of a `with`; None when another worker holds it."""
    try:
        free = board.acquire(job, shard, owner, ttl_s)
    except redis.RedisError as err:
        logger.warning("no lease: %s", err, extra={"event": "lease_unavailable", "shard": shard})
        free = True
    if not free:
        yield None
        return
    with HeldLease(board, job, shard, owner, ttl_s) as held:
        yield held
