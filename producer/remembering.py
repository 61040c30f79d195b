"""Remembering: the rates of a finished job, for the estimates of those to come."""

from typing import Any

from producer.estimate import working_seconds
from producer.job_receipt import written_receipt
from schemas.queues import queue_name
from schemas.rates import Point, Rates, Source
from schemas.rows import Modality
from schemas.spent import Step
from storage.jobs import Job, now
from storage.rates_file import RatesFile

#: Jobs whose workers worked for less say more of their start than of the model.
_LEAST_S = 20.0


def remember_rates(job: Job, file: RatesFile) -> Rates | None:
    """Put the rates of `job` into the file, and return them; None where it was too short, or is not wholly measured."""
    receipt = written_receipt(job)
    shards = sum(plan.shards for plan in job.rounds())
    if receipt is None or receipt["total"]["shards"] != shards:
        return None
    if working_seconds(receipt["total"]["seconds"]) < _LEAST_S:
        return None
    spec = job.record.spec
    load_s = receipt["total"]["seconds"][Step.LOAD_MODEL] / len(receipt["workers"])
    rates = Rates(source=Source.JOB, points=_points(job, receipt), load_s=round(load_s, 3), device=job.id, at=now())
    file.put(spec.model_digest, spec.size, job.record.space.recipe.dtype, rates)
    return rates


def _points(job: Job, receipt: dict[str, Any]) -> dict[Modality, tuple[Point, ...]]:
    """By modality: what an item was taken for, and the seconds that it took."""
    costs, rows = dict.fromkeys(Modality, 0.0), dict.fromkeys(Modality, 0)
    for plan in job.rounds():
        reader = job.reader(plan)
        for shard in reader.shards():
            modality, at = reader.modality(shard), shard - plan.first_shard
            costs[modality] += float(reader.costs[at])
            rows[modality] += int(reader.rows[at])
    points: dict[Modality, tuple[Point, ...]] = {}
    for modality in [modality for modality in Modality if rows[modality]]:
        queue = queue_name(modality, job.record.spec.size, job.record.spec.kind)
        seconds = working_seconds(receipt["queues"][queue]["seconds"])
        points[modality] = ((costs[modality] / rows[modality], max(seconds, 1e-6) / rows[modality]),)
    return points
