"""Processes with a wall clock of their own, which a test may set while they run; the monotonic clock stays true."""

import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest


@dataclass(frozen=True)
class FakeClock:
    """A clock in a file, for the processes that are started with its environment."""

    file: Path

    def set(self, offset: str) -> None:
        """Set it to `offset` from the true time: +1h, -2d, +10y."""
        self.file.write_text(offset)

    def environ(self) -> dict[str, str]:
        """The variables by which a process, and those below it, look at this clock."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # the files' times are the disk's
        }


def fake_clock(file: Path, offset: str) -> FakeClock:
    """A clock that is off by `offset`; skips at home, and fails in CI, where no process believes in it."""
    clock = FakeClock(file)
    clock.set("+10y")
    year = [sys.executable, "-c", "import time; print(time.gmtime().tm_year)"]
    told = subprocess.run(year, env={**os.environ, **clock.environ()}, capture_output=True, text=True, check=False)
    if int(told.stdout or 0) < time.gmtime().tm_year + 9:
        _unavailable("libfaketime does not work here")
    clock.set(offset)
    return clock


def _library() -> Path:
    """The library of the package libfaketime: Debian's 0.9.10 breaks time.sleep."""
    spec = importlib.util.find_spec("libfaketime")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in Path(folder).rglob("libfaketime.so.1")]
    if not found:
        _unavailable("the package libfaketime is not installed")
    return found[0]


def _unavailable(why: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
