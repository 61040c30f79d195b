"""Another machine, as far as the network knows: a network namespace on the other end of a wire."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import wait_for

#: Asks each URL of stdin, and says of each its status, or the error that the kernel gave.
_ASK = """
import json, sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
def ask(url, headers):
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as err:
        return err.code
    except urllib.error.URLError as err:
        return type(err.reason).__name__
print(json.dumps([ask(url, headers) for url, headers in json.load(sys.stdin)]))
"""


@dataclass(frozen=True)
class Neighbour:
    """A machine on our wire; `here` is the address that it knows us by."""

    pid: int
    here: str

    def ask(self, urls: Sequence[str], headers: Mapping[str, str] | None = None) -> list[int | str]:
        """The status that each URL gives it, or the name of the error."""
        command = ["nsenter", f"--target={self.pid}", "--net", sys.executable, "-c", _ASK]
        told = json.dumps([(url, dict(headers or {})) for url in urls])
        done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=120, check=True)
        return list(json.loads(done.stdout))


@contextmanager
def neighbour() -> Iterator[Neighbour]:
    """Skips, saying why, where this user may make no network namespaces."""
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: another machine cannot be played (apt-get install iproute2 util-linux)")
    process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stderr=subprocess.PIPE)
    try:
        ours = Path("/proc/self/ns/net").readlink()
        wait_for(lambda: process.poll() is not None or _net_of(process.pid) not in ("", ours), timeout_s=20, what="it")
        here, there, ours_end, its_end = *_addresses(), *_names()
        _run("ip", "link", "add", ours_end, "type", "veth", "peer", "name", its_end, "netns", str(process.pid))
        _run("ip", "address", "add", f"{here}/30", "dev", ours_end)
        _run("ip", "link", "set", ours_end, "up")
        inside = ("nsenter", f"--target={process.pid}", "--net", "ip")
        _run(*inside, "address", "add", f"{there}/30", "dev", its_end)
        _run(*inside, "link", "set", its_end, "up")
        yield Neighbour(process.pid, here)
    finally:
        process.kill()  # its namespace goes with it, and both ends of the wire
        process.communicate()


def _addresses() -> tuple[str, str]:
    """Two addresses of a network for documentation that this machine is not in itself."""
    ours = subprocess.run(["ip", "-4", "-oneline", "address"], capture_output=True, text=True, check=True).stdout
    free = [net for net in ("198.51.100", "203.0.113", "192.0.2") if f" {net}." not in ours]
    if not free:
        pytest.skip("another machine cannot be played here: all networks for documentation are taken")
    number = os.getpid() % 60 * 4
    return f"{free[0]}.{number + 1}", f"{free[0]}.{number + 2}"


def _names() -> tuple[str, str]:
    return f"mill{os.getpid()}", f"peer{os.getpid()}"  # 15 letters at most


def _net_of(pid: int) -> Path | str:
    try:
        return Path(f"/proc/{pid}/ns/net").readlink()
    except OSError:
        return ""


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"another machine cannot be played here: {' '.join(words[:4])}: {done.stderr.strip()}")
