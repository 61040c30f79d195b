"""The reader: looks at the published files all through, as somebody who globs them would."""

import hashlib
import io
import logging
import threading
import time
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from chaos.findings import Findings, Wrong
from chaos.published import Published
from schemas.errors import StoreError

logger = logging.getLogger(__name__)

_FOLDER_LOOKS_PER_S, _OBJECT_LOOKS_PER_S = 20.0, 1.0


@dataclass(slots=True)
class _Watched:
    files: Published
    seen: dict[str, tuple[int, str]] = field(default_factory=dict)  # name -> bytes, sha256
    done: bool = False
    gone: set[str] = field(default_factory=set)


class Reader(threading.Thread):
    """Finds what is torn, what changes and what vanishes; jobs that are done are looked at in turn."""

    def __init__(self) -> None:
        super().__init__(name="reader", daemon=True)
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self.findings = Findings()
        self.looks = 0
        self.published = 0  # shards seen so far
        self.published_at = 0.0  # when the last one was seen, monotonic

    def watch(self, files: Published) -> None:
        """Look at these too, from now on."""
        with self._lock:
            self._watched.setdefault(files.url, _Watched(files))

    def set_done(self, url: str) -> None:
        """A finished job's files change no more: it is looked at more rarely."""
        with self._lock:
            self._watched[url].done = True

    def seen(self, url: str) -> set[str]:
        """The files of one job that were seen."""
        return set(self._watched[url].seen)

    def run(self) -> None:
        turn = 0
        while not self._ended.is_set():
            with self._lock:
                everything = list(self._watched.values())
            live = [watched for watched in everything if not watched.done]
            done = [watched for watched in everything if watched.done]
            turn += 1
            for watched in live + done[turn % max(1, len(done)) :][:1]:
                self._look(watched)
            self.looks += 1
            remote = any("://" in watched.files.url for watched in live)
            self._ended.wait(1 / (_OBJECT_LOOKS_PER_S if remote else _FOLDER_LOOKS_PER_S))

    def stop(self) -> Findings:
        """End, read everything that was ever seen once more, and say what is wrong."""
        self._ended.set()
        if self.is_alive():
            self.join(60)
        for watched in self._watched.values():
            self._look(watched)
            for name, (_, before) in watched.seen.items():
                if name not in watched.gone and _digest(watched.files.read(name)) != before:
                    self.findings.add(Wrong.CHANGED, f"{watched.files.url}/{name}: other bytes than at first sight")
        return self.findings

    def _look(self, watched: _Watched) -> None:
        try:
            found = watched.files.names("data")
            new = {name: watched.files.read(name) for name in found.keys() - watched.seen.keys()}
        except (OSError, StoreError) as err:  # the store is away: the next look tells more, and the oracle all
            logger.warning("a look failed: %s", err)
            return
        for name, data in new.items():
            watched.seen[name] = (len(data), self._first_sight(watched.files, name, data))
            self.published += 1
            self.published_at = time.monotonic()
        for name, (size, _) in watched.seen.items():
            if name in watched.gone:
                continue
            if name not in found:
                watched.gone.add(name)
                self.findings.add(Wrong.VANISHED, f"{watched.files.url}/{name} was there and is gone")
            elif found[name] != size:
                self.findings.add(Wrong.CHANGED, f"{watched.files.url}/{name} had {size} bytes, now {found[name]}")

    def _first_sight(self, files: Published, name: str, data: bytes) -> str:
        """The digest of a file's bytes, which must be a whole Parquet file as soon as it can be seen."""
        try:
            pq.read_table(io.BytesIO(data), use_threads=False)
        except Exception as err:  # noqa: BLE001  # whatever a reader would meet
            self.findings.add(Wrong.TORN, f"{files.url}/{name}: {type(err).__name__}: {err}")
        return _digest(data)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
