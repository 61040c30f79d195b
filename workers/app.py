"""The Celery app of a worker process: `celery -A workers.app worker`.

An edge: it reads the environment, once, and hands what it finds to the code that does the work.
"""

import os

from celery import Celery
from celery.signals import setup_logging, worker_process_init

from schemas.queues import celery_settings
from schemas.settings import Settings
from workers.tasks import register

settings = Settings.from_environ(os.environ)
app = Celery("embedmill", set_as_current=True)
app.conf.update(celery_settings(settings.broker_url))
register(app, settings)


@setup_logging.connect  # type: ignore[untyped-decorator]  # celery ships no types for its signals
def _configure_logging(**_: object) -> None:
    from workers.logs import configure

    configure(settings.worker_name)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _announce(**_: object) -> None:
    """In the child, once it can take work: say so, for as long as it lives."""
    from workers.presence import Announcer

    Announcer(settings).start()
