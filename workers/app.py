"""The Celery app of a worker process: `celery -A workers.app worker`.

An edge: it reads the environment, once, and hands what it finds to the code that does the work.
"""

import os
from collections.abc import Callable

from celery import Celery
from celery.signals import setup_logging, worker_process_init

from schemas.queues import celery_settings
from schemas.settings import Settings
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
app.conf.update(celery_settings(settings.broker_url))
shelf = build_shelf(settings)
register(app, settings, shelf)


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    from workers.logs import configure

    configure(settings.worker_name)


@worker_process_init.connect
def _announce(**_: object) -> None:
    """In the child, once it can take work: say so, for as long as it lives."""
    from workers.presence import Announcer

    Announcer(settings, shelf).start()
