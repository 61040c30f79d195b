"""The Celery tasks: each parses its message and calls one function."""

import itertools
import logging
from functools import cached_property
from typing import Any

from celery import Celery, Task

from schemas.errors import Refused
from schemas.message import ShardMessage
from schemas.model_cards import Kind
from schemas.queues import JOIN_TASK, task_name
from schemas.rows import Modality
from schemas.settings import Settings
from workers.breadcrumb import Breadcrumb
from workers.metrics import WorkerMetrics
from workers.minder import note_death
from workers.model_shelf import ModelShelf
from workers.runtime import Runtime, build_runtime

logger = logging.getLogger(__name__)


class ShardTask(Task):  # type: ignore[type-arg]  # Task is not generic at run time
    """A task with the process' runtime, built at the first message: in the child, never in the parent."""

    Request = "workers.request:AcknowledgingRequest"
    settings: Settings
    shelf: ModelShelf
    crumb: Breadcrumb | None
    metrics: WorkerMetrics

    @cached_property
    def runtime(self) -> Runtime:
        return build_runtime(self.settings, self.shelf, self.crumb, self.metrics)

    def note_death(self) -> None:
        """In the parent: the child that worked on this task is dead."""
        if self.crumb is not None:
            note_death(self.settings, self.crumb)


def register(
    app: Celery, settings: Settings, shelf: ModelShelf, crumb: Breadcrumb | None, metrics: WorkerMetrics
) -> None:
    """Give `app` one task for each kind of work and modality; they differ in nothing but the name that Flower shows."""
    attributes = {"settings": settings, "shelf": shelf, "crumb": crumb, "metrics": metrics, "abstract": True}
    for kind, modality in itertools.product(Kind, Modality):
        base = type("BoundShardTask", (ShardTask,), attributes)
        app.task(name=task_name(modality, kind), base=base, bind=True)(_work)
    app.task(name=JOIN_TASK, base=type("BoundShardTask", (ShardTask,), attributes), bind=True)(_compare)


def _work(task: ShardTask, /, **payload: Any) -> dict[str, object]:
    """Work on one shard; returns what Flower shows of it."""
    message = _parsed(payload, task.settings)
    return {"outcome": "dropped"} if message is None else task.runtime.work(message)


def _compare(task: ShardTask, /, **payload: Any) -> dict[str, object]:
    """Compute one panel of a join or a dedup; returns what Flower shows of it."""
    message = _parsed(payload, task.settings)
    return {"outcome": "dropped"} if message is None else task.runtime.compare(message)


def _parsed(payload: dict[str, Any], settings: Settings) -> ShardMessage | None:
    try:
        return ShardMessage.from_kwargs(payload, settings.message_key)
    except Refused as err:
        logger.warning("%s", err, extra={"event": "message_dropped"})
        return None
