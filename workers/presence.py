"""Presence: a worker that can take work says so until it ends."""

import contextlib
import os
import socket
import threading

import redis

from schemas.presence import TTL_S, WorkerPresence
from schemas.queues import CLIENT_OPTIONS, client_url, worker_key
from schemas.settings import Settings
from workers.metrics import WorkerMetrics
from workers.model_shelf import ModelShelf


class Announcer(threading.Thread):
    """A daemon thread that renews this worker's presence on Redis; an unreachable Redis is no error."""

    def __init__(self, settings: Settings, shelf: ModelShelf, metrics: WorkerMetrics | None = None) -> None:
        super().__init__(name="presence", daemon=True)
        self._settings, self._shelf, self._metrics = settings, shelf, metrics or WorkerMetrics()
        self._client = redis.Redis.from_url(client_url(settings.broker_url), **CLIENT_OPTIONS)
        self._ended = threading.Event()

    def run(self) -> None:
        while True:
            self._metrics.look(self._shelf)
            with contextlib.suppress(redis.RedisError):  # only a hint: the next renewal may get through
                self._client.set(worker_key(self._settings.worker_name), self._presence().to_json(), ex=TTL_S)
            if self._ended.wait(TTL_S / 3):
                return

    def stop(self) -> None:
        self._ended.set()

    def _presence(self) -> WorkerPresence:
        return WorkerPresence(
            name=self._settings.worker_name,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._settings.device,
            queues=self._settings.queues,
            size=self._settings.size,
            models=self._shelf.held,
            loads=self._shelf.loads,
        )
