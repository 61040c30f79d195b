"""Processes: whose child is whose, as Linux tells it."""

import os
import signal
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    return [child for child, parent in _parents().items() if parent == pid]


def parent_of(pid: int) -> int:
    """The parent of a process; 0 for one that has ended."""
    return _parents().get(pid, 0)


def family(pid: int) -> list[int]:
    """`pid` and everything below it, elders first."""
    parents, found = _parents(), [pid]
    for elder in found:
        found += [child for child, parent in parents.items() if parent == elder]
    return found


def command_of(pid: int) -> str:
    """The command line of a process, or "" when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a process that may be gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def marked(mark: str) -> list[int]:
    """The processes of this user that have `mark` in their environment, ourselves left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # another user's, or it ended while we looked
    return found


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # it ended while we looked
            found[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return found
