"""The board: what the coordinator hangs up on Redis and reads from it. All of it is hints."""

import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import redis

from schemas import queues
from schemas.errors import BrokerError
from schemas.presence import WorkerPresence
from schemas.redaction import redact
from schemas.shard import ShardReport

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_COORDINATOR_TTL_S = 15
_REPORTS_A_TIME = 5_000


class Board(Protocol):
    """Raises BrokerError, for each method, while Redis cannot be reached."""

    def claim(self, job: str, location: str) -> bool:
        """Say that we drive the job that lives at `location`; False while another coordinator does."""

    def give_up(self, job: str) -> None: ...

    def submit(self, job: str, location: str) -> None:
        """Ask whatever coordinator listens to drive the job at `location`."""

    def submitted(self) -> dict[str, str]:
        """Job ids and locations that were submitted and not yet struck off."""

    def strike_off(self, job: str) -> None: ...

    def reports(self, job: str) -> list[ShardReport]:
        """The reports since the last call, oldest first."""

    def leased(self, job: str, shards: Iterable[int]) -> set[int]:
        """Which of `shards` a worker holds."""

    def depth(self, queue: str) -> int:
        """Messages that wait in `queue`."""

    def workers(self) -> list[WorkerPresence]:
        """The workers that live."""

    def cancel(self, job: str) -> None: ...

    def uncancel(self, job: str) -> None: ...

    def withdraw(self, job: str) -> None:
        """Have workers leave the job's messages that still wait; what is in work is finished."""


