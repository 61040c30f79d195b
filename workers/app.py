"""The Celery app of a worker process: `celery -A workers.app worker`.

An edge: it reads the environment, once, and hands what it finds to the code that does the work.
"""

import os
import resource
import time
from collections.abc import Callable

from celery import Celery
from celery.signals import setup_logging, worker_init, worker_process_init, worker_ready, worker_shutting_down

from schemas.queues import celery_settings
from schemas.settings import Settings
from workers.breadcrumb import crumb_of
from workers.gate import refuse_compression
from workers.metrics import WorkerMetrics
from workers.runtime import build_shelf
from workers.tasks import register


class MillApp(Celery):
    """An app that a spawned child finds by importing this module: Celery's own pickle forgets the tasks."""

    def __reduce__(self) -> tuple[Callable[[], Celery], tuple[()]]:
        return this_app, ()


def this_app() -> Celery:
    """The app of this process."""
    return app


settings = Settings.from_environ(os.environ)
app = MillApp("embedmill", set_as_current=True)
app.conf.update(celery_settings(settings.broker_url, remote_control=settings.remote_control))
app.conf.worker_consumer = "workers.gate:GatedConsumer"
refuse_compression()
shelf = build_shelf(settings)
crumb = crumb_of(settings.crumb_dir, settings.worker_name)
metrics = WorkerMetrics()
register(app, settings, shelf, crumb, metrics)


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    from workers.logs import configure

    configure(settings.worker_name)


@worker_init.connect
def _prepare(**_: object) -> None:
    """In the parent, before there is a child: nothing of an earlier one is left; a core dump would hold texts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if crumb is not None:
        crumb.reset()


@worker_ready.connect
def _mind(**_: object) -> None:
    """In the parent, once it can take work: look after the child."""
    from workers.minder import Minder

    if crumb is not None:
        Minder(settings, crumb).start()


@worker_shutting_down.connect
def _leave(**_: object) -> None:
    """In the parent, told to end: what the child cannot finish soon is handed back."""
    from workers.minder import HAND_BACK_S

    if crumb is not None:
        crumb.ask_to_leave(time.monotonic() + HAND_BACK_S)


@worker_process_init.connect
def _announce(**_: object) -> None:
    """In the child, once it can take work: say so, for as long as it lives."""
    from workers.presence import Announcer

    if crumb is not None:
        crumb.announce()
    metrics.begin()
    Announcer(settings, shelf, metrics).start()
