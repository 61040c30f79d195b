"""A scripted HTTP server on loopback: what it answers, and how badly, is up to the test."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Page:
    """One answer."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None  # what Content-Length claims; None: the truth; -1: nothing is claimed
    raw: Callable[["HttpServer"], Iterable[bytes]] | None = None  # all that is sent, instead of the above


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    path: str
    headers: dict[str, str]


def redirect(location: str, status: int = 302) -> Page:
    """A redirect whose body is a bomb for whoever reads it."""
    return Page(status=status, headers=(("Location", location),), length=2**40)


def dripping(*first: bytes, piece: bytes = b"x") -> Page:
    """The bytes of `first`, and then one `piece` a second for ever."""

    def raw(server: "HttpServer") -> Iterator[bytes]:
        yield from first
        while not server.stopping.wait(1.0):
            yield piece

    return Page(raw=raw)


def pouring(*first: bytes, piece: bytes) -> Page:
    """The bytes of `first`, and then `piece` after `piece` for ever."""

    def raw(server: "HttpServer") -> Iterator[bytes]:
        yield from first
        while not server.stopping.is_set():
            yield piece

    return Page(raw=raw)


class HttpServer(ThreadingHTTPServer):
    """Answers GET with `pages`, after what `first` has for the path; everything else is 404."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.first: dict[str, list[Page]] = {}
        self.asked: list[Asked] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._tls = tls

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.server_port}"

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [asked.path for asked in self.asked]

    def finish_request(self, request: Any, client_address: Any) -> None:  # Any: the base class's
        self.connections += 1
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with self._tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.asked.append(Asked(self.path, {name.lower(): value for name, value in self.headers.items()}))
        script = self.server.first.get(self.path)
        page = script.pop(0) if script else self.server.pages.get(self.path, Page(status=404))
        if page.raw is not None:
            self._send_raw(page.raw(self.server))
        else:
            self._send(page)

    def _send(self, page: Page) -> None:
        self.send_response(page.status)
        for name, value in page.headers:
            self.send_header(name, value)
        if page.length != -1:
            self.send_header("Content-Length", str(len(page.body) if page.length is None else page.length))
        self.end_headers()
        self.wfile.write(page.body)
        self.close_connection = page.length is not None

    def _send_raw(self, pieces: Iterable[bytes]) -> None:
        self.close_connection = True
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parameter's name in the base class
        """Tests are quiet."""


@contextmanager
def http_server(tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1") -> Iterator[HttpServer]:
    """A running server; whoever still waits for it is let go at the end."""
    with HttpServer(tls, host) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


@dataclass
class Canary:
    """A listener that nobody may ever connect to."""

    port: int
    visitors: list[Any] = field(default_factory=list)


@contextmanager
def canary() -> Iterator[Canary]:
    """Listens on 127.0.0.1 and, where there is one, on ::1, at the same port."""
    listeners = [socket.create_server(("127.0.0.1", 0))]
    bird = Canary(listeners[0].getsockname()[1])
    with suppress(OSError):  # no IPv6 here, or the port is taken there
        listeners.append(socket.create_server(("::1", bird.port), family=socket.AF_INET6))
    try:
        yield bird
    finally:
        for listener in listeners:
            listener.setblocking(False)
            try:
                while True:
                    bird.visitors.append(listener.accept()[1])
            except BlockingIOError:
                listener.close()
