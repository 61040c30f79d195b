"""Media over http(s): public hosts only, judged at every hop; capped, and patient with what passes."""

import contextlib
import datetime
import http.client
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from schemas.errors import Refused
from schemas.failures import Failure, FailureCode
from schemas.redaction import redact
from workers.breaker import Breaker
from workers.fetch_failure import fetch_failure, require_handles, size_problem
from workers.http_connection import Connect, Connection, Dialer, OverLimit, Pool, Resolve, Unreachable, connect
from workers.http_url import HttpUrl, joined, parse_http_url

MAX_REDIRECTS = 3
_TRIES = 3
_BACKOFF_S = 0.5
_PIECE = 2**18
#: Heads, and the framing of chunks, come on top of the medium: chunks of a byte each would cost minutes of computing.
_FRAMING = 2**20

_MOVED = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CODES = {
    **dict.fromkeys((404, 410), FailureCode.NOT_FOUND),
    **dict.fromkeys((401, 403, 407, 451), FailureCode.ACCESS_DENIED),
}


class HttpSource:
    """Fetches http(s) URLs; one for all threads of a process.

    Where `roots` are given, nothing else is asked. `resolve`, `dial`, `tls` and `sleep` are the world around it;
    proxies, netrc and cookies are no part of it.
    """

    def __init__(
        self,
        *,
        roots: tuple[str, ...] = (),
        max_bytes: int,
        max_seconds: float,
        allow_http: bool = False,
        allow_private: bool = False,
        resolve: Resolve = socket.getaddrinfo,
        dial: Connect = connect,
        tls: ssl.SSLContext | None = None,
        breaker: Breaker | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._roots = tuple(map(require_http_url, roots))
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._allow_http = allow_http
        self._context = tls
        self._context_lock = threading.Lock()
        self._dialer = Dialer(allow_private=allow_private, resolve=resolve, connect=dial, tls=self._tls)
        self._breaker = breaker or Breaker()
        self._pool = Pool()
        self._sleep = sleep

    def fetch(self, uri: str) -> bytes | Failure:
        """The content of `uri`, or why there is none."""
        trip = _Trip(deadline=time.monotonic() + self._max_seconds)
        for tries_left in reversed(range(_TRIES)):
            try:
                return self._follow(uri, trip)
            except _Miss as miss:
                wait_s = _wait(miss, tries_left, trip.deadline)
                if wait_s is None:
                    return self._given_up(miss, trip, uri)
            self._sleep(wait_s)
        raise AssertionError("the last try has no next")

    def close(self) -> None:
        """Let go of all connections at rest."""
        self._pool.close()

    def _given_up(self, miss: "_Miss", trip: "_Trip", uri: str) -> Failure:
        if miss.hosts_fault and trip.url is not None:
            self._breaker.failed(trip.url.server)
        way = f" (after {trip.hops} redirects)" if trip.hops else ""
        return fetch_failure(miss.code, f"{miss.reason}{way}", uri)

    def _follow(self, uri: str, trip: "_Trip") -> bytes:
        trip.url, trip.hops = None, 0
        location = uri
        while trip.hops <= MAX_REDIRECTS:
            url = self._judged(location, came_from=trip.url)
            trip.url = url
            answer = self._ask(url, trip)
            if isinstance(answer, bytes):
                return answer
            location = joined(url, answer.location)
            trip.hops += 1
        raise _Miss(FailureCode.TOO_MANY_REDIRECTS, f"more than {MAX_REDIRECTS} redirects")

    def _judged(self, location: str, came_from: HttpUrl | None) -> HttpUrl:
        """`location` as an address that may be asked, as far as can be told without resolving it."""
        if came_from is not None and not location.lower().startswith(("http://", "https://")):
            raise _Miss(FailureCode.URI_SCHEME, "a redirect to something that is not http(s)")
        url = parse_http_url(location)
        if not isinstance(url, HttpUrl):
            raise _Miss(*url)
        if url.scheme == "http" and not self._allow_http:
            raise _Miss(FailureCode.URI_SCHEME, "plain http:// is not allowed in this job; use https://")
        if came_from is not None and (came_from.scheme, url.scheme) == ("https", "http"):
            raise _Miss(FailureCode.URI_SCHEME, "a redirect from https to plain http")
        if self._roots and not any(url.within(root) for root in self._roots):
            raise _Miss(FailureCode.OUTSIDE_ROOT, "outside the media roots (--media-root names them)")
        return url

    def _ask(self, url: HttpUrl, trip: "_Trip") -> "bytes | _Moved":
        """One request; the host's breaker learns that it answered."""
        if url.server not in trip.admitted and not self._breaker.admits(url.server):
            raise _Miss(FailureCode.HOST_UNAVAILABLE, "the host failed again and again, and is left alone for a while")
        trip.admitted.add(url.server)
        with self._breaker.turn(url.server, trip.deadline - time.monotonic()) as mine:
            if not mine:
                raise _Miss(FailureCode.FETCH_TIMEOUT, "no connection to the host came free in time")
            try:
                with _sockets_errors(trip.deadline, self._max_seconds):
                    answer = self._exchange(url, trip.deadline)
            except _Miss as miss:
                if miss.answered:
                    self._breaker.answered(url.server)
                raise
        self._breaker.answered(url.server)
        return answer

    def _exchange(self, url: HttpUrl, deadline: float) -> "bytes | _Moved":
        connection, reply = self._reply(url, deadline)
        kept = False
        try:
            answer = self._content(reply, secure=url.scheme == "https")
            kept = connection.may_be_kept(reply)
        finally:
            if not kept:  # also what a redirect's or an error's body was not read from
                connection.close()
        if kept:
            self._pool.give(connection)
        return answer

    def _reply(self, url: HttpUrl, deadline: float) -> tuple[Connection, http.client.HTTPResponse]:
        """The head of a reply, over a connection at rest or a new one."""
        rested = self._pool.take(url.origin)
        if rested is not None:
            # The server may have closed it just now: that is no fault, and a new one is dialled.
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                return rested, self._head(rested, url, deadline)
        connection = self._dialer.dial(url, deadline)
        return connection, self._head(connection, url, deadline)

    def _head(self, connection: Connection, url: HttpUrl, deadline: float) -> http.client.HTTPResponse:
        try:
            return connection.ask(url, deadline, self._max_bytes + self._max_bytes // 4 + _FRAMING)
        except BaseException:
            connection.close()
            raise

    def _content(self, reply: http.client.HTTPResponse, *, secure: bool) -> "bytes | _Moved":
        if reply.status in _MOVED:
            return _Moved(_location(reply))
        _require_ok(reply)
        claimed = _claimed_size(reply)
        problem = None if claimed is None else size_problem(claimed, self._max_bytes)
        if problem is not None:
            raise _Miss(*problem, answered=True)
        if secure and claimed is None and not reply.chunked:
            # Whoever cuts the wire could choose where such a body ends; http:// has no promise to keep.
            message = "the reply says neither its length nor where it ends: a cut would go unnoticed"
            raise _Miss(FailureCode.FETCH_FAILED, message, answered=True)
        data = self._body(reply) if claimed is None else reply.read(claimed)
        if claimed is not None and len(data) < claimed:
            raise http.client.IncompleteRead(b"", claimed - len(data))
        problem = size_problem(len(data), self._max_bytes)
        if problem is not None:
            raise _Miss(*problem, answered=True)
        return data

    def _body(self, reply: http.client.HTTPResponse) -> bytes:
        """A body that does not say its size, up to one byte over the limit."""
        pieces, room = [], self._max_bytes + 1
        while room > 0 and (piece := reply.read(min(_PIECE, room))):
            pieces.append(piece)
            room -= len(piece)
        if room <= 0:
            raise _Miss(FailureCode.FILE_TOO_LARGE, f"over the limit of {self._max_bytes} bytes", answered=True)
        return b"".join(pieces)

    def _tls(self) -> ssl.SSLContext:
        with self._context_lock:  # made when first needed: it reads all the system's certificates
            if self._context is None:
                self._context = ssl.create_default_context()
            return self._context


@dataclass(slots=True)
class _Trip:
    """One row's way, over all its tries."""

    deadline: float
    url: HttpUrl | None = None  # the hop that it is at
    hops: int = 0
    admitted: set[str] = field(default_factory=set)  # hosts that let this row in


@dataclass(frozen=True, slots=True)
class _Moved:
    location: str


class _Miss(Exception):
    """Why a try brought nothing."""

    def __init__(
        self,
        code: FailureCode,
        reason: str,
        *,
        passing: bool = False,
        hosts_fault: bool = False,
        answered: bool = False,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.passing = passing  # another try may succeed
        self.hosts_fault = hosts_fault  # counts against the host
        self.answered = answered  # counts for the host
        self.wait_s = wait_s  # what the host asked for


def require_http_url(text: str) -> HttpUrl:
    """A root or base as an address; raises Refused when it is none, or has a query."""
    url = parse_http_url(text)
    if not isinstance(url, HttpUrl):
        raise Refused(f"{redact(text)}: {url[1]}")
    if url.query:
        raise Refused(f"{redact(text)}: a root has no query; give https://host/folder")
    return url


@contextlib.contextmanager
def _sockets_errors(deadline: float, max_seconds: float) -> Iterator[None]:
    """Map what sockets, TLS and http.client raise to misses, once."""
    try:
        yield
    except Unreachable as err:
        faulty = err.code is FailureCode.FETCH_FAILED
        raise _Miss(err.code, err.reason, passing=err.transient, hosts_fault=faulty) from err
    except OverLimit as err:
        raise _Miss(FailureCode.FILE_TOO_LARGE, "more bytes came than the limit allows", answered=True) from err
    except TimeoutError as err:
        if time.monotonic() >= deadline:
            reason = f"not done within {max_seconds:g} s"
            raise _Miss(FailureCode.FETCH_TIMEOUT, reason, hosts_fault=True) from err
        raise _Miss(FailureCode.FETCH_TIMEOUT, "the host does not answer", passing=True, hosts_fault=True) from err
    except ssl.SSLCertVerificationError as err:
        reason = f"the host's certificate is not valid ({err.verify_message})"
        raise _Miss(FailureCode.FETCH_FAILED, reason, hosts_fault=True) from err
    except http.client.IncompleteRead as err:
        raise _Miss(FailureCode.FETCH_FAILED, "the reply broke off", passing=True, hosts_fault=True) from err
    except OSError as err:
        require_handles(err)
        reason = f"the connection failed ({err.strerror or type(err).__name__})"
        raise _Miss(FailureCode.FETCH_FAILED, reason, passing=True, hosts_fault=True) from err
    except (http.client.HTTPException, ValueError) as err:
        raise _Miss(FailureCode.FETCH_FAILED, "the reply is no HTTP", hosts_fault=True) from err


def _wait(miss: _Miss, tries_left: int, deadline: float) -> float | None:
    """Seconds until the next try, or None when there is to be none."""
    if not miss.passing or not tries_left:
        return None
    backoff_s = _BACKOFF_S * 2 ** (_TRIES - 1 - tries_left) * random.uniform(0.5, 1)  # noqa: S311  # no secret
    wait_s = max(backoff_s, miss.wait_s or 0)
    return wait_s if time.monotonic() + wait_s < deadline else None


def _require_ok(reply: http.client.HTTPResponse) -> None:
    """Raise _Miss unless the reply is a 200 with a plain body."""
    status = reply.status
    if status != 200:
        raise _Miss(
            _CODES.get(status, FailureCode.FETCH_FAILED),
            f"the host answered {status}",
            passing=status in _PASSING,
            hosts_fault=status in _PASSING or status >= 500,
            answered=status < 500 and status not in _PASSING,
            wait_s=_retry_after(reply) if status in _PASSING else None,
        )
    encoding = reply.getheader("Content-Encoding", "identity").strip().lower()
    framing = reply.getheader("Transfer-Encoding", "chunked").strip().lower()
    if encoding not in ("", "identity") or framing != "chunked":
        reason = "the host sends an encoding that was not asked for (Content-Encoding or Transfer-Encoding)"
        raise _Miss(FailureCode.FETCH_FAILED, reason, answered=True)


def _claimed_size(reply: http.client.HTTPResponse) -> int | None:
    """The size that the reply says its body has, if it says one."""
    sizes = set(reply.headers.get_all("Content-Length", []))
    if not sizes or reply.chunked:
        return None
    if len(sizes) > 1 or reply.length is None:
        raise _Miss(FailureCode.FETCH_FAILED, "the reply has no usable Content-Length", answered=True)
    return reply.length


def _location(reply: http.client.HTTPResponse) -> str:
    location = reply.getheader("Location")
    if not location:
        raise _Miss(FailureCode.FETCH_FAILED, f"the host answered {reply.status} without a location", answered=True)
    try:
        return location.encode("latin-1").decode()  # what http.client read as Latin-1 is UTF-8 nowadays
    except UnicodeError:
        return location


def _retry_after(reply: http.client.HTTPResponse) -> float | None:
    """Seconds that the host asks to be left alone, where it says so."""
    text = reply.getheader("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())
