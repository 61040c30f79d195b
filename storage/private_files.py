"""Private files: what a process writes below _tmp/ of a folder before it gets its name, and whose it is afterwards."""

import contextlib
import functools
import os
import re
import socket
import uuid
from pathlib import Path

_NAME = re.compile(r"^(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{32}\.inprogress$")


def private_name(pid: int | None = None) -> str:
    """A name that nobody has, and that tells whose it is: by default this process'."""
    return f"{_here()}-{os.getpid() if pid is None else pid}-{uuid.uuid4().hex}.inprogress"


def is_private(name: str) -> bool:
    """Whether a private file has this name."""
    return _NAME.match(name) is not None


def writer_is_gone(name: str) -> bool | None:
    """Whether the process that writes the private file `name` has ended; None where that cannot be seen from here."""
    match = _NAME.match(name)
    if match is None or match["host"] != _here():
        return None
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False  # another user's, and alive
    return False


def is_orphan(path: Path, *, older_than_s: float, now: float) -> bool:
    """Whether nobody writes a private file any more; another machine's is nobody's when it is so old.

    `now` is by the clock of the disk that the file lies on.
    """
    if not is_private(path.name):
        return False
    gone = writer_is_gone(path.name)
    return now - path.stat().st_mtime > older_than_s if gone is None else gone


@functools.cache  # it does not change, and files are made for each shard
def _here() -> str:
    """This machine, and the processes that it numbers: containers may share a name and each have a process 1."""
    space = ""
    with contextlib.suppress(OSError):  # not on Linux
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        space = f".{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    return f"{socket.gethostname()}{space}"
