"""The memory file: what embedmill remembers on a machine from one run to the next; private, and never needed."""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from schemas.parsed_json import parsed_json
from storage.model_files import default_cache
from storage.private_files import private_name

logger = logging.getLogger(__name__)

BUDGETS = "budgets.json"  # tokens that a batch of a model may hold on a device
RATES = "rates.json"  # seconds that a model takes on a device
#: What the file holds at most; those remembered longest ago are forgotten.
_MOST_ENTRIES = 1000


class MemoryFile:
    """Values by key, as JSON in one file that only its owner may read; any number of processes share it.

    Nothing depends on it: a file that cannot be read is empty, one that cannot be written is left alone; the log says
    so in one line.
    """

    def __init__(self, folder: str, name: str) -> None:
        """`folder` defaults to the user's cache folder."""
        self.path = (Path(folder).expanduser() if folder else default_cache()) / name

    def entries(self) -> dict[str, Any]:
        """All that is remembered, by key, the oldest first."""
        try:
            return dict(parsed_json(self.path.read_bytes())["entries"].items())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as err:
            logger.warning("%s is ignored: %s", self.path, err, extra={"event": "memory_ignored"})
            return {}

    def put(self, new: Mapping[str, Any]) -> None:
        """Remember these too, in the place of what was remembered under their keys."""
        try:
            with self._alone():
                kept = {key: value for key, value in self.entries().items() if key not in new} | dict(new)
                newest = dict(list(kept.items())[-_MOST_ENTRIES:])
                self._write(json.dumps({"v": 1, "entries": newest}, indent=1).encode())
        except OSError as err:
            logger.warning("%s cannot be written: %s", self.path, err, extra={"event": "memory_not_written"})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock beside the file: else two that write at once would forget what the other wrote."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, data: bytes) -> None:
        private = self.path.with_name(private_name())
        file = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(file, "wb") as out:
                out.write(data)
            private.replace(self.path)
        finally:
            private.unlink(missing_ok=True)
