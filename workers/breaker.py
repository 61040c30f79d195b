"""The breaker: hosts that fail are left alone for a while, and none is asked by too many at once."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: Hosts that are remembered; a web crawl names millions.
_HOSTS_KEPT = 10_000


@dataclass(slots=True)
class _Host:
    users: int = 0  # requests under way, and those that wait for their turn
    busy: int = 0  # requests under way
    failures: int = 0  # rows in a row that the host failed
    closed_until: float | None = None  # None: open to all


class Breaker:
    """What is known of each host; one for all threads of a process.

    `max_failures` rows failed in a row close a host for `cooldown_s` seconds; then one row is let through as a probe,
    and what becomes of it opens or closes the host for all.
    """

    def __init__(
        self,
        *,
        max_failures: int = 5,
        cooldown_s: float = 30.0,
        max_connections: int = 4,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_failures = max_failures
        self._cooldown_s = cooldown_s
        self._max_connections = max_connections
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._changed = threading.Condition()

    def admits(self, host: str) -> bool:
        """Whether a row may ask `host` now; to be asked once a row, for the one who probes is told yes once."""
        with self._changed:
            state = self._hosts.get(host)
            if state is None or state.closed_until is None:
                return True
            if self._clock() < state.closed_until:
                return False
            state.closed_until = self._clock() + self._cooldown_s  # a probe that never reports costs one more cool-down
            return True

    def answered(self, host: str) -> None:
        """The host did its part, whatever it said."""
        with self._changed:
            state = self._hosts.get(host)
            if state is not None:
                state.failures, state.closed_until = 0, None
                self._forget(host, state)

    def failed(self, host: str) -> None:
        """A row was given up because of the host."""
        with self._changed:
            state = self._state(host)
            state.failures += 1
            if state.failures >= self._max_failures:
                state.closed_until = self._clock() + self._cooldown_s

    @contextlib.contextmanager
    def turn(self, host: str, timeout_s: float) -> Iterator[bool]:
        """One of the host's few places for the time of a request; False when none came free in time."""
        with self._changed:
            state = self._state(host)
            state.users += 1
            mine = self._changed.wait_for(lambda: state.busy < self._max_connections, max(timeout_s, 0))
            state.busy += mine
        try:
            yield mine
        finally:
            with self._changed:
                state.busy -= mine
                state.users -= 1
                self._forget(host, state)
                self._changed.notify_all()

    def _state(self, host: str) -> _Host:
        state = self._hosts.setdefault(host, _Host())
        if len(self._hosts) > _HOSTS_KEPT:
            idle = next((name for name, known in self._hosts.items() if not known.users and name != host), None)
            if idle is not None:
                del self._hosts[idle]
        return state

    def _forget(self, host: str, state: _Host) -> None:
        if not state.users and not state.failures and self._hosts.get(host) is state:
            del self._hosts[host]
