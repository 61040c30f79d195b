"""The schedule: which faults there will be, in which order, on whom, and with which pauses; all of it from a seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice


class Kind(StrEnum):
    """One way to do harm."""

    KILL_CHILD = "kill_child"  # SIGKILL to the process that computes
    KILL_MAIN = "kill_main"  # SIGKILL to a worker's main process: its child works on, an orphan
    KILL_MACHINE = "kill_machine"  # SIGKILL to a worker, its supervisor and all: a preempted machine
    RESTART_REDIS = "restart_redis"  # SIGKILL to Redis, started again empty
    WIPE_REDIS = "wipe_redis"  # FLUSHALL; of a Redis that is not ours, our own keys
    SILENCE = "silence"  # a worker and Redis do not hear each other, for three leases
    SILENCE_UP = "silence_up"  # Redis does not hear the worker
    SILENCE_DOWN = "silence_down"  # the worker does not hear Redis
    HALF_OPEN = "half_open"  # a worker's open connections are dead and do not know it
    RESET = "reset"  # a worker's connections are cut
    LATENCY = "latency"  # each answer of Redis is late
    PAUSE_CHILD = "pause_child"  # SIGSTOP to the process that computes, for five leases
    PAUSE_WORKER = "pause_worker"  # SIGSTOP to a worker with all its processes
    TERM = "sigterm"  # SIGTERM to a worker: a spot notice
    KILL_COORDINATOR = "kill_coordinator"
    SECOND_COORDINATOR = "second_coordinator"  # two at once
    PAUSE_COORDINATOR = "pause_coordinator"  # SIGSTOP until its claim has run out and another drives, then SIGCONT
    SLOW_STORE = "slow_store"  # each operation of the store is late
    FAILING_STORE = "failing_store"  # operations fail and change nothing: EIO
    FULL_STORE = "full_store"  # ENOSPC
    LOST_REPLIES = "lost_replies"  # writes are carried out and their answers lost
    REPEATED_MESSAGES = "repeated_messages"  # shards sent to eight workers at once, without leases


class Group(StrEnum):
    """What an option of the command line counts."""

    KILLS = "kills"
    RESTARTS = "restarts"
    WIPES = "wipes"
    PARTITIONS = "partitions"
    PAUSES = "pauses"
    TERMS = "terms"
    COORDINATORS = "coordinators"
    STORE_FAULTS = "store_faults"
    REPEATS = "repeats"


#: The kinds of a group, taken in turn.
KINDS: dict[Group, tuple[Kind, ...]] = {
    Group.KILLS: (
        Kind.KILL_CHILD,
        Kind.KILL_MACHINE,
        Kind.KILL_CHILD,
        Kind.KILL_MAIN,
        Kind.KILL_CHILD,
        Kind.KILL_MACHINE,
    ),
    Group.RESTARTS: (Kind.RESTART_REDIS,),
    Group.WIPES: (Kind.WIPE_REDIS,),
    Group.PARTITIONS: (
        Kind.SILENCE,
        Kind.RESET,
        Kind.HALF_OPEN,
        Kind.SILENCE_DOWN,
        Kind.LATENCY,
        Kind.SILENCE_UP,
    ),
    Group.PAUSES: (Kind.PAUSE_CHILD, Kind.PAUSE_WORKER),
    Group.TERMS: (Kind.TERM,),
    Group.COORDINATORS: (Kind.KILL_COORDINATOR, Kind.SECOND_COORDINATOR, Kind.PAUSE_COORDINATOR),
    Group.STORE_FAULTS: (Kind.LOST_REPLIES, Kind.SLOW_STORE, Kind.FAILING_STORE, Kind.FULL_STORE),
    Group.REPEATS: (Kind.REPEATED_MESSAGES,),
}
#: How `--faults N` is shared out: shares of the groups.
_SHARES: dict[Group, int] = {
    Group.KILLS: 8,
    Group.PARTITIONS: 3,
    Group.STORE_FAULTS: 2,
    Group.TERMS: 2,
    Group.PAUSES: 1,
    Group.RESTARTS: 1,
    Group.REPEATS: 1,
    Group.WIPES: 1,
    Group.COORDINATORS: 1,
}
#: Seconds between two faults, beside the wait for the mill to publish again.
_PAUSE_S = (0.1, 0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One fault to come."""

    kind: Kind
    pause_s: float  # that the mill gets after the fault before has been felt
    victim: float  # 0..1: which of those that can be hit


def make_schedule(counts: Mapping[Group, int], seed: int) -> list[Strike]:
    """The faults in their order; the same for the same counts and seed."""
    rng = random.Random(seed)  # noqa: S311  # replayed by its seed
    kinds = [kind for group in Group for kind in islice(cycle(KINDS[group]), counts.get(group, 0))]
    rng.shuffle(kinds)
    return [Strike(kind=kind, pause_s=round(rng.uniform(*_PAUSE_S), 3), victim=rng.random()) for kind in kinds]


def share_out(faults: int, *, without: frozenset[Group] = frozenset()) -> dict[Group, int]:
    """How many faults of each group make `faults` in all; the first ones have something of everything."""
    shares = {group: share for group, share in _SHARES.items() if group not in without}
    order = [group for turn in range(max(shares.values())) for group, share in shares.items() if share > turn]
    taken = list(islice(cycle(order), faults))
    return {group: taken.count(group) for group in Group}
