"""Calibration: the ranges of a job's int8 vectors, taken from a sample of its rows and frozen by whoever is first."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from schemas.errors import StoreError
from schemas.failures import Failure, FailureCode
from schemas.settings import Settings
from storage import layout
from storage.ranges import Ranges
from storage.sample import read_sample
from workers.breadcrumb import CALIBRATION
from workers.isolation import AloneTask

if TYPE_CHECKING:
    from workers.runtime import OpenJob


#: What may pass, of which so large a share of the sample is too much.
_PASSING = frozenset({FailureCode.FETCH_FAILED, FailureCode.FETCH_TIMEOUT, FailureCode.HOST_UNAVAILABLE})
_MOST_MISSED = 0.1


def frozen_ranges(job: "OpenJob", settings: Settings) -> tuple[Ranges, str]:
    """The job's ranges and their sha256: those in its store, else computed now and put there.

    Workers that come at the same moment compute the same; the first to create them decides for all.
    """
    store = job.job.store
    if store.size(layout.RANGES) is None:
        store.create(layout.RANGES, _computed(job, settings).to_json())
    data = store.get(layout.RANGES)
    return Ranges.from_json(data), hashlib.sha256(data).hexdigest()


def _computed(job: "OpenJob", settings: Settings) -> Ranges:
    record = job.job.record
    rows = read_sample(store=job.job.store, plan=record.plan)
    task = AloneTask(location=job.location, job=record.id, plan=record.plan.digest, shard=CALIBRATION, rows=())
    outcomes = job.care.embed(job, task, rows, deaths=0, settings=settings, should_stop=lambda: False)
    found = [outcome.vectors for outcome in outcomes if not isinstance(outcome, Failure)]
    missed = sum(1 for outcome in outcomes if isinstance(outcome, Failure) and outcome.code in _PASSING)
    if missed > _MOST_MISSED * len(rows):  # ranges are for ever: of a few rows they would spoil every vector
        raise StoreError(f"{missed} of the {len(rows)} rows that int8 ranges are taken from cannot be fetched now")
    if found:
        return Ranges.of(np.concatenate(found))
    ones = np.ones(record.space.dim, np.float32)  # no row of the sample has a vector: what unit vectors may hold
    return Ranges(-ones, ones)
