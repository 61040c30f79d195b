"""A TCP proxy in front of a Unix socket that can fall silent or reset: what a cut cable looks like."""

import selectors
import socket
import struct
import threading
from enum import Enum
from pathlib import Path
from types import TracebackType


class Silence(Enum):
    """Which way nothing passes; what is under way arrives when the silence ends, as TCP would send it again."""

    NONE = "none"
    BOTH = "both"
    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


class Proxy:
    """Listens on a free loopback port; open connections stay open while nothing passes."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.silence = Silence.NONE  # may be set at any time
        self._doomed: set[socket.socket] = set()
        self._clients: set[socket.socket] = set()
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

    def reset(self) -> int:
        """Cut all connections that are open with a TCP reset; new ones work."""
        with self._lock:
            clients = [end for end in self._clients if end in self._peers and end not in self._doomed]
            for client in clients:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._drop(client)
        return len(clients)

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
                    if not self._passes(source):
                        self._closing.wait(0.005)  # it stays readable: do not spin
                    elif source is self._listener:
                        self._accept()
                    elif source in self._peers or source in self._doomed:
                        self._pass_on(source)

    def _passes(self, source: socket.socket) -> bool:
        if self.silence is Silence.BOTH:
            return False
        to_server = source is self._listener or source in self._clients
        return self.silence is not (Silence.TO_SERVER if to_server else Silence.TO_CLIENT)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._target))
        self._clients.add(client)
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
            self._clients.discard(end)
            if end.fileno() >= 0:
                self._selector.unregister(end)
                end.close()
