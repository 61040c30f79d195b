"""The Redis of deploy/redis, started by its own entry script: three users, each with what its role needs."""

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from producer.broker import find_server
from schemas.queues import CLIENT_OPTIONS, client_url
from tests.servers import wait_for

ENTRY = Path(__file__).parents[1] / "deploy" / "redis" / "entry.sh"
ROLES = ("coordinator", "worker", "monitor")


@dataclass(frozen=True)
class GuardedRedis:
    """A server that only its three users can use."""

    socket: Path
    passwords: dict[str, str]

    def url(self, role: str) -> str:
        return f"redis+socket://{role}:{self.passwords[role]}@{self.socket}?virtual_host=0"

    def client(self, role: str) -> redis.Redis:
        return redis.Redis.from_url(client_url(self.url(role)), **CLIENT_OPTIONS)


def server_path(folder: Path) -> str:
    """A PATH on which a Redis server is found by its usual name, as in its image."""
    folder.mkdir(exist_ok=True)
    (folder / "valkey-server").symlink_to(find_server())
    return f"{folder}:{os.environ['PATH']}"


@contextmanager
def guarded_redis(**more: str) -> Iterator[GuardedRedis]:
    """With `more` in the entry script's environment."""
    with tempfile.TemporaryDirectory(prefix="guarded-") as name:  # short: a socket's path has 104 bytes
        folder = Path(name)
        passwords = {role: secrets.token_hex(16) for role in ROLES}
        given = {f"EMBEDMILL_REDIS_{role.upper()}_PASSWORD": word for role, word in passwords.items()}
        places = {
            "REDIS_RUN_DIR": name,
            "REDIS_DATA_DIR": name,
            "REDIS_PRIVATE_DIR": name,
            "PATH": server_path(folder / "bin"),
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([ENTRY], env=given | places | more, stdout=log, stderr=log)
        try:
            wait_for((folder / "redis.sock").exists, timeout_s=20, what="the guarded Redis")
            yield GuardedRedis(folder / "redis.sock", passwords)
        finally:
            process.kill()
            process.wait(30)
