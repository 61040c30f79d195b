"""A task as the monitor shows it: which shard of which job, where, and what became of it; no text, path or secret.

Everything is taken from what Celery's events say anyway: the task's id, its name, the words that its sender meant
for display, and the counts that it returned. What has not the form that embedmill gives it is left out.
"""

import ast
import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar

_TASK_ID = re.compile(r"^([a-z0-9][a-z0-9-]{7,63})\.(\d{1,9})\.\d+$")
_WORD = re.compile(r"^[a-z_]{1,32}$")
_QUEUE = re.compile(r"^[a-z]+(\.[a-z]+)?\.[a-z0-9]+$")
_ERROR = re.compile(r"^[A-Za-z_.]{1,64}")
_LONGEST = 2048

#: The columns of the list, with their heads, in order.
COLUMNS = {
    "name": "Name",
    "job": "Job",
    "shard": "Shard",
    "queue": "Queue",
    "modality": "Modality",
    "rows": "Rows",
    "failures": "Failures",
    "outcome": "Outcome",
    "state": "State",
    "received": "Received",
    "runtime": "Runtime",
    "worker": "Worker",
    "uuid": "Task",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTask:
    """One task; Flower reads its fields by name."""

    uuid: str
    name: str
    state: str
    job: str = ""
    shard: int | str = ""
    queue: str = ""
    modality: str = ""
    rows: int | str = ""  # with a vector; "" while it is not known
    failures: int | str = ""
    outcome: str = ""
    received: float | None = None
    started: float | None = None
    runtime: float | None = None
    retries: int | None = None
    worker: Any = None  # Flower's own object
    exception: str = ""  # its class alone

    #: What Flower's page of one task has a place for, and we nothing to show.
    args: ClassVar[str] = ""
    kwargs: ClassVar[str] = ""
    result: ClassVar[str] = ""
    _fields: ClassVar[tuple[str, ...]] = ()

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._fields}


ShownTask._fields = tuple(f.name for f in fields(ShownTask))


def shown_task(task: Any) -> ShownTask:
    """What may be shown of one of Celery's tasks; raises nothing, whatever the task says."""
    uuid, name = str(task.uuid), str(task.name or "")
    place = _TASK_ID.match(uuid)
    told, result = _literal(task.kwargs), _literal(task.result)
    error = _ERROR.match(str(task.exception or ""))
    return ShownTask(
        uuid=uuid,
        name=name,
        state=str(task.state),
        job=place[1] if place else "",
        shard=int(place[2]) if place else "",
        queue=_like(_QUEUE, told.get("queue")),
        modality=_like(_WORD, name.partition(".")[2]),
        rows=_count(result.get("rows")),
        failures=_count(result.get("failures")),
        outcome=_like(_WORD, result.get("outcome")),
        received=task.received,
        started=task.started,
        runtime=task.runtime,
        retries=task.retries,
        worker=task.worker,
        exception=error[0] if error else "",
    )


def _literal(words: object) -> dict[str, object]:
    """The dict that a representation says, or {}."""
    if not isinstance(words, str) or len(words) > _LONGEST:
        return {}
    try:
        value = ast.literal_eval(words)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _like(pattern: re.Pattern[str], value: object) -> str:
    return value if isinstance(value, str) and pattern.match(value) else ""


def _count(value: object) -> int | str:
    return value if type(value) is int else ""
