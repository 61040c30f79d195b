"""Calibration: the ranges of a job's int8 vectors, taken from a sample of its rows and frozen by whoever is first."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from schemas.failures import Failure
from schemas.settings import Settings
from storage import layout
from storage.sample import read_sample
from workers.embedding import embed_rows
from workers.quantising import Ranges

if TYPE_CHECKING:
    from workers.runtime import OpenJob


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
    found = [o.vectors for o in embed_rows(job, rows, settings, lambda: False) if not isinstance(o, Failure)]
    if found:
        return Ranges.of(np.concatenate(found))
    ones = np.ones(record.space.dim, np.float32)  # no row of the sample has a vector: what unit vectors may hold
    return Ranges(-ones, ones)
