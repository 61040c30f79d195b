"""The gate: what a queue holds is looked at before Celery believes any of it.

A Celery message may say much more than which task to run: what to run after it, on any queue; when, and for how long;
how it is compressed and encoded; that it is one of Celery's own tasks, which run others. embedmill's messages say none
of that, so one that does is none of ours, and is dropped before it is unpacked or scheduled. Whoever can write to Redis
cannot make workers do anything but shards.
"""

import json
import logging
import re
from collections.abc import Callable, Collection
from typing import Any

from celery.worker.consumer import Consumer
from kombu import compression
from kombu.transport.redis import Channel

logger = logging.getLogger(__name__)

#: Bytes of a body; ours have about 200.
_LONGEST = 4096
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: What a header of ours says: nothing, or this.
_PLAIN: dict[str, Any] = {
    "lang": "py",
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "parent_id": None,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}
#: There are no results to ignore; what a process died of comes back marked by kombu. Yes and no mean nothing here.
_EITHER = ("ignore_result", "redelivered")
_WORDS = ("task", "id", "root_id", "argsrepr", "kwargsrepr", "origin")


def fault_of(message: Any, tasks: Collection[str]) -> str:
    """What is wrong with a message for one of `tasks`; "" where it is as embedmill's own are."""
    headers = message.headers
    if message.content_type != "application/json" or str(message.content_encoding).lower() != "utf-8":
        return "is not JSON"
    if not isinstance(message.body, str | bytes) or len(message.body) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    task = headers.get("task") if isinstance(headers, dict) else None
    if not isinstance(task, str) or task not in tasks:
        return "names a task that is none of embedmill's"
    if not isinstance(headers.get("id"), str) or not _ID.fullmatch(headers["id"]):
        return "has no id"
    if not all(_is_plain(name, value) for name, value in headers.items()):
        return "says more than which shard to work on"
    return _body_fault(message.body)


def _is_plain(name: str, value: object) -> bool:
    """Whether a header says no more than ours do."""
    if name in _WORDS:
        return value is None or (isinstance(value, str) and len(value) <= _LONGEST)
    return name in _EITHER or (name in _PLAIN and value == _PLAIN[name])


def _body_fault(body: str | bytes) -> str:
    try:
        told = json.loads(body)
        args, kwargs, rest = told
        plain = args == [] and isinstance(kwargs, dict) and not any(rest.values())
    except (ValueError, TypeError, AttributeError, RecursionError):
        return "is not JSON of a task"
    return "" if plain else "says more than which shard to work on"


class GatedChannel(Channel):
    """A channel on which what is no message at all costs itself, and not the worker's main process."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # missing in the stubs
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as err:
            _dropped(f"is no message ({type(err).__name__})")
            return True


class GatedConsumer(Consumer):
    """A consumer that drops what is none of ours; Celery's setting `worker_consumer` names it."""

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        connection = self.app.connection_for_read(heartbeat=heartbeat)
        connection.transport.Channel = GatedChannel  # type: ignore[attr-defined]  # of this connection alone, before it is made
        return self.ensure_connected(connection)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)
        ours = {name for name in self.app.tasks if not name.startswith("celery.")}

        def look_at(message: Any) -> None:
            fault = fault_of(message, ours)
            if not fault:
                handle(message)
                return
            _dropped(fault)
            message.reject_log_error(logger, self.connection_errors)  # type: ignore[attr-defined]  # missing too

        return look_at


def _dropped(fault: str) -> None:
    logger.warning("a message on the queue %s; it was dropped", fault, extra={"event": "message_dropped"})


def refuse_compression() -> None:
    """Have kombu unpack nothing in this process: a message of 4 KiB could fill its memory."""
    for kind in compression.encoders():
        compression.register(_refuse, _refuse, kind)


def _refuse(body: object) -> bytes:
    raise ValueError("a compressed message is none of embedmill's")
