"""Interrupts: Ctrl-C and SIGTERM become one exception, in every command."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

#: Ctrl-C, a supervisor's end, a terminal that was closed.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM and Ctrl-C raise Interrupted within the `with`."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
