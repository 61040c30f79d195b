"""strace: what a process asks of the kernel, and faults at any one of these calls.

A process is traced by attaching to it. `--seccomp-bpf` is left out on purpose: with it nothing is injected.
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

_LINE = re.compile(r"^(?P<name>\w+)\((?P<words>.*)\)\s+= (?P<result>-?\d+|\?)")
_HANDLE = re.compile(r"^\d+<(?P<path>[^>]*)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One system call of a trace; `count` is its number among those of its name, as `when=` counts."""

    name: str
    count: int
    words: str  # the arguments, as strace prints them
    done: bool  # it returned, and without an error

    @property
    def handle(self) -> str:
        """The path of the open file that the call is about, or ""."""
        match = _HANDLE.match(self.words)
        return match["path"] if match else ""

    @property
    def paths(self) -> list[str]:
        """The paths among the arguments."""
        return _QUOTED.findall(self.words)

    def __str__(self) -> str:
        return f"{self.name} {self.count}"


@contextmanager
def attached(pid: int, log: Path, *, inject: Iterable[str] = ()) -> Iterator[None]:
    """Trace the process into `log`, with faults injected as strace's `-e inject=` says, until it ends."""
    with _tracer(pid, log, inject) as tracer:
        yield
        tracer.wait(30)


@contextmanager
def following(pid: int, log: Path, *, inject: Iterable[str] = ()) -> Iterator[None]:
    """The same for a process that lives on, and its threads: for the length of a `with`."""
    with _tracer(pid, log, inject, "-f"):
        yield


@contextmanager
def _tracer(pid: int, log: Path, inject: Iterable[str], *words: str) -> Iterator["subprocess.Popen[str]"]:
    faults = [f"--inject={fault}" for fault in inject]
    command = [_strace(), "-y", "-s", "200", "-o", str(log), *words, *faults, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        if "attached" not in told:
            _unavailable(f"strace cannot trace: {told.strip()}")
        try:
            yield process
        finally:
            process.terminate()  # it lets the traced process go


def calls_of(log: Path) -> list[Call]:
    """The calls of a trace, in order."""
    seen: Counter[str] = Counter()
    calls = []
    for line in log.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match:
            seen[match["name"]] += 1
            done = match["result"] not in ("-1", "?")
            calls.append(Call(match["name"], seen[match["name"]], match["words"], done))
    return calls


class Disk:
    """What power loss would leave of the files that traced processes wrote, if it kept nothing but what was flushed."""

    def __init__(self) -> None:
        self._written: set[str] = set()  # files with content that is not flushed
        self._named: set[str] = set()  # files and folders whose name is not flushed

    def see(self, calls: Iterable[Call]) -> None:
        """Follow one process."""
        for call in calls:
            if not call.done:
                continue
            if call.name in ("write", "pwrite64"):
                self._written.add(call.handle)
            elif call.name == "mkdir":
                self._named.add(call.paths[0])
            elif call.name == "link":
                self._link(*call.paths)
            elif call.name == "fsync":
                self._flush(call.handle)

    def loses(self, path: str) -> list[str]:
        """What of `path` and the folders above it power loss would take."""
        above = [str(folder) for folder in Path(path).parents]
        names = [f"the name {name}" for name in [path, *above] if name in self._named]
        return names + ([f"the content of {path}"] if path in self._written else [])

    def _link(self, source: str, target: str) -> None:
        self._named.add(target)
        if source in self._written:
            self._written.add(target)

    def _flush(self, path: str) -> None:
        self._written.discard(path)
        self._named -= {name for name in self._named if str(Path(name).parent) == path}


def _strace() -> str:
    return shutil.which("strace") or _unavailable("strace is not installed")


def _unavailable(why: str) -> NoReturn:
    """Skip at home; fail in CI, where `.ci/run` has seen to it."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