class RedisBoard:
    """The board on Redis."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        try:
            self._client = redis.Redis.from_url(queues.client_url(broker_url), **queues.CLIENT_OPTIONS)
        except ValueError:  # its message may hold a part of the password
            raise BrokerError(f"{redact(broker_url)} is no broker URL; percent-encode / and @ in a password") from None
        self._me = secrets.token_hex(8)
        self._presences: dict[str, WorkerPresence] = {}  # by what they are on Redis, as of the last look

    def claim(self, job: str, location: str) -> bool:
        with _broker_errors(self._url):
            key = queues.coordinator_key(job)
            self._client.set(key, self._me, ex=_COORDINATOR_TTL_S, nx=True)
            if self._client.get(key) != self._me:
                return False
            pipe = self._client.pipeline(transaction=False)
            pipe.expire(key, _COORDINATOR_TTL_S)
            pipe.hset(queues.job_key(job), mapping={"location": location})
            pipe.expire(queues.job_key(job), queues.KEY_TTL_S)
            pipe.execute()
            return True

    def give_up(self, job: str) -> None:
        with _broker_errors(self._url):
            if self._client.get(queues.coordinator_key(job)) == self._me:
                self._client.delete(queues.coordinator_key(job))

    def submit(self, job: str, location: str) -> None:
        with _broker_errors(self._url):
            self._client.hset(queues.JOBS, job, location)

    def submitted(self) -> dict[str, str]:
        with _broker_errors(self._url):
            return {str(job): str(location) for job, location in self._client.hgetall(queues.JOBS).items()}

    def strike_off(self, job: str) -> None:
        with _broker_errors(self._url):
            self._client.hdel(queues.JOBS, job)

    def reports(self, job: str) -> list[ShardReport]:
        with _broker_errors(self._url):
            raw = self._client.lpop(queues.reports_key(job), _REPORTS_A_TIME) or []
        return _parsed(ShardReport.from_json, map(str, raw))

    def leased(self, job: str, shards: Iterable[int]) -> set[int]:
        numbers = list(shards)
        if not numbers:
            return set()
        with _broker_errors(self._url):
            holders = self._client.mget([queues.lease_key(job, n) for n in numbers])
        return {n for n, holder in zip(numbers, holders, strict=True) if holder}

    def depth(self, queue: str) -> int:
        with _broker_errors(self._url):
            return int(self._client.llen(queues.depth_key(queue)))

    def workers(self) -> list[WorkerPresence]:
        with _broker_errors(self._url):
            keys = list(self._client.scan_iter(queues.worker_key("*"), count=1000))
            found = self._client.mget(keys) if keys else []
        present: dict[str, WorkerPresence] = {}
        for line in map(str, filter(None, found)):  # they stay what they are, mostly: parsing takes longest
            known = self._presences.get(line)
            for presence in [known] if known else _parsed(WorkerPresence.from_json, [line]):
                present[line] = presence
        self._presences = present
        return sorted(present.values(), key=lambda worker: worker.name)

    def cancel(self, job: str) -> None:
        with _broker_errors(self._url):
            self._client.set(queues.cancel_key(job), "1", ex=queues.KEY_TTL_S)

    def uncancel(self, job: str) -> None:
        with _broker_errors(self._url):
            self._client.delete(queues.cancel_key(job))

    def withdraw(self, job: str) -> None:
        with _broker_errors(self._url):
            self._client.delete(queues.job_key(job))

    def facts(self) -> dict[str, str]:
        """What `doctor` looks at: version, memory policy, limits."""
        with _broker_errors(self._url):
            info = self._client.info()
            told = {name: str(info.get(name, "")) for name in ("redis_version", "valkey_version", "maxmemory_policy")}
            return told | {"maxmemory": str(info.get("maxmemory", 0)), "aof_enabled": str(info.get("aof_enabled", 0))}


@dataclass
class MemoryBoard:
    """The board in this process, for tests; held to RedisBoard by tests/contract."""

    held: set[tuple[str, int]] = field(default_factory=set)
    waiting: dict[str, int] = field(default_factory=dict)
    present: list[WorkerPresence] = field(default_factory=list)
    said: list[ShardReport] = field(default_factory=list)
    driver: dict[str, object] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    jobs: dict[str, str] = field(default_factory=dict)
    withdrawn: set[str] = field(default_factory=set)

    def claim(self, job: str, location: str) -> bool:
        return self.driver.setdefault(job, self) is self

    def give_up(self, job: str) -> None:
        self.driver.pop(job, None)

    def submit(self, job: str, location: str) -> None:
        self.jobs[job] = location

    def submitted(self) -> dict[str, str]:
        return dict(self.jobs)

    def strike_off(self, job: str) -> None:
        self.jobs.pop(job, None)

    def reports(self, job: str) -> list[ShardReport]:
        said, self.said = self.said, []
        return said

    def leased(self, job: str, shards: Iterable[int]) -> set[int]:
        return {n for n in shards if (job, n) in self.held}

    def depth(self, queue: str) -> int:
        return self.waiting.get(queue, 0)

    def workers(self) -> list[WorkerPresence]:
        return sorted(self.present, key=lambda w: w.name)

    def withdraw(self, job: str) -> None:
        self.withdrawn.add(job)

    def cancel(self, job: str) -> None:
        self.cancelled.add(job)

    def uncancel(self, job: str) -> None:
        self.cancelled.discard(job)


def _parsed(parse: Callable[[str], _T], lines: Iterable[str]) -> list[_T]:
    """What `lines` say; one that says nothing we know is passed over: all of it is hints."""
    found = []
    for line in lines:
        try:
            found.append(parse(line))
        except (ValueError, TypeError, LookupError, AttributeError):
            logger.warning("something on Redis is not what embedmill writes", extra={"event": "foreign_value"})
    return found


class _broker_errors:  # noqa: N801  # reads as a word in a `with`
    """Map what redis-py raises to BrokerError, once, at this seam."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, err: BaseException | None, trace: object) -> None:
        if isinstance(err, redis.AuthenticationError):
            raise BrokerError(f"{redact(self._url)} refuses the password; check --broker-url") from err
        if isinstance(err, UnicodeDecodeError):
            raise BrokerError(f"{redact(self._url)} holds what is no text where embedmill keeps its own") from err
        if isinstance(err, redis.RedisError):
            raise BrokerError(f"{redact(self._url)} cannot be reached: {err}; is the server up?") from err
