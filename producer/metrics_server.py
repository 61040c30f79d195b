"""The metrics server: `/metrics` for Prometheus, on loopback, or with a token."""

import hmac
import ipaddress
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.registry import CollectorRegistry

from schemas.errors import Refused

_LEAST_TOKEN = 16
_Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class MetricsServer:
    """Serves a registry from a thread of its own; `port` 0 takes a free one."""

    def __init__(self, registry: CollectorRegistry, *, host: str, port: int, token: str = "") -> None:
        """Raises Refused for an address beyond this machine without a token, or one that cannot be had."""
        if not _is_loopback(host) and len(token) < _LEAST_TOKEN:
            raise Refused(
                f"--metrics {host}:{port} listens beyond this machine; give EMBEDMILL_METRICS_TOKEN a secret of "
                f"{_LEAST_TOKEN} characters or more, or listen on 127.0.0.1"
            )
        try:
            self._server = make_server(host, port, _guarded(make_wsgi_app(registry), token), _Server, _Silent)
        except OSError as err:
            raise Refused(f"--metrics {host}:{port} cannot be had: {err.strerror or err}; name another port") from err
        self.port: int = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def address_of(text: str) -> tuple[str, int]:
    """`HOST:PORT`, or a port of loopback; raises Refused for anything else."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise Refused(f"--metrics {text}: no port; say 9108 or 127.0.0.1:9108")
    return host.strip("[]") or "127.0.0.1", int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _guarded(app: _Wsgi, token: str) -> _Wsgi:
    """`/metrics` alone, and with a token only for who has it; collected for one at a time."""
    turn = threading.Lock()

    def guard(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = str(environ.get("HTTP_AUTHORIZATION", ""))
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Length", "0")])
            return []
        if environ.get("PATH_INFO") != "/metrics" or environ.get("REQUEST_METHOD") != "GET":
            start_response("404 Not Found", [("Content-Length", "0")])
            return []
        with turn:
            return list(app(environ, start_response))

    return guard


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: one that never ends keeps nobody else waiting."""

    daemon_threads = True
    block_on_close = False


class _Silent(WSGIRequestHandler):
    timeout = 10.0  # of a client that says nothing

    def log_message(self, *words: object) -> None:
        """A scrape every few seconds is no news."""
