"""A proxy in front of an S3 server that loses replies, answers with errors, and breaks what it passes on."""

import http.client
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

from tests.servers import S3Server


class Fault(Enum):
    """What happens to one request."""

    NONE = auto()
    LOST_REPLY = auto()  # carried out, and the connection is cut instead of an answer
    ERROR_AFTER = auto()  # carried out, and answered with 500
    SLOW_DOWN = auto()  # not carried out, and answered with 503
    CONFLICT = auto()  # not carried out, and answered with 409: another writer is at it
    UNCONDITIONAL = auto()  # carried out without If-None-Match: what a store does that does not know it
    CUT_BODY = auto()  # answered with all headers and half the body


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that came through, and what the server itself answered; 0 where it was not asked."""

    method: str
    key: str
    status: int


#: Which fault meets a request, by its method and its key.
Chooser = Callable[[str, str], Fault]


class S3Proxy:
    """Listens on a free loopback port; `choose` may be set at any time."""

    def __init__(self, server: S3Server) -> None:
        self._target = urlsplit(server.endpoint).netloc
        self._bucket = server.bucket
        self._http = _Listener(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self.choose: Chooser = lambda method, key: Fault.NONE
        self.seen: list[Seen] = []
        self.server = S3Server(f"http://127.0.0.1:{self._http.server_port}", server.bucket)

    def __enter__(self) -> "S3Proxy":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def stored(self, method: str, part: str) -> list[str]:
        """The keys holding `part` that the server carried out a `method` on."""
        return [s.key for s in self.seen if s.method == method and part in s.key and 200 <= s.status < 300]

    def connect(self) -> http.client.HTTPConnection:
        """A connection to the server itself."""
        return http.client.HTTPConnection(self._target, timeout=30)

    def key_of(self, path: str) -> str:
        return urlsplit(path).path.removeprefix(f"/{self._bucket}/")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        return Handler


class _Listener(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed in the middle of a request."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


_REFUSALS = {Fault.SLOW_DOWN: (503, "SlowDown"), Fault.CONFLICT: (409, "ConditionalRequestConflict")}


class _Handler(BaseHTTPRequestHandler):
    owner: S3Proxy
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self._server = self.owner.connect()

    def finish(self) -> None:
        self._server.close()
        super().finish()

    def _ask(self, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Have the server itself carry the request out; its status, headers and body."""
        self._server.request(self.command, self.path, body, headers)
        answer = self._server.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.owner.key_of(self.path)
        fault = self.owner.choose(self.command, key)
        if fault in _REFUSALS:
            self.owner.seen.append(Seen(self.command, key, 0))
            return self._refuse(*_REFUSALS[fault])
        skipped = {"if-none-match"} if fault is Fault.UNCONDITIONAL else set()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
        status, answered, data = self._ask(headers, body)
        self.owner.seen.append(Seen(self.command, key, status))
        if fault is Fault.LOST_REPLY:
            self.close_connection = True
        elif fault is Fault.ERROR_AFTER:
            self._refuse(500, "InternalError")
        else:
            self._answer(status, answered, data, cut=fault is Fault.CUT_BODY)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", str(len(body)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>by the proxy</Message></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml")], body, cut=False)

    def log_message(self, *words: object) -> None:
        """Say nothing."""
