"""A TCP proxy in front of a Unix socket that can fall silent: what a cut cable looks like."""

import selectors
import socket
import threading
from pathlib import Path
from types import TracebackType


class Proxy:
    """Listens on a free loopback port; while `silent`, open connections stay open and nothing passes."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._doomed: set[socket.socket] = set()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._pump, daemon=True)

    def blackhole(self) -> int:
        """Drop, from now on and for good, all bytes of the connections that are open; new ones work."""
        with self._lock:
            self._doomed |= set(self._peers)
            return len(self._doomed) // 2

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(5)
        for end in [*self._peers, self._listener]:
            end.close()
        self._selector.close()

    def _pump(self) -> None:
        while not self._closing.is_set():
            for key, _ in self._selector.select(timeout=0.05):
                source = key.fileobj
                assert isinstance(source, socket.socket)
                with self._lock:
                    if source is self._listener:
                        self._accept()
                    else:
                        self._pass_on(source)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._target))
        for one, other in ((client, server), (server, client)):
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket) -> None:
        try:
            data = source.recv(65536)
            if source in self._doomed:
                if not data:
                    self._selector.unregister(source)  # the other end is not told
                return
            if data:
                self._peers[source].sendall(data)
                return
        except OSError:
            pass  # a reset: the same as an end
        self._drop(source)

    def _drop(self, source: socket.socket) -> None:
        for end in (source, self._peers.pop(source)):
            self._peers.pop(end, None)
            if end.fileno() >= 0:
                self._selector.unregister(end)
                end.close()
