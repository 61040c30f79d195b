"""The task queue: messages sent to workers by task name."""

from collections.abc import Callable, Iterable
from typing import Protocol

from schemas.errors import BrokerError
from schemas.message import ShardMessage
from schemas.queues import celery_settings, queue_of
from schemas.redaction import redact


class TaskQueue(Protocol):
    """Where messages go; sending one twice is harmless."""

    def send(self, task: str, size: str, messages: Iterable[ShardMessage]) -> None:
        """Send each to the queue of task and size; raises BrokerError when Redis cannot be reached."""


class CeleryQueue:
    """Messages to Celery workers, over Redis."""

    def __init__(self, broker_url: str, *, key: str = "") -> None:
        """With a `key` each message is signed."""
        from celery import Celery

        self._url, self._key = broker_url, key
        self._app = Celery("embedmill", set_as_current=False)
        self._app.conf.update(celery_settings(broker_url))
        self._sent = 0

    def send(self, task: str, size: str, messages: Iterable[ShardMessage]) -> None:
        queue = queue_of(task, size)
        try:
            with (
                self._app.connection_for_write() as connection,
                self._app.amqp.Producer(connection) as producer,
                producer.batch(),  # type: ignore[attr-defined]  # not in the stubs; one round trip for 1,000 messages
            ):
                for message in messages:
                    self._sent += 1
                    self._app.send_task(
                        task,
                        kwargs=message.to_kwargs(self._key),
                        queue=queue,
                        task_id=f"{message.job}.{message.shard}.{self._sent}",
                        kwargsrepr=repr({"job": message.job, "shard": message.shard, "queue": queue}),  # for monitors
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

    def send(self, task: str, size: str, messages: Iterable[ShardMessage]) -> None:
        for message in messages:
            self._work(message)
