"""The minder: a thread of a worker's main process, which has no model and cannot hang, beside the one that computes.

It ends the computing process where that hangs or outgrows its memory, the worker where it is unfit or no longer
gets what waits on its queues, and says who was being worked on when a process died.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable

import redis
from celery.worker import state

from schemas.errors import WorkerUnfit
from schemas.queues import CLIENT_OPTIONS, client_url, depth_key
from schemas.settings import Settings
from workers.breadcrumb import LOADING, Breadcrumb
from workers.lease import RedisLeases
from workers.memory import limit_bytes, resident_bytes
from workers.suspects import RedisSuspects

logger = logging.getLogger(__name__)

#: Seconds that a worker which is told to end may go on with its shard; then it hands it back.
HAND_BACK_S = 10.0
_LOOK_EVERY_S = 0.25


class Minder(threading.Thread):
    """Looks after one worker from its main process, for as long as that lives."""

    def __init__(self, settings: Settings, crumb: Breadcrumb) -> None:
        super().__init__(name="minder", daemon=True)
        self._settings, self._crumb = settings, crumb
        self._memory = limit_bytes(settings.process_memory_mb)
        self._idle = IdleWatch(settings)
        self._known_pid = 0

    def run(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            self._end_what_hangs()
            self._end_what_grows()
            if self._crumb.unfit and state.should_stop is None:
                # What Celery's own signal handlers set: a warm shutdown, with an exit code.
                self._crumb.ask_to_leave(time.monotonic())
                state.should_stop = self._crumb.unfit  # type: ignore[assignment]  # typed by its first value
            if self._idle.is_stuck():
                logger.error("shards wait and none comes: the worker starts anew", extra={"event": "stuck_consumer"})
                os._exit(WorkerUnfit.exit_code)  # its consumer is what is broken: nothing orderly is left to do

    def _end_what_hangs(self) -> None:
        for step in self._crumb.steps():
            late = time.monotonic() - step.started > self._settings.step_limit_s
            if late and step.rows and step.pid == self._crumb.pid:
                _kill(step.pid, f"a batch took more than {self._settings.step_limit_s:g} s")

    def _end_what_grows(self) -> None:
        pid = self._crumb.pid
        is_new, self._known_pid = pid != self._known_pid, pid
        if pid and resident_bytes(pid) > self._memory:
            if is_new:  # no row did that: the next process would take up as much
                _take_out("a new process is over the limit on its memory at once")
            _kill(pid, f"the process took up more than {self._memory >> 20} MiB")


class IdleWatch:
    """Sees a worker that gets nothing although its queues are not empty (celery #8030, #8091, #9054, #10205)."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._client = redis.Redis.from_url(client_url(settings.broker_url), **CLIENT_OPTIONS)
        self._seen, self._since = -1, clock()
        self._looked_at, self._every_s = clock(), min(5.0, settings.stuck_s / 4)

    def is_stuck(self) -> bool:
        """Whether, for `stuck_s`, nothing was in work, nothing came, and something waited at each look."""
        now = self._clock()
        pause = now - self._looked_at
        if pause < self._every_s:
            return False
        self._looked_at = now
        taken = sum(state.total_count.values())
        if pause > 4 * self._every_s:  # the whole process was stopped meanwhile
            self._since = now
        if taken != self._seen or state.reserved_requests or state.should_stop is not None or not self._waiting():
            self._seen, self._since = taken, now
        return now - self._since > self._settings.stuck_s

    def _waiting(self) -> bool:
        try:
            return any(self._client.llen(depth_key(queue)) for queue in self._settings.queues)
        except redis.RedisError:  # away: then nothing can come
            return False


def note_death(settings: Settings, crumb: Breadcrumb) -> None:
    """Say which rows a dead process was working on, and free its shard; called before its message is given back."""
    steps = crumb.steps()
    rows = sum(len(step.rows) for step in steps)
    logger.warning("the process died", extra={"event": "process_died", "rows": rows, "pid": crumb.pid})
    client = redis.Redis.from_url(client_url(settings.broker_url), **CLIENT_OPTIONS)
    suspects, leases = RedisSuspects(client), RedisLeases(client)
    try:
        for step in [step for step in steps if step.rows]:
            suspects.suspect(step.job, step.shard, step.rows)
            leases.release(step.job, step.shard, settings.worker_name)
    except redis.RedisError as err:  # a hint: one more process may die
        logger.warning("suspects are not noted: %s", err, extra={"event": "suspects_lost"})
    finally:
        client.close()
    crumb.forget()
    if any(step.shard == LOADING for step in steps):  # or process after process would die of it, and nobody say so
        _take_out("the process died while it loaded its model")


def _take_out(why: str) -> None:
    """End this worker as unfit: its supervisor tries again a few times."""
    logger.error("%s: the worker is unfit", why, extra={"event": "worker_unfit"})
    if state.should_stop is None:
        state.should_stop = WorkerUnfit.exit_code  # type: ignore[assignment]  # typed by its first value


def _kill(pid: int, why: str) -> None:
    logger.error("%s: it is ended, and its rows are tried alone", why, extra={"event": "process_ended", "pid": pid})
    with contextlib.suppress(ProcessLookupError):  # it died by itself meanwhile
        os.kill(pid, signal.SIGKILL)
