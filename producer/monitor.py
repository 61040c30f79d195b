"""The monitor: Flower in this process, behind a password, that listens and never says anything to a worker.

Flower's own command would read options from arguments, the environment and a Python file of the current folder,
ask every worker over remote control, and leave /metrics open. Here its parts are put together without these: tasks
and workers are known from their events, and from what workers say of themselves on Redis.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from celery import Celery
from celery.app.control import Control
from flower.api.tasks import GetQueueLengths
from flower.app import Flower
from flower.inspector import Inspector
from flower.options import options
from flower.urls import settings
from flower.views.broker import BrokerView
from flower.views.tasks import TASK_COLUMNS
from tornado.web import RequestHandler

from producer.board import Board, RedisBoard
from producer.monitor_access import Access
from producer.shown_task import COLUMNS, shown_task
from schemas.errors import BrokerError, Refused
from schemas.model_cards import Kind
from schemas.presence import WorkerPresence
from schemas.queues import JOIN_TASK, celery_settings, queue_of, task_name
from schemas.rows import Modality
from schemas.sizes import SIZES

logger = logging.getLogger(__name__)

#: Seconds after which a worker that is gone is shown no more.
_FORGET_S = 300
#: Upper ends of the classes that tasks' runtimes are counted in, seconds; without them: Prometheus' of web requests.
_RUNTIMES_S = [1.0, 5.0, 15.0, 60.0, 300.0, float("inf")]
#: The one page for everybody, for health checks; it says OK.
_OPEN = "/healthcheck"


def run_monitor(
    broker_url: str, access: Access, *, address: str, port: int, most_tasks: int, say: Callable[[int], None]
) -> None:
    """Serve Flower until the process is told to end; `say` is told the port.

    Raises BrokerError where Redis cannot be reached, Refused where the address cannot be listened on.
    """
    board = RedisBoard(broker_url)
    board.workers()  # an unreachable Redis is said before a page is served
    _set_options(access, address=address, port=port, most_tasks=most_tasks)
    app = Celery("embedmill", set_as_current=False, control=SilentControl)
    app.conf.update(celery_settings(broker_url))
    asyncio.set_event_loop(asyncio.new_event_loop())
    monitor = Monitor(app, board, access)
    try:
        say(monitor.start_http_server())
    except OSError as err:
        raise Refused(f"{address}:{port} cannot be listened on: {err.strerror or err}") from None
    try:
        monitor.start()
    finally:
        monitor.stop()


def _set_options(access: Access, *, address: str, port: int, most_tasks: int) -> None:
    """Flower's options, which it keeps for the process."""
    TASK_COLUMNS.update(COLUMNS)
    options.address, options.port = address, port
    options.basic_auth = [access.pair]  # beside our own check: without it Flower closes its API
    options.read_only = True
    options.enable_events = False  # workers send them anyway
    options.max_tasks = most_tasks
    options.purge_offline_workers = _FORGET_S
    options.tasks_columns = ",".join(COLUMNS)
    options.format_task = shown_task
    options.task_runtime_metric_buckets = _RUNTIMES_S


class SilentControl(Control):
    """What would speak to workers, and does not: a receiver of events would ask them all for a heartbeat."""

    def broadcast(self, *args: object, **kwargs: object) -> None: ...


class Monitor(Flower):  # type: ignore[misc]  # Flower ships no types
    """Flower, with one check in front of all of it, and nothing that speaks to workers."""

    def __init__(self, app: Celery, board: Board, access: Access) -> None:
        super().__init__(capp=app, options=options, **settings)
        self.board, self._access = board, access
        self.inspector = PresenceInspector(self.io_loop, app, board)
        self.add_handlers(".*", [(r"/broker", QueuesPage), (r"/api/queues/length", QueueLengths)])

    def find_handler(self, request: Any, **kwargs: Any) -> Any:
        if request.path == _OPEN or self._access.admits(request.headers.get("Authorization", "")):
            return super().find_handler(request, **kwargs)
        return self.get_handler_delegate(request, Refusal)


class Refusal(RequestHandler):
    """What whoever is not known gets, whatever they ask for."""

    def check_xsrf_cookie(self) -> None:
        """Nothing is done here that could be forged."""

    def prepare(self) -> None:
        self.set_status(401)
        self.set_header("WWW-Authenticate", 'Basic realm="embedmill"')
        self.finish("401: a name and a password are needed\n")


class PresenceInspector(Inspector):  # type: ignore[misc]  # Flower ships no types
    """What workers say of themselves on Redis, in place of what they would answer to a broadcast."""

    def __init__(self, io_loop: Any, app: Celery, board: Board) -> None:
        super().__init__(io_loop, app, timeout=1.0)
        self._board = board

    async def _inspect_all(self, workername: str | None) -> None:
        try:
            present = await self.io_loop.run_in_executor(None, self._board.workers)
        except BrokerError as err:
            logger.warning("%s", err)
            return
        self.workers.clear()
        self.workers.update({worker.name: _facts(worker) for worker in present})


def _facts(worker: WorkerPresence) -> dict[str, Any]:
    """A worker in the words of Flower's page about it."""
    pool = {"host": worker.host, "device": worker.device, "size": worker.size, "models_loaded": worker.loads}
    held = {"models_in_memory": ", ".join(digest[:12] for digest in worker.models)}
    stats = {"pid": worker.pid, "prefetch_count": 1, "pool": pool | held, "broker": {}, "total": {}}
    told: dict[str, Any] = dict.fromkeys(Inspector.inspect_methods, ())
    return {**told, "stats": stats, "conf": {}, "active_queues": [_queue_facts(name) for name in worker.queues]}


def _queue_facts(name: str) -> dict[str, Any]:
    unknown = ("exchange", "exclusive", "no_ack", "alias", "queue_arguments", "binding_arguments", "auto_delete")
    return {"name": name, "routing_key": name, "durable": True, **dict.fromkeys(unknown, "")}


class BoardQueues:
    """Queue lengths as Flower asks for them."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Those that a worker serves, and those in which something waits."""
        return await asyncio.get_running_loop().run_in_executor(None, partial(self._look, set(names)))

    def _look(self, served: set[str]) -> list[dict[str, Any]]:
        depths = {name: self._board.depth(name) for name in sorted(served | set(all_queues()))}
        consumers = [queue for worker in self._board.workers() for queue in worker.queues]
        return [
            {"name": name, "messages": depth, "messages_ready": depth, "consumers": consumers.count(name)}
            for name, depth in depths.items()
            if depth or name in consumers
        ]


def all_queues() -> list[str]:
    """Every queue that there may be."""
    tasks = [task_name(modality, kind) for kind in Kind for modality in Modality]
    return [queue_of(task, size) for task in [*tasks, JOIN_TASK] for size in SIZES]


class _OurQueues:
    """What a page about queues asks, answered from the board."""

    application: Monitor

    def get_active_queue_names(self) -> list[str]:
        return []

    def get_broker(self) -> BoardQueues:
        return BoardQueues(self.application.board)


class QueuesPage(_OurQueues, BrokerView):  # type: ignore[misc]  # Flower ships no types
    """The page of queues."""


class QueueLengths(_OurQueues, GetQueueLengths):  # type: ignore[misc]  # Flower ships no types
    """The same as JSON."""
