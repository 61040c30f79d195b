"""The nemeses: how each kind of fault is done to a mill, and how a lasting one is ended."""

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from chaos.mill import Mill, Post, WorkerPost
from chaos.processes import kill
from chaos.schedule import Kind, Strike
from chaos.server import OwnServer
from producer.task_queue import CeleryQueue
from schemas.message import ShardMessage
from schemas.queues import KEY_TTL_S, lease_key, task_name
from storage.faulty_store import StoreFaults
from storage.jobs import Job
from storage.shards import published_shards

#: In leases: long enough to lose one for certain.
_SILENT_LEASES, _PAUSED_LEASES = 3, 5
#: A coordinator's claim runs out in 15 s.
_COORDINATOR_PAUSE_S = 17.0
_STORE_FAULT_S = 3.0
_LATENCY_S, _LATE_S = 0.1, 5.0
_REPEATED_SHARDS, _REPEATS = 6, 8


@dataclass(frozen=True, slots=True)
class Harm:
    """A fault that was done: to whom, and, where it lasts, how long and how it is ended."""

    victim: str
    lasts_s: float = 0.0
    end: Callable[[], None] = lambda: None


def strike(mill: Mill, what: Strike) -> Harm | None:
    """Do it; None where there is nobody to do it to at this moment."""
    return _NEMESES[what.kind](mill, what)


def _victim(mill: Mill, what: Strike) -> WorkerPost | None:
    """One of the workers that nothing lasting has hit, as the schedule says."""
    free = [post for post in mill.workers if not post.hit and not post.ending and post.child is not None]
    return free[int(what.victim * len(free))] if free else None


def _lasting_victim(mill: Mill, what: Strike) -> WorkerPost | None:
    """Like _victim, but one that leaves another worker whole."""
    hit = sum(1 for post in mill.workers if post.hit)
    return _victim(mill, what) if hit + 1 < len(mill.workers) or (not hit and len(mill.workers) == 1) else None


def _kill_child(mill: Mill, what: Strike) -> Harm | None:
    return _kill(_victim(mill, what), lambda post: [post.child])


def _kill_main(mill: Mill, what: Strike) -> Harm | None:
    return _kill(_victim(mill, what), lambda post: [post.main])


def _kill_machine(mill: Mill, what: Strike) -> Harm | None:
    return _kill(_victim(mill, what), lambda post: post.everyone)


def _kill(post: WorkerPost | None, processes: Callable[[WorkerPost], Iterable[int | None]]) -> Harm | None:
    """SIGKILL to processes of a worker; None where it has none of them now."""
    pids = list(processes(post)) if post else []
    if post is None or None in pids:
        return None
    for pid in pids:
        if pid is not None:
            kill(pid)
    return Harm(post.name)


def _sigterm(mill: Mill, what: Strike) -> Harm | None:
    post = _victim(mill, what)
    if post is None:
        return None
    post.terminate()
    return Harm(post.name)


def _restart_redis(mill: Mill, what: Strike) -> Harm:
    assert isinstance(mill.server, OwnServer)  # the command line refuses it for others
    mill.server.restart()
    return Harm("Redis")


def _wipe_redis(mill: Mill, what: Strike) -> Harm:
    mill.server.wipe()
    return Harm("Redis")


def _silence(mill: Mill, what: Strike, *, up: bool, down: bool) -> Harm | None:
    post = _lasting_victim(mill, what)
    if post is None:
        return None
    post.proxy.silence(up=up, down=down)
    return _lasting(post, _SILENT_LEASES * mill.options.lease_s, post.proxy.heal)


def _latency(mill: Mill, what: Strike) -> Harm | None:
    post = _lasting_victim(mill, what)
    if post is None:
        return None
    post.proxy.latency_s = _LATENCY_S
    return _lasting(post, _LATE_S, post.proxy.heal)


def _half_open(mill: Mill, what: Strike) -> Harm | None:
    post = _victim(mill, what)
    if post is None:
        return None
    post.proxy.blackhole()
    return Harm(post.name)


def _reset(mill: Mill, what: Strike) -> Harm | None:
    post = _victim(mill, what)
    if post is None:
        return None
    post.proxy.reset()
    return Harm(post.name)


def _pause(mill: Mill, what: Strike, *, everyone: bool) -> Harm | None:
    post = _lasting_victim(mill, what)
    child = post.child if post else None
    if post is None or child is None:
        return None
    pids = post.everyone if everyone else [child]
    for pid in pids:
        kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        for pid in pids:
            kill(pid, signal.SIGCONT)

    return _lasting(post, _PAUSED_LEASES * mill.options.lease_s, go_on)


