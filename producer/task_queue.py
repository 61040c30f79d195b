"""The task queue: messages sent to workers by task name."""

from collections.abc import Callable, Iterable
from typing import Protocol

from schemas.errors import BrokerError
from schemas.message import ShardMessage
from schemas.model_cards import Kind
from schemas.queues import celery_settings, queue_name, task_name
from schemas.redaction import redact
from schemas.rows import Modality


class TaskQueue(Protocol):
    """Where messages go; sending one twice is harmless."""

    def send(self, modality: Modality, size: str, messages: Iterable[ShardMessage], kind: Kind = Kind.EMBED) -> None:
        """Send each to the queue of kind, modality and size; raises BrokerError when Redis cannot be reached."""


class CeleryQueue:
    """Messages to Celery workers, over Redis."""

    def __init__(self, broker_url: str) -> None:
        from celery import Celery

        self._url = broker_url
        self._app = Celery("embedmill", set_as_current=False)
        self._app.conf.update(celery_settings(broker_url))
        self._sent = 0

    def send(self, modality: Modality, size: str, messages: Iterable[ShardMessage], kind: Kind = Kind.EMBED) -> None:
        queue, name = queue_name(modality, size, kind), task_name(modality, kind)
        try:
            with self._app.connection_for_write() as connection, self._app.amqp.Producer(connection) as producer:
                for message in messages:
                    self._sent += 1
                    self._app.send_task(
                        name,
                        kwargs=message.to_kwargs(),
                        queue=queue,
                        task_id=f"{message.job}.{message.shard}.{self._sent}",
                        producer=producer,
                        retry=False,
                        ignore_result=True,
                    )
        except self._errors as err:
            raise BrokerError(f"{redact(self._url)} cannot be reached: {err}; is the server up?") from err

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        from kombu.exceptions import OperationalError
        from redis import RedisError

        return (OperationalError, RedisError, OSError)


class InlineQueue:
    """Messages worked on at once, in this process, for tests."""

    def __init__(self, work: Callable[[ShardMessage], object]) -> None:
        self._work = work

    def send(self, modality: Modality, size: str, messages: Iterable[ShardMessage], kind: Kind = Kind.EMBED) -> None:
        for message in messages:
            self._work(message)
