"""The receipt in words: two lines that say where the time went, and what was the limit."""

from collections.abc import Mapping
from typing import Any

from schemas.spent import Step

#: How the steps are said, in the order of a row's way.
_WORDS = {
    Step.LOAD_MODEL: "loading the model",
    Step.QUEUE_WAIT: "waiting for shards",
    Step.INPUT_WAIT: "waiting for input",
    Step.FETCH: "fetching",
    Step.DECODE: "decoding",
    Step.PREPROCESS: "preprocessing",
    Step.COPY: "copying",
    Step.WRITE: "writing",
}
#: Steps that took a smaller share of the time are not worth a word.
_WORTH = 0.02


def receipt_lines(receipt: Mapping[str, Any] | None) -> list[str]:
    """What `status` and the summary say of a receipt, as JobReceipt.to_dict has it."""
    if receipt is None:
        return []
    whole, seconds = receipt["total"], receipt["total"]["seconds"]
    wall = max(seconds[Step.WALL], 1e-9)
    parts = [f"device busy {100 * whole['device_busy_share']:.0f} % of {len(receipt['workers'])} workers' time"]
    parts += [
        f"{words} {100 * seconds[step] / wall:.0f} %" for step, words in _WORDS.items() if seconds[step] > _WORTH * wall
    ]
    if whole["padding_share"] > _WORTH:
        parts.append(f"padding {100 * whole['padding_share']:.0f} % of the tokens")
    return [f"  time      {', '.join(parts)}", f"  limit     {receipt['bottleneck']['words']}"]
