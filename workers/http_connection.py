"""A connection to a checked address, and the requests that go over it, each with its deadline."""

import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from schemas.failures import FailureCode
from workers.addresses import may_connect
from workers.fetch_failure import require_handles
from workers.http_url import HttpUrl

#: getaddrinfo's answers, and what makes them: (host, port, family, type).
Answers = Sequence[tuple[int, int, int, str, tuple[Any, ...]]]  # Any: the shape of an address depends on its family
Resolve = Callable[[str, int, int, int], Answers]
#: Connects to one checked address: (family, address, timeout in seconds).
Connect = Callable[[int, tuple[Any, ...], float], socket.socket]

#: Addresses of one host that are tried, and the seconds each may take.
_ADDRESSES_TRIED = 4
_CONNECT_S = 10.0
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
#: Idle connections that are kept, and for how long: servers close theirs after 5 to 75 s.
_IDLE_KEPT = 32
_IDLE_S = 15.0


class Unreachable(Exception):
    """A host that cannot be connected to for a reason that is no socket error."""

    def __init__(self, code: FailureCode, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.transient = transient


class OverLimit(Exception):
    """More bytes came than the largest medium has."""


def connect(family: int, address: tuple[Any, ...], timeout_s: float) -> socket.socket:
    """A socket connected to `address`; nothing is resolved here."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


class Dialer:
    """Opens connections: resolves once, judges every answer, dials what was judged."""

    def __init__(
        self, *, allow_private: bool, resolve: Resolve, connect: Connect, tls: Callable[[], ssl.SSLContext]
    ) -> None:
        self._allow_private = allow_private
        self._resolve = resolve
        self._connect = connect
        self._tls = tls

    def dial(self, url: HttpUrl, deadline: float) -> "Connection":
        """A new connection to the host of `url`; raises Unreachable, OSError, or TimeoutError at `deadline`."""
        sock = self._socket(self._addresses(url, deadline), deadline)
        if url.scheme == "https":
            try:
                sock.settimeout(_left(deadline))
                # A reply cut short by someone else must not look like its end.
                sock = self._tls().wrap_socket(sock, server_hostname=url.host, suppress_ragged_eofs=False)
            except BaseException:
                sock.close()
                raise
        return Connection(sock, url.origin)

    def _addresses(self, url: HttpUrl, deadline: float) -> list[tuple[int, tuple[Any, ...]]]:
        """The host's addresses as family and socket address; raises Unreachable unless each may be connected to."""
        if not self._allow_private and (url.host == "localhost" or url.host.endswith(".localhost")):
            raise Unreachable(FailureCode.ADDRESS_FORBIDDEN, "this machine is not a public host")
        if url.literal:
            family = socket.AF_INET6 if ":" in url.host else socket.AF_INET
            answers = [(int(family), (url.host, url.port))]
        else:
            answers = _ask_resolver(self._resolve, url, deadline)
        for _, address in answers:
            if not may_connect(str(address[0]), allow_private=self._allow_private) or any(address[3:]):
                raise Unreachable(FailureCode.ADDRESS_FORBIDDEN, "the host has an address that is not public")
        return answers[:_ADDRESSES_TRIED]

    def _socket(self, addresses: list[tuple[int, tuple[Any, ...]]], deadline: float) -> socket.socket:
        problem: OSError = TimeoutError()
        for family, address in addresses:
            try:
                return self._connect(family, address, min(_left(deadline), _CONNECT_S))
            except OSError as err:
                require_handles(err)
                problem = err
        raise problem


class Connection:
    """One socket to one origin; used by one thread at a time."""

    def __init__(self, sock: socket.socket, origin: tuple[str, str, int]) -> None:
        self._sock = sock
        self._wire: _Wire | None = None
        self.origin = origin
        self.idle_since = 0.0
        self.fresh = True  # carried no request yet

    def ask(self, url: HttpUrl, deadline: float, most_bytes: int) -> http.client.HTTPResponse:
        """The head of the reply to GET `url`; its body is read from it, up to the same deadline and number of bytes.

        Raises OSError, http.client.HTTPException or ValueError for what is no reply, OverLimit, TimeoutError.
        """
        self._sock.settimeout(_left(deadline))
        self._sock.sendall(_request(url))
        self.fresh = False
        self._wire = _Wire(self._sock, deadline, most_bytes)
        reply = http.client.HTTPResponse(self._wire, method="GET")  # type: ignore[arg-type]  # it asks for makefile only
        reply.begin()
        if self._wire.ended():  # http.client takes half a head for a whole one
            raise http.client.IncompleteRead(b"")
        return reply

    def may_be_kept(self, reply: http.client.HTTPResponse) -> bool:
        """Whether `reply` was read to its very end and nothing came after it: another request may follow."""
        return reply.isclosed() and not reply.will_close and self._wire is not None and self._wire.ended_clean()

    def is_quiet(self) -> bool:
        """Whether an idle connection still stands, with nothing in it that would be taken for the next reply."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self._sock.close()


class Pool:
    """Connections at rest, for the next request to the same origin; one for all threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._idle: list[Connection] = []  # the longest idle first
        self._lock = threading.Lock()

    def take(self, origin: tuple[str, str, int]) -> Connection | None:
        """A connection to `origin` that still stands, if there is one."""
        while True:
            with self._lock:
                mine = next((c for c in reversed(self._idle) if c.origin == origin), None)
                if mine is None:
                    return None
                self._idle.remove(mine)
            if self._clock() - mine.idle_since < _IDLE_S and mine.is_quiet():
                return mine
            mine.close()

    def give(self, connection: Connection) -> None:
        """Keep `connection`, and let go the one that rested longest when there are many."""
        connection.idle_since = self._clock()
        with self._lock:
            self._idle.append(connection)
            surplus = self._idle[:-_IDLE_KEPT]
            del self._idle[:-_IDLE_KEPT]
        for old in surplus:
            old.close()

    def close(self) -> None:
        """Close all connections at rest."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class _Wire:
    """What HTTPResponse takes for a socket: bytes in time, and not too many."""

    def __init__(self, sock: socket.socket, deadline: float, most_bytes: int) -> None:
        self._bytes = _TimedSocket(sock, deadline, most_bytes)
        self._reader = _Reader(self._bytes)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return self._reader

    def ended(self) -> bool:
        """Whether the other side has said all that it will, and all of it was asked for."""
        return self._bytes.ended

    def ended_clean(self) -> bool:
        return self._reader.ended_clean


class _TimedSocket(io.RawIOBase):
    """A socket's bytes; the time that is left is given to each read anew, so that trickling buys nothing."""

    def __init__(self, sock: socket.socket, deadline: float, most_bytes: int) -> None:
        self._sock = sock
        self._deadline = deadline
        self._bytes_left = most_bytes
        self.stopped = False
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # Any: the base class's buffer
        if self.stopped:
            return 0
        self._sock.settimeout(_left(self._deadline))
        count = self._sock.recv_into(buffer)
        self.ended = count == 0
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise OverLimit
        return count


class _Reader(io.BufferedReader):
    """A buffer that knows when it is closed whether bytes were left in it: they would belong to no request."""

    def __init__(self, raw: _TimedSocket) -> None:
        super().__init__(raw)
        self._timed = raw
        self.ended_clean = False

    def close(self) -> None:
        if not self.closed:
            self._timed.stopped = True
            with suppress(ValueError):
                self.ended_clean = not self.peek(1)
        super().close()


def _ask_resolver(resolve: Resolve, url: HttpUrl, deadline: float) -> list[tuple[int, tuple[Any, ...]]]:
    """What the resolver says, asked in a thread of its own: it knows no deadline."""
    done: list[Answers | Exception] = []

    def ask() -> None:
        try:
            done.append(resolve(url.host, url.port, 0, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as err:
            done.append(err)

    asker = threading.Thread(target=ask, name="resolve", daemon=True)
    asker.start()
    asker.join(_left(deadline))
    if not done:
        raise TimeoutError
    answers = done[0]
    if isinstance(answers, Exception):
        again = isinstance(answers, OSError) and answers.errno == socket.EAI_AGAIN
        raise Unreachable(FailureCode.FETCH_FAILED, "the host's name cannot be resolved", transient=again) from answers
    known = {(int(family), address): None for family, *_, address in answers if family in _FAMILIES}
    if not known:
        raise Unreachable(FailureCode.FETCH_FAILED, "the host has no address")
    return list(known)


def _request(url: HttpUrl) -> bytes:
    """The whole of what is told to a server: no cookie, no credential, no referrer."""
    lines = (
        f"GET {url.target} HTTP/1.1",
        f"Host: {url.server}",
        "User-Agent: embedmill",
        "Accept: */*",
        "Accept-Encoding: identity",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


def _left(deadline: float) -> float:
    """Seconds until `deadline`; raises TimeoutError when it is over."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
