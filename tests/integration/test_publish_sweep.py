"""Publishing a shard, with death or an error at every single system call on the way.

The points are taken from a trace of a sound run, so they follow the code.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from schemas.rows import Modality
from storage import layout
from storage.shards import publish, read_failures, read_shard
from storage.store import LocalStore
from tests.publisher import BUG, LOST, SHARD, STORE_ERROR, WON, expected_rows, output_of
from tests.servers import wait_for
from tests.strace import Call, Disk, attached, calls_of

DATA = layout.data_key(Modality.TEXT, SHARD)
MARKER = "getppid"
STOPPED = "--- stopped by SIGSTOP ---"
ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT")
#: The calls that a disk can fail; the others ask the kernel for nothing that is stored.
STORING = {"openat", "newfstatat", "mkdir", "write", "lseek", "fsync", "close", "link", "unlink", "rename"}
#: An error of these must never be passed over.
PROMISING = {"openat", "mkdir", "write", "fsync", "link"}


@dataclass(frozen=True)
class Attempt:
    """How an attempt ended, and what it asked of the kernel between its marks."""

    code: int  # an exit code of tests/publisher.py, or minus a signal's number
    calls: list[Call]


class Publisher:
    """The process of tests/publisher.py, and strace on each of its children."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process, self._folder, self._attempts = process, folder, 0

    def new_folder(self) -> Path:
        """A folder for one job."""
        self._attempts += 1
        made = self._folder / f"job-{self._attempts}"
        made.mkdir()
        return made

    def attempt(self, folder: Path, *inject: str, when_stopped: Callable[[], object] | None = None) -> Attempt:
        """Publish in a new process, traced, with these faults; one of them may be a SIGSTOP, which is ended here."""
        self._attempts += 1
        log = self._folder / f"trace-{self._attempts}"
        self._in.write(f"{folder}\n")
        self._in.flush()
        pid = int(self._out.readline())
        with attached(pid, log, inject=inject):
            os.kill(pid, signal.SIGCONT)
            if when_stopped:
                wait_for(lambda: log.read_text().count(STOPPED) == 2, timeout_s=30, what="the process to stop again")
                when_stopped()
                os.kill(pid, signal.SIGCONT)
            code = int(self._out.readline())
        return Attempt(code, _from_mark(calls_of(log)))

    @property
    def _in(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _out(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    """One for all sweeps: what it imports, it imports once."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.publisher"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    with process:
        yield Publisher(process, tmp_path_factory.mktemp("sweep"))


def test_what_is_published_survives_power_loss(publisher: Publisher) -> None:
    """Content is flushed before it has its name, and names before the attempt says that it won."""
    folder = publisher.new_folder()

    attempt = publisher.attempt(folder)

    disk, link = Disk(), next(n for n, call in enumerate(attempt.calls) if call.paths[1:] == [str(folder / DATA)])
    disk.see(attempt.calls[: link + 1])
    assert disk.loses(str(folder / DATA)) == [f"the name {folder / DATA}"]
    disk.see(attempt.calls[link + 1 :])
    assert attempt.code == WON
    assert disk.loses(str(folder / DATA)) == []
    assert disk.loses(str(next((folder / "failures").iterdir()))) == []


@pytest.mark.parametrize("first", [True, False], ids=["winner", "loser"])
def test_death_before_any_system_call(publisher: Publisher, first: bool) -> None:
    """SIGKILL: nothing or the whole shard is seen, the next attempt ends it for good, and leftovers are swept."""
    points = _points(publisher, first=first)

    survived = [point for point in points if not _dies_harmlessly(publisher, point, first=first)]

    print(f"{len(points)} points: death before {', '.join(map(str, points))}")
    assert survived == []


def test_a_pause_after_any_system_call(publisher: Publisher) -> None:
    """A zombie: another attempt publishes while one is stopped, which then finds that and touches nothing."""
    points = _points(publisher, first=True)

    for point in points:
        folder = publisher.new_folder()
        fault = f"{point.name}:signal=SIGSTOP:when={point.count}"
        zombie = publisher.attempt(folder, fault, when_stopped=partial(publish, LocalStore(folder), output_of("other")))
        won = _was_named(folder, zombie)
        assert zombie.code == (WON if won else LOST), point
        assert (_seen(folder) == "other") is not won, point
        assert len(list((folder / "failures").iterdir())) == 1, point
        assert list((folder / "_tmp").iterdir()) == [], point

    print(f"{len(points)} points: stopped after {', '.join(map(str, points))}")


def test_who_comes_second_at_the_last_moment_flushes_for_the_first(publisher: Publisher) -> None:
    """The winner died before its file's name was flushed, and the loser saw that file only when it made its own."""
    flush = [call for call in _points(publisher, first=True) if call.name == "fsync"][-1]
    look = next(c for c in _points(publisher, first=False) if c.name == "newfstatat" and DATA in c.words)
    folder = publisher.new_folder()

    winner = publisher.attempt(folder, f"fsync:signal=SIGKILL:when={flush.count}")
    loser = publisher.attempt(folder, f"newfstatat:error=ENOENT:when={look.count}")

    disk = Disk()
    disk.see(winner.calls)
    assert disk.loses(str(folder / DATA)) == [f"the name {folder / DATA}"]
    disk.see(loser.calls)
    assert (winner.code, loser.code) == (-signal.SIGKILL, LOST)
    assert disk.loses(str(folder / DATA)) == []
    assert _seen(folder) != ""


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_of_any_system_call(publisher: Publisher, error: str) -> None:
    """A disk full, broken, read-only or over quota: a StoreError, nothing partial, and the next attempt works."""
    points = [point for point in _points(publisher, first=True) if point.name in STORING]

    for point in points:
        folder = publisher.new_folder()
        attempt = publisher.attempt(folder, f"{point.name}:error={error}:when={point.count}")
        _check_failed(folder, attempt, point)
        _check_next(publisher, folder, [attempt])

    print(f"{len(points)} points: {error} of {', '.join(map(str, points))}")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("names", ["write", "fsync", "link", "mkdir,write,fsync,link,unlink"])
def test_an_error_that_stays(publisher: Publisher, names: str, error: str) -> None:
    """As long as the disk fails nothing is seen; when it is well again the next attempt works."""
    folder = publisher.new_folder()

    attempt = publisher.attempt(folder, f"{names}:error={error}:when=1+")

    assert attempt.code == STORE_ERROR
    assert not (folder / DATA).exists()
    _check_next(publisher, folder, [attempt])


def _points(publisher: Publisher, *, first: bool) -> list[Call]:
    """Every system call of a sound attempt: at a shard of its own, or at one that another published."""
    folder = publisher.new_folder()
    if not first:
        publish(LocalStore(folder), output_of("other"))
    attempt = publisher.attempt(folder)
    assert attempt.code == (WON if first else LOST)
    return attempt.calls


def _dies_harmlessly(publisher: Publisher, point: Call, *, first: bool) -> bool:
    """Kill one attempt at `point` and check what it leaves; whether it died at all."""
    folder = publisher.new_folder()
    if not first:
        publish(LocalStore(folder), output_of("other"))
    attempt = publisher.attempt(folder, f"{point.name}:signal=SIGKILL:when={point.count}")
    seen = _seen(folder)
    if not first:
        assert seen == "other", point
    _check_next(publisher, folder, [attempt])
    return attempt.code == -signal.SIGKILL


def _check_failed(folder: Path, attempt: Attempt, point: Call) -> None:
    assert attempt.code != BUG, point
    if point.name in PROMISING:
        assert attempt.code == STORE_ERROR, point
    if point.name == "unlink":
        assert attempt.code == WON, point  # it is published: what is left behind is only untidy
    assert (_seen(folder) != "") == _was_named(folder, attempt), point
    failed = [call.handle for call in attempt.calls if call.name == "fsync" and not call.done]
    flushed = [call.handle for call in attempt.calls if call.name == "fsync"]
    assert all(flushed.count(path) == 1 for path in failed if path.endswith(".inprogress")), point


def _was_named(folder: Path, attempt: Attempt) -> bool:
    return any(call.name == "link" and call.done and call.paths[1] == str(folder / DATA) for call in attempt.calls)


def _check_next(publisher: Publisher, folder: Path, before: list[Attempt]) -> None:
    """A second attempt publishes, or finds what the first published; then all is durable and tidy."""
    seen = _seen(folder)
    after = publisher.attempt(folder)
    winner = _seen(folder)
    assert after.code == (LOST if seen else WON)
    assert winner == seen or not seen
    disk = Disk()
    for attempt in [*before, after]:
        disk.see(attempt.calls)
    assert disk.loses(str(folder / DATA)) == []
    LocalStore(folder).sweep()
    assert list((folder / "_tmp").iterdir()) == []


def _seen(folder: Path) -> str:
    """The attempt that a reader finds published, whole and right; "" for none."""
    store = LocalStore(folder)
    files = [path for path in (folder / "data").rglob("*") if path.is_file()]
    assert files in ([], [folder / DATA])
    if not files:
        return ""
    footer, ids, vectors, _ = read_shard(store, DATA)
    rows = expected_rows()
    assert ids == list(rows)
    assert np.array_equal(vectors["embedding"], np.stack(list(rows.values())))
    assert read_failures(store, SHARD, footer.attempt)["id"].to_pylist() == ["bad"]
    return footer.attempt


def _from_mark(calls: list[Call]) -> list[Call]:
    """The calls after the mark where the publish path begins, up to its end or the process'."""
    marks = [at for at, call in enumerate(calls) if call.name == MARKER]
    return calls[marks[0] + 1 : marks[1] if len(marks) > 1 else None]
