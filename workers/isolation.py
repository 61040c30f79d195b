"""Isolation: rows in whose middle a process died are embedded one at a time in a child, whose death costs one row.

The child is `workers/isolated.py`. What is said between the two is one JSON line a message on pipes, vectors as raw
float32 behind it: nothing is unpickled.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from celery.platforms import set_pdeathsig  # type: ignore[attr-defined]  # missing in celery-types

from schemas.errors import StoreUnavailable, WorkerUnfit
from schemas.failures import Failure, FailureCode, Stage
from schemas.settings import Settings
from workers.batching import Cancelled
from workers.embedding import Embedded, Origin
from workers.memory import limit_bytes, resident_bytes

logger = logging.getLogger(__name__)

#: Children that a row may kill before it is a failure. With the worker that died first: three processes.
TRIES = 2
#: What a child exits with that cannot read its job now (EX_TEMPFAIL).
STORE_FAILED = 75
_LOOK_EVERY_S = 0.2
#: What a child that ends by itself gets for it.
_END_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AloneTask:
    """Rows of a shard that are to be tried alone."""

    location: str  # of the job
    job: str
    plan: str
    shard: int  # or breadcrumb.CALIBRATION
    rows: tuple[int, ...]

    def to_json(self) -> str:
        return json.dumps({**{name: getattr(self, name) for name in ("location", "job", "plan", "shard", "rows")}})

    @classmethod
    def from_json(cls, line: str) -> "AloneTask":
        raw = json.loads(line)
        return cls(**raw | {"rows": tuple(raw["rows"])})


def embed_alone(
    task: AloneTask, settings: Settings, should_stop: Callable[[], bool]
) -> Iterator[tuple[int, Embedded | Failure]]:
    """Each row of `task` with its outcome, as they come; rows that kill TRIES children are failures.

    Raises WorkerUnfit where the child does not come as far as its first row, StoreUnavailable where that is the
    store's fault, Cancelled once `should_stop()` is true.
    """
    left, deaths = list(task.rows), Counter[int]()
    while left:
        with _Child(replace(task, rows=tuple(left)), settings) as child:
            for row, outcome in child.outcomes(should_stop):
                left.remove(row)
                yield row, outcome
        if not left:
            return
        if child.store_failed:
            raise StoreUnavailable(f"the process for rows that are tried alone could not read the job: {child.end}")
        if child.row is None:
            raise WorkerUnfit(f"the process for rows that are tried alone ended before its first row: {child.end}")
        if child.row not in left:  # it had answered, and the next one had not begun: nobody's fault
            continue
        deaths[child.row] += 1
        fields = {"event": "row_alone_died", "shard": task.shard, "row": child.row, "end": child.end}
        logger.warning("a row that was tried alone ended its process", extra=fields)
        if deaths[child.row] >= TRIES:
            left.remove(child.row)
            yield child.row, child.failure()


class _Child:
    """One child process, what it says, and how it ended."""

    def __init__(self, task: AloneTask, settings: Settings) -> None:
        self._task, self._settings = task, settings
        self._said: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue()
        self._code = FailureCode.PROCESS_CRASHED
        self.row: int | None = None  # that it is at
        self.end = ""  # how it ended, in words
        self._since = time.monotonic()

    def __enter__(self) -> "_Child":
        alone = replace(self._settings, crumb_dir="", worker_name=f"{self._settings.worker_name}-alone")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workers.isolated"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **alone.to_environ()},
            preexec_fn=_dies_with_its_parent,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:  # dead already: its end tells
            stdin.write(self._task.to_json().encode() + b"\n")
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(_END_S)

    def outcomes(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, Embedded | Failure]]:
        """The outcomes until the child has none left, or has ended."""
        while True:
            if should_stop():
                raise Cancelled("the shard was given up while rows of it were tried alone")
            self._end_if_it_grows()
            try:
                said = self._said.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:  # only now: after a pause of this process its word may lie there
                self._end_if_it_hangs()
                continue
            if said is None:
                self._note_end()
                return
            message, data = said
            self._since = time.monotonic()
            self.row = message["row"]
            if "done" in message:
                yield message["row"], _outcome(message, data)

    def _ended(self) -> int:
        """Its exit code; it is killed where it has said its last word and does not end."""
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(_END_S)

    def failure(self) -> Failure:
        """What its death makes of the row that it was at."""
        return Failure(code=self._code, stage=Stage.FORWARD, message=f"alone, {TRIES} times: {self.end}")

    @property
    def store_failed(self) -> bool:
        return self._process.returncode == STORE_FAILED

    def _end_if_it_hangs(self) -> None:
        limit_s = self._settings.step_limit_s
        if self.row is not None and time.monotonic() - self._since > limit_s:
            self._stop(FailureCode.PROCESS_TIMEOUT, f"no answer within {limit_s:g} s")

    def _end_if_it_grows(self) -> None:
        limit = limit_bytes(self._settings.process_memory_mb)
        if resident_bytes(self._process.pid) > limit:
            self._stop(FailureCode.PROCESS_MEMORY, f"the process took up more than {limit >> 20} MiB")

    def _stop(self, code: FailureCode, end: str) -> None:
        if not self.end:
            self._code, self.end = code, end
            self._process.kill()

    def _note_end(self) -> None:
        code = self._ended()
        if self.end:
            return
        if code == -signal.SIGKILL:
            self._code = FailureCode.PROCESS_MEMORY
            self.end = "the process was killed (SIGKILL), most likely by the system, for its memory"
        else:
            self.end = (
                f"the process died of {signal.Signals(-code).name}" if code < 0 else f"the process exited, {code}"
            )

    def _listen(self, pipe: IO[bytes]) -> None:
        with pipe:
            while (said := heard(pipe)) is not None:
                self._said.put(said)
        self._said.put(None)


def heard(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """The next message and the bytes behind it; None at the end, which may be in the middle of a message."""
    try:
        message = json.loads(pipe.readline())
        data = pipe.read(message.get("bytes", 0))
    except (ValueError, AttributeError):
        return None
    return (message, data) if len(data) == message.get("bytes", 0) else None


def _outcome(message: dict[str, Any], data: bytes) -> Embedded | Failure:
    if "code" in message:
        code, stage = FailureCode(message["code"]), Stage(message["stage"])
        return Failure(code=code, stage=stage, message=message["message"])
    vectors = np.frombuffer(data, "<f4").reshape(message["shape"])
    return Embedded(vectors, message["usage"], bytes.fromhex(message["content"]), Origin(message["origin"]))


def said_of(row: int, outcome: Embedded | Failure) -> bytes:
    """What the child says of a row that is done."""
    told: dict[str, Any] = {"row": row, "done": True}
    if isinstance(outcome, Failure):
        told |= {"code": outcome.code, "stage": outcome.stage, "message": outcome.message}
        return json.dumps(told).encode() + b"\n"
    data = np.ascontiguousarray(outcome.vectors, "<f4").tobytes()
    told |= {"shape": outcome.vectors.shape, "usage": outcome.usage, "bytes": len(data)}
    told |= {"content": outcome.content.hex(), "origin": outcome.origin}
    return json.dumps(told).encode() + b"\n" + data


def _dies_with_its_parent() -> None:
    set_pdeathsig("SIGKILL")
