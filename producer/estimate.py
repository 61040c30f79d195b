"""The estimate: what a job will take, from its plan and from rates; and what it took, beside that."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from schemas.errors import StoreError
from schemas.parsed_json import parsed_json
from schemas.queues import queue_name
from schemas.rates import BANDS, Rates, Source
from schemas.recipe import OutputType
from schemas.rows import Modality
from schemas.spent import Step
from storage import layout
from storage.jobs import Job
from storage.plans import PlanReader

_HOUR_S = 3600.0
#: Shards of each modality whose texts are looked at.
_SAMPLED_SHARDS = 6
#: What a worker takes to start, beside loading its model: importing libraries.
_START_S = 6.0
#: Bytes that an element of a vector takes in a file, compressed: measured on MiniLM's float32.
_BYTES = {OutputType.FLOAT32: 3.5, OutputType.FLOAT16: 1.9, OutputType.INT8: 0.9, OutputType.BINARY: 0.125}


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSample:
    """What some of a modality's media are like, each time in seconds of one thread."""

    media: int
    fetch_s: float  # of one
    decode_s: float  # of one
    scale: float = 1.0  # tokens of one, by what the planner took it for
    mean_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEstimate:
    """One queue's share."""

    queue: str
    rows: int
    shards: int
    worker_s: float  # of all workers together


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job will take; each of `seconds` and `cost` is the least, what is most likely, and the most."""

    source: Source
    measured_on: str
    workers: int
    size: str
    queues: tuple[QueueEstimate, ...]
    worker_s: float
    output_bytes: int
    seconds: tuple[float, float, float]
    cost: tuple[float, float, float] | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Estimate":
        """What `to_dict` wrote; raises ValueError, TypeError or LookupError for anything else."""
        queues = tuple(
            QueueEstimate(
                queue=_word(queue["queue"]),
                rows=int(queue["rows"]),
                shards=int(queue["shards"]),
                worker_s=_number(queue["worker_s"]),
            )
            for queue in raw["queues"]
        )
        return cls(
            source=Source(raw["source"]),
            measured_on=_word(raw["measured_on"]),
            workers=int(raw["workers"]),
            size=_word(raw["size"]),
            queues=queues,
            worker_s=_number(raw["worker_s"]),
            output_bytes=int(raw["output_bytes"]),
            seconds=_three(*map(_number, raw["seconds"])),
            cost=None if raw["cost"] is None else _three(*map(_number, raw["cost"])),
        )


def _word(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("what embedmill writes can be printed")
    return value


def _number(value: Any) -> float:  # Any: float() says what it takes
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError("what embedmill writes is finite")
    return number


def estimate_job(
    job: Job,
    rates: Rates,
    *,
    workers: int,
    price: float | None = None,
    media: Mapping[Modality, MediaSample] | None = None,
    feeders: int = 2,
) -> Estimate:
    """Estimate the first round of `job` on so many workers, each with `feeders` threads that fetch and decode.

    `price` is a worker's, an hour.
    """
    spec, reader = job.record.spec, job.reader(job.record.plan)
    modalities = np.array([str(reader.modality(shard)) for shard in reader.shards()])
    queues = []
    for name in sorted(set(modalities)):
        modality, at = Modality(name), np.flatnonzero(modalities == name)
        seconds = _seconds(reader, modality, at, rates, (media or {}).get(modality), spec.size, feeders)
        rows = int(reader.rows[at].sum())
        queue = queue_name(modality, spec.size, spec.kind)
        queues.append(QueueEstimate(queue=queue, rows=rows, shards=len(at), worker_s=round(seconds, 3)))
    worker_s = sum(queue.worker_s for queue in queues)
    busy = max(1, min(workers, len(modalities)))
    low, high = BANDS[rates.source]
    start_s = rates.load_s + _START_S
    spans = [factor * worker_s for factor in (low, 1.0, high)]
    return Estimate(
        source=rates.source,
        measured_on=rates.device,
        workers=busy,
        size=spec.size,
        queues=tuple(queues),
        worker_s=round(worker_s, 3),
        output_bytes=_output_bytes(job, reader),
        seconds=_three(*(round(span / busy + start_s, 1) for span in spans)),
        cost=None if price is None else _three(*(round((s + busy * start_s) / _HOUR_S * price, 6) for s in spans)),
    )


def write_estimate(job: Job, estimate: Estimate) -> None:
    """Keep the estimate beside the job, for the receipt to be compared with."""
    job.store.replace(layout.ESTIMATE, json.dumps(estimate.to_dict()).encode() + b"\n")


def read_estimate(job: Job) -> Estimate | None:
    """The estimate that was kept; None where there is none, or it is not what embedmill wrote."""
    if job.store.size(layout.ESTIMATE) is None:
        return None
    try:
        return Estimate.from_dict(parsed_json(job.store.get(layout.ESTIMATE)))
    except (StoreError, ValueError, LookupError, TypeError):
        return None


def compared(estimate: Estimate, seconds: Mapping[str, float], file_bytes: int) -> dict[str, Any]:
    """The estimate with what the job took: worker seconds without waiting and loading, and bytes."""
    worked = working_seconds(seconds)
    return {
        **estimate.to_dict(),
        "actual_worker_s": round(worked, 3),
        "actual_output_bytes": file_bytes,
        "actual_by_estimate": round(worked / estimate.worker_s, 4) if estimate.worker_s else None,
    }


def working_seconds(seconds: Mapping[str, float]) -> float:
    """Of what workers spent, that which grows with the rows."""
    waits = (Step.QUEUE_WAIT, Step.LOAD_MODEL)
    return max(0.0, seconds.get(Step.WALL, 0.0) - sum(seconds.get(step, 0.0) for step in waits))


def _three(low: float, likely: float, high: float) -> tuple[float, float, float]:
    return low, likely, high


def _seconds(
    reader: PlanReader,
    modality: Modality,
    at: np.ndarray,
    rates: Rates,
    sample: MediaSample | None,
    size: str,
    feeders: int,
) -> float:
    """Worker seconds of the shards at these places of the plan, all of one modality."""
    rows, costs = reader.rows[at], reader.costs[at]
    if modality is Modality.TEXT and len(rates.points.get(modality, ())) > 1:
        picked = np.unique(np.linspace(0, len(at) - 1, min(_SAMPLED_SHARDS, len(at))).astype(int))
        items = np.concatenate([_item_costs(reader, int(at[n]), float(costs[n])) for n in picked])
        sampled_s = sum(rates.seconds(modality, cost) for cost in items)
        return float(sampled_s * costs.sum() / max(items.sum(), 1e-9))
    scale = sample.scale if sample else 1.0
    each = [rates.seconds(modality, max(scale * cost / n, 1e-9)) for cost, n in zip(costs, rows, strict=True)]
    device_s = float(np.dot(each, rows))
    if sample is None or rates.source is Source.JOB:  # a job's seconds have its loading in them
        return device_s
    feeding_s = float(rows.sum()) * (sample.fetch_s + sample.decode_s)
    if size == "cpu":  # decoders and the model share the cores
        return device_s + float(rows.sum()) * sample.decode_s
    return max(device_s, feeding_s / feeders)


def _item_costs(reader: PlanReader, at: int, cost: float) -> np.ndarray:
    """What each text of a shard is taken for: by its length, cut off where the shard's cost says so."""
    texts = reader.read_table(reader.plan.first_shard + at)["text"].to_pylist()
    lengths = np.array([len(text or "") / 4 + 2 for text in texts])
    if lengths.sum() <= cost:
        return np.asarray(lengths * (cost / lengths.sum()))
    low, high = 0.0, float(lengths.max())
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(lengths, middle).sum() < cost else (low, middle)
    return np.asarray(np.minimum(lengths, high))


def _output_bytes(job: Job, reader: PlanReader) -> int:
    """A vector a row, and its id and kept columns by those of some shards."""
    recipe, dim = job.record.space.recipe, job.record.space.dim
    vector = sum(dim * _BYTES[output] for output in recipe.outputs)
    shards = np.unique(np.linspace(0, len(reader) - 1, 3).astype(int))
    tables = [reader.read_table(reader.plan.first_shard + int(n)) for n in shards]
    names = [name for name in tables[0].column_names if name == "id" or name.startswith("keep.")]
    beside = sum(table.select(names).nbytes for table in tables) / max(1, sum(table.num_rows for table in tables))
    return int(job.record.plan.rows * (vector + 0.4 * beside) + 4000 * len(reader))
