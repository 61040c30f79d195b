"""A proxy in front of Redis that can be slow, reset, fall silent either way, or leave connections half open."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server listens: a Unix socket, or host and port, with TLS or without."""

    socket: Path | None = None
    host: str = ""
    port: int = 0
    tls: ssl.SSLContext | None = None


def target_of(broker_url: str) -> Target:
    """The server that a broker URL leads to."""
    parts = urlsplit(broker_url)
    if parts.scheme == "redis+socket":
        return Target(socket=Path(parts.path))
    tls = _tls(parse_qs(parts.query)) if parts.scheme == "rediss" else None
    return Target(host=parts.hostname or "localhost", port=parts.port or 6379, tls=tls)


def url_through(broker_url: str, port: int) -> str:
    """The URL by which the same database is reached through a proxy on `port` of this machine; TLS ends there."""
    parts = urlsplit(broker_url)
    query = parse_qs(parts.query)
    database = query.get("virtual_host", ["0"])[0] if parts.scheme == "redis+socket" else parts.path.strip("/") or "0"
    user, at, _ = parts.netloc.rpartition("@")
    return f"redis://{user}{at}127.0.0.1:{port}/{database}"


def _tls(query: dict[str, list[str]]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=query.get("ssl_ca_certs", [None])[0])
    if query.get("ssl_cert_reqs", [""])[0].lower() in ("none", "cert_none"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Line:
    """One connection: its two ends, and whether what passes is dropped for good."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.doomed = False


class Proxy:
    """Listens on a free loopback port in front of one server; use it as a context manager.

    A silence holds bytes back until it ends, as a cut and mended cable does; `blackhole` loses them for good.
    """

    def __init__(self, target: Target | Path) -> None:
        self._target = Target(socket=target) if isinstance(target, Path) else target
        self.port = 0
        self.latency_s = 0.0  # that each piece of data waits, both ways
        self._lines: set[_Line] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def silence(self, *, up: bool = True, down: bool = True) -> None:
        """Let nothing pass to the server (`up`), nothing from it (`down`), or neither; connections stay open."""

        async def close_gates() -> None:
            for gate, closed in ((self._up, up), (self._down, down)):
                if closed:
                    gate.clear()

        self._run(close_gates())

    def heal(self) -> None:
        """End silence and latency: what was held back passes."""

        async def open_gates() -> None:
            self.latency_s = 0.0
            self._up.set()
            self._down.set()

        self._run(open_gates())

    def doom(self) -> int:
        """What `blackhole` does; for `overhear`, which is called where the lines are."""
        for line in self._lines:
            line.doomed = True
        return len(self._lines)

    def overhear(self, data: bytes) -> None:
        """Told of what the server says before it is passed on; a subclass may strike here."""

    def blackhole(self) -> int:
        """Lose, from now on and for good, all bytes of the connections that are open; new ones work."""

        async def doom() -> int:
            return self.doom()

        return int(self._run(doom()))

    def reset(self) -> int:
        """Cut every connection that is open; both ends are told."""

        async def cut() -> int:
            lines = list(self._lines)
            for line in lines:
                line.client.transport.abort()
                line.server.transport.abort()
            return len(lines)

        return int(self._run(cut()))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:  # Any: whatever the coroutine returns
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._up.set()
        self._down.set()
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._listener.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await self._connect()
        except OSError:  # the server is away: the client is told by the end of its connection
            writer.transport.abort()
            return
        line = _Line(writer, server_writer)
        self._lines.add(line)
        try:
            await asyncio.gather(
                self._pass_on(line, reader, server_writer, lambda: self._up),
                self._pass_on(line, server_reader, writer, lambda: self._down),
            )
        finally:
            self._lines.discard(line)
            for end in (writer, server_writer):
                end.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self._target
        if target.socket is not None:
            return await asyncio.open_unix_connection(target.socket)
        return await asyncio.open_connection(target.host, target.port, ssl=target.tls)

    async def _pass_on(
        self,
        line: _Line,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        gate: Callable[[], asyncio.Event],
    ) -> None:
        with contextlib.suppress(OSError):  # a reset: the same as an end
            while data := await source.read(_CHUNK):
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
                await gate().wait()
                if gate() is self._down:
                    self.overhear(data)
                if not line.doomed:
                    sink.write(data)
                    await sink.drain()
        if line.doomed:
            return  # the other end is not told
        await gate().wait()
        sink.transport.abort()
