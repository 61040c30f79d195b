"""The receipt in words: two lines that say where the time went, and what was the limit."""

from collections.abc import Mapping
from typing import Any

from schemas.spent import Step

#: How the steps are said, in the order of a row's way.
_WORDS = {
    Step.LOAD_MODEL: "loading the model",
    Step.QUEUE_WAIT: "waiting for shards",
    Step.INPUT_WAIT: "waiting for input",
    Step.COPY: "copying",
    Step.WRITE: "writing",
}
#: Steps of threads and processes beside the worker's own: several at once may come to more than all of its time.
_BESIDE = {Step.FETCH: "fetching", Step.DECODE: "decoding", Step.PREPROCESS: "preprocessing"}
#: Steps that took a smaller share of the time are not worth a word.
_WORTH = 0.02


def receipt_lines(receipt: Mapping[str, Any] | None) -> list[str]:
    """What `status` and the summary say of a receipt, as JobReceipt.to_dict has it."""
    if receipt is None:
        return []
    whole, seconds = receipt["total"], receipt["total"]["seconds"]
    wall = max(seconds[Step.WALL], 1e-9)
    parts = [f"device busy {100 * whole['device_busy_share']:.0f} % of {_whose(len(receipt['workers']))} time"]
    parts += _shares(_WORDS, seconds, wall)
    if whole["padding_share"] > _WORTH:
        parts.append(f"padding {100 * whole['padding_share']:.0f} % of the tokens")
    beside = _shares(_BESIDE, seconds, wall)
    told = ", ".join(parts) + (f"; in threads beside it: {', '.join(beside)}" if beside else "")
    return [f"  time      {told}", f"  limit     {receipt['bottleneck']['words']}"]


def _shares(steps: Mapping[Step, str], seconds: Mapping[str, float], wall: float) -> list[str]:
    return [
        f"{words} {100 * seconds[step] / wall:.0f} %" for step, words in steps.items() if seconds[step] > _WORTH * wall
    ]


def _whose(workers: int) -> str:
    return "1 worker's" if workers == 1 else f"{workers:,} workers'"
