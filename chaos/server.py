"""The Redis under test: one of our own, which may be killed, or the user's, of which only our keys are touched."""

import re
from types import TracebackType
from typing import Protocol
from urllib.parse import urlsplit

import redis

from chaos.processes import kill
from producer.broker import EmbeddedBroker
from schemas.errors import BrokerError, Refused
from schemas.queues import CLIENT_OPTIONS, JOBS, PREFIX, client_url, depth_key, worker_key
from schemas.redaction import redact


class Server(Protocol):
    """A Redis for the length of a run; a context manager."""

    url: str

    def __enter__(self) -> "Server": ...

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def wipe(self) -> None:
        """Forget everything that embedmill keeps there."""

    def client(self) -> redis.Redis: ...


def password_of(url: str) -> str:
    """The password in a broker URL, or ""."""
    return urlsplit(url).password or ""


class OwnServer:
    """A server of our own."""

    def __init__(self) -> None:
        self._broker = EmbeddedBroker()
        self.url = self._broker.url

    def __enter__(self) -> "OwnServer":
        self._broker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._broker.__exit__()

    def restart(self) -> None:
        """SIGKILL, then start it again without anything of what it held."""
        if self._broker.pid is not None:
            kill(self._broker.pid)
        while not self._broker.watch():
            pass  # the kernel is ending it

    def wipe(self) -> None:
        self.client().flushall()

    def client(self) -> redis.Redis:
        return _client(self.url)


class GivenServer:
    """The user's server: what was there before the run is never touched, and nothing of ours stays."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._before: set[str] = set()

    def __enter__(self) -> "GivenServer":
        with _refusals(self.url):
            client = self.client()
            self._require_unused(client)
            self._before = _our_keys(client)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _refusals(self.url):
            self.wipe()

    def wipe(self) -> None:
        client = self.client()
        ours = _our_keys(client) - self._before
        if ours:
            client.delete(*ours)

    def client(self) -> redis.Redis:
        return _client(self.url)

    def _require_unused(self, client: redis.Redis) -> None:
        """Raise Refused where somebody works: workers of a queue take whatever is in it."""
        workers = sum(1 for _ in client.scan_iter(worker_key("*"), count=1000))
        jobs = int(client.hlen(JOBS))
        queues = [
            key for key in _our_keys(client) if re.fullmatch(re.escape(depth_key("")) + r"(embed|rerank)\..+", key)
        ]
        if workers or jobs or queues:
            raise Refused(
                f"{redact(self.url)} is in use ({workers} workers, {jobs} jobs, {len(queues)} queues with messages), "
                "and chaos would get in their way; name another database, as redis://host:6379/9"
            )


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(client_url(url), **CLIENT_OPTIONS)


def _our_keys(client: redis.Redis) -> set[str]:
    return set(map(str, client.scan_iter(f"{PREFIX}*", count=1000)))


class _refusals:  # noqa: N801  # reads as a word in a `with`
    """What redis-py raises becomes BrokerError."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, err: BaseException | None, trace: object) -> None:
        if isinstance(err, redis.RedisError | ValueError):
            raise BrokerError(f"{redact(self._url)} cannot be used: {redact(str(err))}; is the server up?") from err
