"""Memory of processes: what one takes up, and what it may."""

import os
from pathlib import Path

#: Of the machine's memory, or the container's, that one process may take up where nobody said how much:
#: before the system kills one, and not always that one.
_SHARE = 0.9
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def resident_bytes(pid: int) -> int:
    """The memory that a process takes up now; 0 where that cannot be known."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def limit_bytes(megabytes: int) -> int:
    """The bytes that a process may take up: `megabytes` MiB, or with 0 most of what the machine has."""
    if megabytes:
        return megabytes * 2**20
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *map(_cgroup_limit, _CGROUP_LIMITS)]
    return int(_SHARE * min(limit for limit in limits if limit))


def _cgroup_limit(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # none, or "max"
        return 0