def _kill_coordinator(mill: Mill, what: Strike) -> Harm | None:
    post = next((post for post in mill.coordinators if post.pid is not None and not post.hit), None)
    if post is None or post.pid is None:
        return None
    kill(post.pid)
    return Harm(post.name)


def _second_coordinator(mill: Mill, what: Strike) -> Harm | None:
    if len(mill.coordinators) > 1:
        return None
    second = mill.add_coordinator()
    return Harm(second.name, _COORDINATOR_PAUSE_S, partial(mill.dismiss, second))


def _pause_coordinator(mill: Mill, what: Strike) -> Harm | None:
    first = mill.coordinators[0]
    pid = first.pid
    if len(mill.coordinators) > 1 or pid is None:
        return None
    second = mill.add_coordinator()
    kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        kill(pid, signal.SIGCONT)
        mill.dismiss(second)

    return _lasting(first, _COORDINATOR_PAUSE_S, go_on)


def _store_fault(mill: Mill, what: Strike, faults: StoreFaults) -> Harm | None:
    if StoreFaults.read(mill.faults) != StoreFaults():
        return None  # one at a time
    faults.write(mill.faults)
    return Harm("the store", _STORE_FAULT_S, partial(StoreFaults().write, mill.faults))


def _repeated_messages(mill: Mill, what: Strike) -> Harm | None:
    """Some shards that wait, eight messages each; what is where their leases would be makes every worker go without."""
    job = next((job.job for job in mill.jobs if job.job is not None and not job.done), None)
    if job is None:
        return None
    shards = _waiting(job)
    if not shards:
        return None
    queue, client, plan = CeleryQueue(mill.server.url), mill.server.client(), job.plan(job.record.plan.digest)
    keys = [lease_key(job.id, shard) for shard in shards]
    for key in keys:
        client.delete(key)
        client.hset(key, "no", "lease")  # of another type: an error for whoever asks, as if Redis were away
        client.expire(key, KEY_TTL_S)
    for shard in shards:
        message = ShardMessage(job=job.id, shard=shard, plan=job.record.plan.digest)
        queue.send(task_name(plan.modality(shard)), job.record.spec.size, [message] * _REPEATS)
    return Harm(f"shards {', '.join(map(str, shards))} of {job.id}")


def _waiting(job: Job) -> list[int]:
    """Shards whose turn is yet to come: those that are next are in work before any message of ours is read."""
    there = {shard for shard, _, _ in published_shards(job.store)}
    waiting = [shard for shard in job.plan(job.record.plan.digest).shards() if shard not in there]
    return waiting[len(waiting) // 2 :][:_REPEATED_SHARDS]


def _lasting(post: Post, lasts_s: float, end: Callable[[], None]) -> Harm:
    post.hit = True

    def ended() -> None:
        end()
        post.hit = False

    return Harm(post.name, lasts_s, ended)


_NEMESES: dict[Kind, Callable[[Mill, Strike], Harm | None]] = {
    Kind.KILL_CHILD: _kill_child,
    Kind.KILL_MAIN: _kill_main,
    Kind.KILL_MACHINE: _kill_machine,
    Kind.RESTART_REDIS: _restart_redis,
    Kind.WIPE_REDIS: _wipe_redis,
    Kind.SILENCE: partial(_silence, up=True, down=True),
    Kind.SILENCE_UP: partial(_silence, up=True, down=False),
    Kind.SILENCE_DOWN: partial(_silence, up=False, down=True),
    Kind.HALF_OPEN: _half_open,
    Kind.RESET: _reset,
    Kind.LATENCY: _latency,
    Kind.PAUSE_CHILD: partial(_pause, everyone=False),
    Kind.PAUSE_WORKER: partial(_pause, everyone=True),
    Kind.TERM: _sigterm,
    Kind.KILL_COORDINATOR: _kill_coordinator,
    Kind.SECOND_COORDINATOR: _second_coordinator,
    Kind.PAUSE_COORDINATOR: _pause_coordinator,
    Kind.SLOW_STORE: partial(_store_fault, faults=StoreFaults(delay_s=0.3)),
    Kind.FAILING_STORE: partial(_store_fault, faults=StoreFaults(fail_before=0.2, fail_after=0.1)),
    Kind.FULL_STORE: partial(_store_fault, faults=StoreFaults(fail_before=0.3, error="ENOSPC")),
    Kind.LOST_REPLIES: partial(_store_fault, faults=StoreFaults(lost_replies=1.0)),
    Kind.REPEATED_MESSAGES: _repeated_messages,
}
