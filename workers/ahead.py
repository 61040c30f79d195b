"""Ahead: what comes is made by a thread of its own, a little ahead of whoever takes it."""

import threading
from collections.abc import Generator
from contextlib import closing
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


def ahead(coming: Generator[_T, None, None], count: int) -> Generator[_T, None, None]:
    """`coming`, of which up to `count` are made, or in the making, beside the one in hand.

    What it raises is raised here, in its turn. Closing this iterator waits for the one in the making.
    """
    room, made, ended = threading.Semaphore(count), SimpleQueue[tuple[Any, BaseException | None]](), threading.Event()

    def make() -> None:
        try:
            with closing(coming):
                while room.acquire() and not ended.is_set():
                    made.put((next(coming), None))
        except BaseException as err:  # noqa: BLE001  # raised where it is taken; StopIteration is the end
            made.put((None, err))

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, err = made.get()
            if isinstance(err, StopIteration):
                return
            if err is not None:
                raise err
            room.release()
            yield item
            del item  # or it is held while the next one is waited for
    finally:
        ended.set()
        room.release()
        thread.join()
