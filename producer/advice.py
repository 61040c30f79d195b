"""Advice: what held a job up, in words, and what would help."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from schemas.sizes import CPU
from schemas.spent import Spent, Step

#: A device that is busy for so large a share of the time is the limit, whatever else there is.
_BUSY = 0.85
#: Workers that were at it for less, in seconds and all together, say nothing of what limits a job.
_LEAST_S = 10.0
#: Shards that take less, in seconds, come and go faster than they are sent.
_SHORT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The bottleneck by name, with what would help."""

    bound_by: str  # a Step, or "nothing"
    words: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def advice_on(spent: Spent, *, device: str, shards: int) -> Advice:
    """What held up workers on `device` that spent their time so on so many shards.

    The steps that the device waits for are those of its own thread; which of fetch, decode and preprocessing it waited
    for is told by the seconds of their threads.
    """
    wall = max(spent.of(Step.WALL), 1e-9)
    if wall - spent.of(Step.LOAD_MODEL) < _LEAST_S:
        words = f"none that could be told: workers were at it for less than {_LEAST_S:.0f} s all together"
        return Advice(bound_by="nothing", words=words)
    if spent.of(Step.DEVICE) >= _BUSY * wall:
        return _device_bound(spent, wall, device)
    waits = (Step.DEVICE, Step.INPUT_WAIT, Step.QUEUE_WAIT, Step.LOAD_MODEL, Step.WRITE, Step.COPY, Step.CHECK)
    longest = max(waits, key=spent.of)
    share = f"{100 * spent.of(longest) / wall:.0f} %"
    if longest is Step.DEVICE:
        return _device_bound(spent, wall, device)
    if longest is Step.INPUT_WAIT:
        return _input_bound(spent, wall, share, device)
    words = _WORDS[longest].format(share=share)
    if longest is Step.QUEUE_WAIT and (wall - spent.of(longest)) < _SHORT_S * shards:
        words = f"queue-bound: workers had no shard for {share} of the time; larger shards (--shard-seconds) would help"
    return Advice(bound_by=longest, words=words)


_WORDS = {
    Step.QUEUE_WAIT: "queue-bound: workers had no shard for {share} of the time; fewer workers would do as well, "
    "or smaller shards (--shard-seconds) would spread the last ones",
    Step.LOAD_MODEL: "start-bound: loading the model took {share} of the time; fewer workers, or more rows in one job, "
    "would help",
    Step.WRITE: "write-bound: writing took {share} of the time; a store nearer by, or fewer --keep columns, would help",
    Step.COPY: "copy-bound: moving data to the device and back took {share} of the time; a wider bus would help, "
    "or more rows in a batch (EMBEDMILL_BATCH_TOKENS)",
    Step.CHECK: "check-bound: trying the model on known items took {share} of the time; larger shards "
    "(--shard-seconds) or a higher EMBEDMILL_CANARY_S would help",
}


def _device_bound(spent: Spent, wall: float, device: str) -> Advice:
    what = "cores" if device == CPU else "GPUs"
    share = spent.of(Step.DEVICE) / wall
    much = ", in proportion" if share >= _BUSY else ""  # what else took time, more devices do not shorten
    words = f"device-bound: the model computed for {100 * share:.0f} % of the time; more {what} would help{much}"
    return Advice(bound_by=Step.DEVICE, words=words)


def _input_bound(spent: Spent, wall: float, share: str, device: str) -> Advice:
    """The device waited; for what its slowest feeder does."""
    feeder = max((Step.FETCH, Step.DECODE, Step.PREPROCESS), key=spent.of)
    if not spent.of(feeder):
        words = f"input-bound: the device waited for rows for {share} of the time; larger shards would help"
        return Advice(bound_by=Step.READ, words=words)
    more = _more_threads(spent.of(feeder), spent.of(Step.DEVICE), wall)
    per = "worker" if device == CPU else "GPU"
    faster = "more or faster cores" if device == CPU else "a faster CPU, or more workers for each GPU,"
    help_ = {
        Step.FETCH: f"{more} more EMBEDMILL_LOAD_THREADS per {per}, or media nearer to the workers, would help",
        Step.DECODE: f"{more} more CPUs per {per} would help (EMBEDMILL_LOAD_THREADS)",
        Step.PREPROCESS: f"{faster} would help",
    }
    return Advice(bound_by=feeder, words=f"{feeder}-bound: the device waited {share} of the time; {help_[feeder]}")


def _more_threads(feeding_s: float, device_s: float, wall: float) -> int:
    """Threads beside those at work now, so that the feeding of a busy device takes no longer than its computing.

    `feeding_s / wall` of them were at work on average; the device, never waiting, would take `device_s` for it all.
    """
    return min(64, max(1, math.ceil(feeding_s / max(device_s, wall / 64) - feeding_s / wall)))
