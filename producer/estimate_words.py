"""The estimate in words, before the job and after it."""

from collections.abc import Mapping
from typing import Any

from producer.duration import duration
from schemas.counted import counted
from schemas.rates import Source

_KNOWN_FROM = {
    Source.GUESS: "a guess from the model's parameters; `embedmill bench` measures",
    Source.BENCH: "measured by `embedmill bench`",
    Source.JOB: "as an earlier job took",
}
#: A job that was thought to take less, in seconds of workers' time, is all start-up.
_LEAST_S = 1.0


def estimate_lines(estimate: Mapping[str, Any] | None) -> list[str]:
    """What `plan` says, as Estimate.to_dict has it."""
    if estimate is None:
        return []
    low, likely, high = estimate["seconds"]
    what = counted(estimate["workers"], "core" if estimate["size"] == "cpu" else estimate["size"])
    lines = [
        f"  work      {queue['queue']}: {counted(queue['rows'], 'row')}, {counted(queue['shards'], 'shard')}, "
        f"{duration(queue['worker_s'])} of one worker"
        for queue in estimate["queues"]
    ]
    lines.append(
        f"  takes     about {duration(likely)} on {what}, {duration(low)} to {duration(high)}; "
        f"{_KNOWN_FROM[Source(estimate['source'])]}"
    )
    lines.append(f"  writes    about {estimate['output_bytes'] / 2**20:,.1f} MiB")
    if estimate["cost"] is not None:
        low, likely, high = estimate["cost"]
        lines.append(f"  costs     about {likely:.4g}, {low:.4g} to {high:.4g}")
    return lines


def comparison_lines(receipt: Mapping[str, Any] | None) -> list[str]:
    """What the end says of the estimate: nothing where there was none, or none was compared."""
    estimate = (receipt or {}).get("estimate")
    if not estimate or not estimate.get("actual_by_estimate") or estimate["worker_s"] < _LEAST_S:
        return []
    ratio, source = estimate["actual_by_estimate"], estimate.get("source")
    took, thought = duration(estimate["actual_worker_s"]), duration(estimate["worker_s"])
    return [f"  estimate  took {took} of workers' time, {ratio:.2f} of the {thought} estimated (by {source})"]
