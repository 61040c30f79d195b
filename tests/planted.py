"""Secrets that are planted where a job meets them, and the search for them in whatever it leaves behind."""

import base64
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import redis

from schemas.queues import CLIENT_OPTIONS, client_url


def planted(name: str) -> str:
    """The secret of that name: letters and digits, so that no notation but base64 and hex hides it."""
    return "Zx" + hashlib.sha256(name.encode()).hexdigest()[:30]


def traces_of(secret: str) -> list[bytes]:
    """`secret` as bytes, in hex, and in base64 at each of the three places that it may have in a group."""
    plain = secret.encode()
    found = [plain, plain.hex().encode()]
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + plain)
        first, last = -(-before * 8 // 6), (before + len(plain)) * 8 // 6
        found.append(coded[first:last])
    return found


class Search:
    """Which secrets are in which sinks."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._traces = {name: traces_of(secret) for name, secret in secrets.items()}
        self.secrets = set(self._traces)
        self.sinks: dict[str, int] = {}  # bytes looked at, by sink
        self.found: set[tuple[str, str]] = set()  # sink and secret

    def add(self, name: str, secret: str) -> None:
        self.secrets.add(name)
        self._traces[name] = traces_of(secret)

    def look(self, sink: str, content: bytes | str) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.sinks[sink] = self.sinks.get(sink, 0) + len(data)
        self.found |= {(sink, name) for name, traces in self._traces.items() if any(t in data for t in traces)}

    def look_at_files(self, sink: str, paths: Iterable[Path]) -> None:
        for path in paths:
            self.look(sink, parquet_words(path) if path.suffix == ".parquet" else path.read_bytes())


def parquet_words(path: Path) -> bytes:
    """Every cell and all metadata of a file, unpacked; and the file as it is."""
    with pq.ParquetFile(path) as file:
        cells = "\n".join(str(row) for row in file.read().to_pylist())
        metadata = [word for pair in (file.metadata.metadata or {}).items() for word in pair]
    return b"\n".join([path.read_bytes(), cells.encode(), *metadata])


def redis_words(url: str) -> Iterator[bytes]:
    """Every key of the server, and all that it holds."""
    client: Any = redis.Redis.from_url(client_url(url))  # Any: typed as if replies were text
    for key in client.scan_iter():
        yield key
        kind = client.type(key)
        if kind == b"string":
            yield client.get(key) or b""
        else:
            read: dict[bytes, Any] = {
                b"list": lambda k: client.lrange(k, 0, -1),
                b"hash": lambda k: [word for pair in client.hgetall(k).items() for word in pair],
                b"set": client.smembers,
                b"zset": lambda k: client.zrange(k, 0, -1),
            }
            yield from read[kind](key)
    client.close()


@contextmanager
def overheard(url: str, search: Search) -> Iterator[None]:
    """Every command that the server gets meanwhile; what is published to listeners is one of them."""
    client = redis.Redis.from_url(client_url(url), **CLIENT_OPTIONS)
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]
        yield
        client.echo("the end")
        for command in monitor.listen():
            search.look("commands to Redis", str(command["command"]))
            if "the end" in str(command["command"]):
                break
    client.close()


def open_files(folder: Path) -> list[str]:
    """Files below `folder` that anybody may read, or others may write."""
    modes = {path: path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
    return [f"{path.relative_to(folder)} {stat.filemode(mode)}" for path, mode in modes.items() if mode & 0o027]


def command_lines() -> Iterator[bytes]:
    """The command line of every process of this machine."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield entry.read_bytes()
        except OSError:  # it has ended meanwhile
            continue


def environ_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes() if os.geteuid() == 0 else b""
