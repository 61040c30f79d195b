"""docker-compose.yml without Docker: each service's command as it is written, on paths and ports of this machine.

Run as root, services become the user nobody, without capabilities, on a copy of the code that they cannot write.
"""

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.guarded import server_path
from tests.servers import wait_for

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "storage", "producer", "workers", "similarity", "report", "deploy")
NOBODY = 65534
_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


def compose_file(variables: dict[str, str]) -> dict[str, Any]:
    """The file as Docker reads it: `${NAME:-default}` and `${NAME:?why}` filled in from `variables`."""

    def fill(match: re.Match[str]) -> str:
        dollar, name, rule, rest = match.groups()
        if dollar:
            return "$"
        value = variables.get(name, "")
        assert value or rule != "?", f"{name}: {rest}"
        return value or (rest if rule == "-" else "")

    def filled(value: Any) -> Any:  # whatever YAML holds
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [filled(item) for item in value]
        return _VARIABLE.sub(fill, value) if isinstance(value, str) else value

    return dict(filled(yaml.safe_load((ROOT / "docker-compose.yml").read_text())))


def example_variables() -> dict[str, str]:
    """.env.example, with a secret in each place that it leaves open."""
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    pairs = dict(line.split("=", 1) for line in lines)
    return {name: value or f"{n}-secret-of-thirty-characters" for n, (name, value) in enumerate(pairs.items())}


@dataclass
class Compose:
    """The services of the file, and where on this machine their paths and ports are."""

    folder: Path
    services: dict[str, Any]
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self._ports = {port: _here(int(port)) for port in ("9108", "9109", "5555")}

    @property
    def code(self) -> Path:
        return self.folder / "code"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def port(self, inside: str) -> str:
        return self._ports[inside]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def start(self, name: str) -> None:
        """Start the service's entry point and command, with the service's environment."""
        told = self.services[name]
        words = [*told.get("entrypoint", ["embedmill"]), *told["command"]] if "command" in told else told["entrypoint"]
        log = self.stack.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            self._here(name, words), env=self._environ(name), cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self.processes[name] = process
        self.stack.callback(_end, process)

    def run(self, name: str, *words: str, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """`docker compose run NAME WORDS`."""
        return self.call(name, ["embedmill", *words], timeout_s=timeout_s)

    def call(self, name: str, words: list[str], *, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """`docker compose exec NAME WORDS`."""
        command, env = self._here(name, words), self._environ(name)
        return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=timeout_s, check=False)

    def is_healthy(self, name: str) -> bool:
        """Whether the service's own health check says so."""
        assert self.processes[name].poll() is None, self.log(name)
        return self.call(name, self.services[name]["healthcheck"]["test"][1:]).returncode == 0

    def _here(self, name: str, words: list[str]) -> list[str]:
        python = _python(self.folder)
        programs = {"embedmill": [python, "-c", "from producer.cli import main; main()"], "python": [python]}
        first = programs.get(words[0], [words[0]])
        return [*_as_nobody(self.folder), *first, *(self._mapped(name, word) for word in words[1:])]

    def _environ(self, name: str) -> dict[str, str]:
        """The service's own environment, and what its image has."""
        told = {key: self._mapped(name, value) for key, value in self.services[name].get("environment", {}).items()}
        libraries = str(self.folder / "python" / "lib")  # a Python may look for its own library where it was built
        image = {
            "PYTHONPATH": str(self.code),
            "LD_LIBRARY_PATH": libraries,
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.folder / "tmp"),
        }
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return {"PATH": path, "TMPDIR": str(self.folder / "tmp"), "HF_HUB_OFFLINE": "1", **image, **told}

    def _mapped(self, name: str, word: str) -> str:
        places = {
            "/etc/embedmill/redis": self.code / "deploy" / "redis",
            "/opt/healthy.py": self.code / "deploy" / "healthy.py",
            "/run/redis": self.folder / "run",
            "/data": self.folder / "redis-data" if name == "redis" else self.data,
            "/tmp": self.folder / "tmp",
        }
        mapped = re.sub("|".join(map(re.escape, places)), lambda found: str(places[found[0]]), word)
        return re.sub(r"\b(9108|9109|5555)\b", lambda found: self._ports[found[0]], mapped)


@contextmanager
def composed(variables: dict[str, str]) -> Iterator[Compose]:
    """A folder that the services may use, and the code that they may read; they are ended with the `with`."""
    folder = Path(tempfile.mkdtemp(prefix="composed-"))  # short: a socket's path has 104 bytes
    try:
        folder.chmod(0o755)
        server_path(folder / "bin")
        for package in PACKAGES:
            shutil.copytree(ROOT / package, folder / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
        _make_read_only(folder / "code")
        for name in ("run", "data", "redis-data", "tmp", "python"):
            (folder / name).mkdir()
            if os.geteuid() == 0:
                os.chown(folder / name, NOBODY, NOBODY)
        compose = Compose(folder, compose_file(variables)["services"])
        _require_nobody(compose)
        with compose.stack:
            yield compose
    finally:
        _make_writable(folder)
        shutil.rmtree(folder)


def _as_nobody(folder: Path) -> list[str]:
    """The words in front of a command that make it nobody's, where we are root.

    Python and its packages may lie where only root looks: the command sees them mounted in `folder`, it alone.
    """
    if os.geteuid() != 0:
        return []
    mounts = 'mount --bind "$1" "$2" && mount --bind "$3" "$4" && shift 4 && exec "$@"'
    pairs = [sys.base_prefix, str(folder / "python"), sysconfig.get_path("purelib"), str(_site(folder))]
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", mounts, "sh", *pairs,
            "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
            "--bounding-set=-all", "--inh-caps=-all", "--pdeathsig=KILL"]  # fmt: skip


def _site(folder: Path) -> Path:
    """Where the Python that is mounted in `folder` looks for packages; Debian has a place of its own."""
    own = Path("lib") / f"python{_VERSION}" / "site-packages"
    if (Path(sys.base_prefix) / own).is_dir():
        return folder / "python" / own
    return folder / "python" / "lib" / "python3" / "dist-packages"


def _python(folder: Path) -> str:
    return sys.executable if os.geteuid() else str(folder / "python" / "bin" / f"python{_VERSION}")


def _require_nobody(compose: Compose) -> None:
    """Nobody can run Python and write none of the code; skips at home and fails in CI where that cannot be had."""
    script = f"import celery, os; assert not os.access({str(compose.code)!r}, os.W_OK)"
    done = compose.call("coordinator", ["python", "-c", script])
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"services cannot be run as nobody here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr


def _here(port: int) -> str:
    """The port itself, or a free one where another process has it."""
    for wanted in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", wanted))
            except OSError:
                continue
            return str(probe.getsockname()[1])
    raise AssertionError("there is no free port")


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.kill()
    process.wait(30)


def _make_read_only(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(0o555 if executable else 0o444)


def _make_writable(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def wait_until_healthy(compose: Compose, *names: str) -> None:
    for name in names:
        wait_for(lambda name=name: compose.is_healthy(name), timeout_s=90, what=f"{name} to be healthy")
