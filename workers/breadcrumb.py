"""The breadcrumb: what a worker's process is doing right now, in a file mapped into memory, so that it outlives it.

The process that computes writes it, before each step that a row could kill it in; the main process of the worker
reads it: while the child lives, to see what hangs, and after its death, to know the suspects.
Two steps may run at once (a batch is preprocessed while the one before is in the model), so there are two places.
"""

import contextlib
import json
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from schemas.errors import WorkerUnfit


class Place(IntEnum):
    """The steps that may run at the same time, each with a place of its own in the file."""

    MAIN = 0  # measuring and the forward pass
    AHEAD = 1  # preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is being done, to which rows."""

    pid: int  # of the process that does it
    job: str
    shard: int  # CALIBRATION: the sample that int8 ranges are taken from; LOADING: none
    rows: tuple[int, ...]  # their indices in the shard; none: a model is loaded
    started: float  # time.monotonic(), which all processes of a machine share


#: Stands for a shard's number where the rows are those of the sample.
CALIBRATION = -1
#: Stands for a shard's number where a model is loaded.
LOADING = -2

# Each is written by one process alone, and never with another, or what the other says meanwhile would be undone:
# the pid of the process that computes, by itself; the exit code that it asks for, by itself;
# time.monotonic() by which it is to hand its shard back, by the main one
_PID, _CODE, _BY = struct.Struct("i"), struct.Struct("i"), struct.Struct("d")  # native: written in one piece
_PID_AT, _CODE_AT, _BY_AT = 0, 4, 8
# time.monotonic() of the start; length of the JSON that follows, 0 while the place is empty
_PLACE = struct.Struct("<dI")
_PLACES_AT, _PLACE_SIZE = 64, 32 * 1024
_SIZE = _PLACES_AT + _PLACE_SIZE * len(Place)


class Trail(Protocol):
    """Where a step is noted while it runs."""

    def at(self, place: Place, inputs: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Note, for the length of a `with`, that the rows of `inputs`, by their indices, are being worked on."""


class NoTrail:
    """Notes nothing."""

    def at(self, place: Place, inputs: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Breadcrumb:
    """The file of one worker; both of its processes have it open."""

    def __init__(self, path: Path) -> None:
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            file.truncate(_SIZE)
            self._memory = mmap.mmap(file.fileno(), _SIZE)

    def reset(self) -> None:
        """Begin anew, before there is a process that computes: who wrote here before was ended from outside."""
        self.forget()
        self.ask_to_leave(0.0)
        self.say_unfit(0)
        _PID.pack_into(self._memory, _PID_AT, 0)

    def announce(self) -> None:
        """Say, in the process that computes, that it is this one; what another left is the main process' to read."""
        self.say_unfit(0)
        _PID.pack_into(self._memory, _PID_AT, os.getpid())

    @contextlib.contextmanager
    def at(self, place: Place, *, job: str, shard: int, rows: Sequence[int]) -> Iterator[None]:
        """Note a step for the length of a `with`; what a death leaves behind is `steps()`."""
        payload = json.dumps({"pid": os.getpid(), "job": job, "shard": shard, "rows": list(rows)}).encode()
        start = _PLACES_AT + place * _PLACE_SIZE
        if len(payload) <= _PLACE_SIZE - _PLACE.size:  # a larger one than we ever write: rather none than half a one
            self._memory[start + _PLACE.size : start + _PLACE.size + len(payload)] = payload
            _PLACE.pack_into(self._memory, start, time.monotonic(), len(payload))
        try:
            yield
        finally:
            self._clear(place)

    def steps(self) -> list[Step]:
        """The steps under way, or those in whose middle the process died."""
        return [step for place in Place if (step := self._step(place)) is not None]

    def forget(self) -> None:
        """Drop what a dead process left behind."""
        for place in Place:
            self._clear(place)

    @property
    def pid(self) -> int:
        """The process that computes; 0 before there is one."""
        return int(_PID.unpack_from(self._memory, _PID_AT)[0])

    def ask_to_leave(self, by: float) -> None:
        """Ask the process to hand back, at `by` (time.monotonic()), what it has not finished."""
        _BY.pack_into(self._memory, _BY_AT, by)

    @property
    def must_leave(self) -> bool:
        """Whether the time has come."""
        by = float(_BY.unpack_from(self._memory, _BY_AT)[0])
        return bool(by) and time.monotonic() >= by

    def wait_to_leave(self, timeout_s: float) -> None:
        """Return once the main process has asked to leave, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self.must_leave and time.monotonic() < deadline:
            time.sleep(0.02)

    def say_unfit(self, code: int) -> None:
        """Leave the code that the worker is to exit with."""
        _CODE.pack_into(self._memory, _CODE_AT, code)

    @property
    def unfit(self) -> int:
        """The exit code that the process that computes asks for, 0 for none."""
        return int(_CODE.unpack_from(self._memory, _CODE_AT)[0])

    def _clear(self, place: Place) -> None:
        _PLACE.pack_into(self._memory, _PLACES_AT + place * _PLACE_SIZE, 0.0, 0)

    def _step(self, place: Place) -> Step | None:
        start = _PLACES_AT + place * _PLACE_SIZE
        started, length = _PLACE.unpack_from(self._memory, start)
        if not 0 < length <= _PLACE_SIZE - _PLACE.size:
            return None
        try:
            told = json.loads(self._memory[start + _PLACE.size : start + _PLACE.size + length])
        except ValueError:  # being written while we look
            return None
        return Step(pid=told["pid"], job=told["job"], shard=told["shard"], rows=tuple(told["rows"]), started=started)


@dataclass(frozen=True, slots=True)
class ShardTrail:
    """The trail of some inputs of a shard; `rows` are, input by input, their rows' indices in the shard."""

    crumb: Breadcrumb
    job: str
    shard: int
    rows: Sequence[int]
    suspect: Callable[[Sequence[int]], None]  # told of the rows in whose middle the device failed

    @contextlib.contextmanager
    def at(self, place: Place, inputs: Sequence[int]) -> Iterator[None]:
        indices = sorted({self.rows[at] for at in inputs})
        try:
            with self.crumb.at(place, job=self.job, shard=self.shard, rows=indices):
                yield
        except WorkerUnfit:  # a row can do that to a sound device: the process is as good as dead
            self.suspect(indices)
            raise


def crumb_of(folder: str, worker: str) -> Breadcrumb | None:
    """The breadcrumb of a worker; None where nobody said which folder they are in."""
    return Breadcrumb(Path(folder) / f"{worker}.crumb") if folder else None
