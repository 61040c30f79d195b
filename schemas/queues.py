"""Names and settings that producer and workers share on Redis; no connection is made here.

Every key begins with PREFIX, expires by itself, and may be wiped at any time.
Celery's settings and the reason of each: docs/architecture.md, "The queue".
"""

from typing import Any

from schemas.model_cards import Kind
from schemas.rows import Modality

PREFIX = "embedmill:"
KEY_TTL_S = 24 * 3600
JOBS = f"{PREFIX}jobs"  # hash: job id -> location of the jobs that a coordinator should drive


#: The Celery task that works on the panels of joins and dedups.
JOIN_TASK = "join"


def task_name(modality: Modality, kind: Kind = Kind.EMBED) -> str:
    """The Celery task that serves a modality; Flower groups by it."""
    return f"{kind}.{modality}"


def queue_of(task: str, size: str = "cpu") -> str:
    """The queue that a task's messages wait in, for a class of device."""
    return f"{task}.{size}"


def queue_name(modality: Modality, size: str = "cpu", kind: Kind = Kind.EMBED) -> str:
    """The queue that shards of a modality wait in, for a class of device."""
    return queue_of(task_name(modality, kind), size)


def job_key(job: str) -> str:
    """Hash: where the job lives (`location`), written again by the coordinator at each tick."""
    return f"{PREFIX}job:{job}"


def lease_key(job: str, shard: int) -> str:
    """String: the worker and attempt that hold the shard; expires when the heartbeat stops."""
    return f"{PREFIX}lease:{job}:{shard}"


def deaths_key(job: str, shard: int) -> str:
    """Counter: attempts at the shard whose process died in the middle; gone when one ends."""
    return f"{PREFIX}deaths:{job}:{shard}"


def suspects_key(job: str, shard: int) -> str:
    """Set: the shard's rows, by index, in whose middle a process died."""
    return f"{PREFIX}suspects:{job}:{shard}"


def condemned_key(job: str, shard: int) -> str:
    """Hash: rows that kill or hang the process even alone, with their failure."""
    return f"{PREFIX}condemned:{job}:{shard}"


def reports_key(job: str) -> str:
    """List: ShardReports, newest first, trimmed."""
    return f"{PREFIX}reports:{job}"


def moved_key(job: str, shard: int) -> str:
    """String: why the shard was sent to devices of a larger size."""
    return f"{PREFIX}moved:{job}:{shard}"


def passed_key(job: str, shard: int) -> str:
    """String: present for a while after a worker passed the shard on to one that has its model in memory."""
    return f"{PREFIX}passed:{job}:{shard}"


def cancel_key(job: str) -> str:
    """String: present while the job is cancelled."""
    return f"{PREFIX}cancel:{job}"


def coordinator_key(job: str) -> str:
    """String: the coordinator that drives the job; expires when its heartbeat stops."""
    return f"{PREFIX}coordinator:{job}"


def worker_key(name: str) -> str:
    """String: a WorkerPresence; expires when the worker is gone."""
    return f"{PREFIX}worker:{name}"


def depth_key(queue: str) -> str:
    """List: the messages of a queue that wait for a worker (kombu's own key)."""
    return f"{PREFIX}{queue}"


def client_url(broker_url: str) -> str:
    """The address that redis-py takes for a broker URL that Celery takes."""
    if broker_url.startswith("redis+socket://"):
        return broker_url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=")
    return broker_url


#: redis-py options for our own connections: a silent peer is an error after 5 s, never a hang.
CLIENT_OPTIONS: dict[str, Any] = {
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "health_check_interval": 15,
    "decode_responses": True,
}

#: A shard that takes longer hangs: its process is killed and the shard is sent again.
TASK_LIMIT_S = 2 * 3600
#: Longer than any shard may take: recovery is the coordinator's, not Redis'.
VISIBILITY_TIMEOUT_S = 6 * 3600


def celery_settings(broker_url: str, *, remote_control: bool = False) -> dict[str, Any]:
    """The Celery configuration of every embedmill process; with `remote_control` a worker obeys broadcasts."""
    return {
        "broker_url": broker_url,
        "broker_transport_options": {
            "global_keyprefix": PREFIX,
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "socket_keepalive": not broker_url.startswith("redis+socket"),
            "queue_order_strategy": "schemas.queue_order:LargestSizeFirst",
        },  # never retry_on_timeout: it hangs the main loop after a reset
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,  # a full Redis pauses a worker instead of ending it
        "result_backend": None,
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_create_missing_queues": True,
        "task_default_queue": "embedmill.default",
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        "worker_pool_start_method": "spawn",
        "worker_proc_alive_timeout": 600,
        "task_time_limit": TASK_LIMIT_S,
        "worker_soft_shutdown_timeout": 20,
        "worker_send_task_events": True,
        "worker_enable_remote_control": remote_control,  # by whoever reaches Redis; the monitor needs none
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "enable_utc": True,
    }
