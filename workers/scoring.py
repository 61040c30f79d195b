"""Scoring: a shard's pairs become scores; loaded, batched, scored, and put back in their order."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np

from schemas.failures import Failure
from schemas.rerank import JOIN_SCORE
from schemas.rows import PairRow
from schemas.settings import Settings
from schemas.spent import Step
from storage.scores import in_band
from workers.batching import Cancelled, encode_batches, measure
from workers.embedding import Embedded, TrailOf, no_trail
from workers.pair_loading import load_pairs
from workers.pair_scorer import LoadedPair

if TYPE_CHECKING:
    from workers.runtime import OpenJob

#: Bytes of media that pairs in front of the device hold decoded at a time, and as much again of each side.
_CHUNK_BYTES = 96_000_000
_CHUNK_PAIRS = 16_384

#: What a pair has that keeps its place in the join.
UNSCORED = Embedded(np.full((1, 1), np.nan, np.float32), [{}])

Loaded = tuple[int, LoadedPair | Failure]


def score_pairs(
    job: "OpenJob",
    pairs: list[PairRow],
    settings: Settings,
    should_stop: Callable[[], bool],
    trail_of: TrailOf = no_trail,
) -> Iterator[Embedded | Failure]:
    """The score of each pair, as a vector of one dimension, or why it has none, in order.

    Raises Cancelled soon after `should_stop()` is true: between two batches, or two pairs that are loaded.
    """
    wanted = _to_be_scored(job, pairs)
    outcomes: dict[int, Embedded | Failure] = dict.fromkeys(set(range(len(pairs))) - set(wanted), UNSCORED)
    loaded = load_pairs(job.loader, [pairs[at] for at in wanted], threads=settings.load_threads, limit=_CHUNK_BYTES)
    coming = _chunks((wanted[at], pair) for at, pair in _unless(should_stop, loaded))
    for chunk in job.meter.through(Step.INPUT_WAIT, coming):
        outcomes |= _score_chunk(job, chunk, settings, should_stop, trail_of)
        del chunk  # or it is held, decoded, while the next one fills
    return (outcomes[at] for at in range(len(pairs)))


def _to_be_scored(job: "OpenJob", pairs: list[PairRow]) -> list[int]:
    """The pairs that the model is to see: all, or those whose join score is within the band."""
    spec = job.job.record.spec
    band = spec.rerank.band if spec.rerank else None
    if band is None:
        return list(range(len(pairs)))
    column = [kept.name for kept in spec.keep].index(JOIN_SCORE)
    return [int(at) for at in np.flatnonzero(in_band(np.array([pair.kept[column] for pair in pairs], float), band))]


def _score_chunk(
    job: "OpenJob", chunk: list[Loaded], settings: Settings, should_stop: Callable[[], bool], trail_of: TrailOf
) -> dict[int, Embedded | Failure]:
    failed: dict[int, Embedded | Failure] = {at: pair for at, pair in chunk if isinstance(pair, Failure)}
    inputs = {at: pair for at, pair in chunk if isinstance(pair, LoadedPair)}
    scorer, trail, items = job.scorer(), trail_of(list(inputs)), list(inputs.values())
    with job.meter.while_in(Step.PREPROCESS):
        lengths = measure(scorer, items, trail)
    found = encode_batches(
        scorer,
        items,
        lengths=lengths,
        budget=job.budget,
        max_items=settings.batch_items,
        should_stop=should_stop,
        trail=trail,
        scores=True,
        meter=job.meter,
    )
    scored = (outcome if isinstance(outcome, Failure) else Embedded(outcome.reshape(1, 1), [{}]) for outcome in found)
    return failed | dict(zip(inputs, scored, strict=True))


def _unless(should_stop: Callable[[], bool], loaded: Generator[Loaded, None, None]) -> Iterator[Loaded]:
    with contextlib.closing(loaded):
        for pair in loaded:
            if should_stop():
                raise Cancelled("the shard was given up while its pairs were loaded")
            yield pair


def _chunks(loaded: Iterator[Loaded]) -> Iterator[list[Loaded]]:
    chunk: list[Loaded] = []
    media: set[int] = set()  # that the chunk holds: pairs share them
    size = 0  # bytes
    for at, pair in loaded:
        chunk.append((at, pair))
        for side in (pair.query, pair.item) if isinstance(pair, LoadedPair) else ():
            if side.nbytes and id(side) not in media:
                media.add(id(side))
                size += side.nbytes
        if len(chunk) >= _CHUNK_PAIRS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, media, size = [], set(), 0
    if chunk:
        yield chunk
