"""The proxy's ways to fail, on a real connection to a server that answers what it is told."""

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from chaos.proxy import Proxy, Target, target_of, url_through


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy in front of an echo."""
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Proxy(Target(host="127.0.0.1", port=server.server_address[1])) as proxy:
            yield proxy
        server.shutdown()


def connected(proxy: Proxy, timeout_s: float = 10) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout_s)


@pytest.mark.parametrize(("up", "down"), [(True, True), (True, False), (False, True)])
def test_a_silence_holds_back_and_does_not_lose(proxy: Proxy, up: bool, down: bool) -> None:
    """Nothing comes back while it lasts, either way; what was said arrives when it ends."""
    with connected(proxy) as client:
        client.sendall(b"before")
        assert client.recv(1024) == b"before"
        proxy.silence(up=up, down=down)
        client.settimeout(0.3)

        client.sendall(b"held")
        with pytest.raises(TimeoutError):
            client.recv(1024)
        proxy.heal()
        client.settimeout(10)

        assert client.recv(1024) == b"held"


def test_a_black_hole_loses_what_is_open_and_lets_new_ones_through(proxy: Proxy) -> None:
    """Half open: the old connection hears nothing any more, not even its end."""
    with connected(proxy) as old:
        old.sendall(b"before")
        assert old.recv(1024) == b"before"

        assert proxy.blackhole() == 1
        old.sendall(b"lost")
        old.settimeout(0.3)

        with pytest.raises(TimeoutError):
            old.recv(1024)
        with connected(proxy) as new:
            new.sendall(b"heard")
            assert new.recv(1024) == b"heard"


def test_a_reset_is_told(proxy: Proxy) -> None:
    """The client learns at once that its connection is gone."""
    with connected(proxy) as client:
        client.sendall(b"before")
        assert client.recv(1024) == b"before"

        assert proxy.reset() == 1

        assert _is_cut(client)


def _is_cut(client: socket.socket) -> bool:
    try:
        return client.recv(1024) == b""
    except ConnectionError:
        return True


def test_urls_lead_through_the_proxy_with_their_password_and_database() -> None:
    """Of all three kinds; TLS ends at the proxy."""
    assert url_through("redis+socket://:pw@/tmp/x.sock?virtual_host=3", 5) == "redis://:pw@127.0.0.1:5/3"
    assert url_through("redis://user:p%40w@host:7000/2", 5) == "redis://user:p%40w@127.0.0.1:5/2"
    assert url_through("rediss://:pw@host?ssl_cert_reqs=none", 5) == "redis://:pw@127.0.0.1:5/0"
    assert target_of("redis://host").port == 6379
    assert target_of("rediss://:pw@host:7000/0").tls is not None
