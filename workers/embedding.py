"""Embedding: a shard's rows become vectors; loaded, batched, encoded, and put together again row by row."""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from schemas.failures import Failure
from schemas.recipe import QUANTISED, Recipe
from schemas.rows import ManifestRow
from schemas.settings import Settings
from schemas.sizes import CPU
from schemas.spent import Step
from workers.ahead import ahead
from workers.batching import Cancelled, begin_batches, measure
from workers.breadcrumb import NoTrail, Place, Trail
from workers.encoder import Encoder, Length
from workers.loading import IsKnown, Loaded, MediaLoader, Segment, Segments, load_all, nothing_known
from workers.quantising import finished, overflows, pooled

if TYPE_CHECKING:
    from workers.runtime import OpenJob

#: Bytes of media, or rows, that are held decoded in front of the device at a time.
_CHUNK_BYTES = 64_000_000
_CHUNK_ROWS = 16_384
_CHUNK_MEDIA = 64  # of like length: more of them would make no better batches
#: Chunks that are loaded, or being so, beside the one that the device is at.
_AHEAD = 2


#: The trail of inputs, given the index of each one's row.
TrailOf = Callable[[Sequence[int]], Trail]


def no_trail(rows: Sequence[int]) -> Trail:
    """A trail that notes nothing."""
    return NoTrail()


class Origin(StrEnum):
    """Where a row's vectors come from."""

    COMPUTED = "computed"
    EQUAL = "equal"  # another row of the shard has the same content, and the vectors were computed for that one
    REUSED = "reused"  # an earlier job has them


@dataclass(frozen=True, slots=True)
class Embedded:
    """One row's vectors: one, or one for each of its segments."""

    vectors: np.ndarray  # float32 (segments, dim), as the recipe says
    usage: list[dict[str, float]]  # of each segment: how much of the row the model saw
    content: bytes = b""  # the row's content hash
    origin: Origin = Origin.COMPUTED

    @property
    def is_elsewhere(self) -> bool:
        """Whether it only says which content it is of: the vectors come with another row, or from an earlier job."""
        return not len(self.vectors)


def as_equal(outcome: Embedded | Failure) -> Embedded | Failure:
    """The outcome of a row for another one of the same content."""
    if isinstance(outcome, Failure) or outcome.origin is Origin.REUSED:
        return outcome
    return replace(outcome, origin=Origin.EQUAL)


def embed_rows(
    job: "OpenJob",
    rows: list[ManifestRow],
    settings: Settings,
    should_stop: Callable[[], bool],
    trail_of: TrailOf = no_trail,
    is_known: IsKnown = nothing_known,
) -> Iterator[Embedded | Failure]:
    """The vectors of each row, or why it has none, in order; decoded media are held a chunk at a time.

    Where `is_known` says so of a row's content, its vectors are elsewhere.
    Raises Cancelled soon after `should_stop()` is true: between two batches, or two rows that are loaded.
    """
    encoder, left = job.encoder(), threading.Event()
    if isinstance(job.loader, MediaLoader):
        job.loader.shrink = getattr(encoder, "shrink", None)
    with ThreadPoolExecutor(1, thread_name_prefix="preprocess") as pool:
        work = _Work(job, encoder, settings, lambda: left.is_set() or should_stop(), trail_of, is_known, pool)
        begun = ahead(work.begun(rows), _AHEAD)
        try:
            for chunk in job.meter.through(Step.INPUT_WAIT, begun):
                yield from chunk.finished(job.job.record.space.recipe)
                del chunk  # or it is held, decoded, while the next one is waited for
        finally:
            left.set()  # whatever ended this ends what is ahead of it
            begun.close()
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Begun:
    """Rows that are loaded, measured, and whose first batches are being prepared."""

    rows: list[Segments | Failure]
    lengths: list[Length]
    rest: Callable[[], list[np.ndarray | Failure]]  # puts them through the model

    def finished(self, recipe: Recipe) -> Iterator[Embedded | Failure]:
        results = iter(zip(self.rest(), self.lengths, strict=True))
        for row in self.rows:
            yield row if isinstance(row, Failure) else _row_of(row, results, recipe)


@dataclass(frozen=True, slots=True)
class _Work:
    """What is done ahead of the device, in a thread of its own: the next chunk is ready before the last one ends."""

    job: "OpenJob"
    encoder: Encoder
    settings: Settings
    should_stop: Callable[[], bool]
    trail_of: TrailOf
    is_known: IsKnown
    pool: ThreadPoolExecutor  # of one thread: tokenizers are not safe to share

    def begun(self, rows: list[ManifestRow]) -> Generator[_Begun, None, None]:
        loaded = load_all(self.job.loader, rows, self.settings.load_threads, self.is_known)
        done = 0
        for chunk in _chunks(_unless(self.should_stop, loaded), _media_at_a_time(self.settings)):
            owners = [done + at for at, row in enumerate(chunk) for _ in _inputs_of(row)]
            done += len(chunk)
            yield self._begun(chunk, self.trail_of(owners))
            del chunk

    def _begun(self, chunk: list[Segments | Failure], trail: Trail) -> _Begun:
        inputs = [item for row in chunk for item in _inputs_of(row)]
        lengths = self.pool.submit(self._measured, inputs, trail).result()
        rest = begin_batches(
            self.encoder,
            inputs,
            pool=self.pool,
            lengths=lengths,
            budget=self.job.budget,
            max_items=_most_items(self.job.job.record.space.recipe, self.settings),
            should_stop=self.should_stop,
            trail=trail,
            meter=self.job.meter,
        )
        return _Begun(chunk, lengths, rest)

    def _measured(self, inputs: list[Loaded], trail: Trail) -> list[Length]:
        with self.job.meter.while_in(Step.PREPROCESS):
            return measure(self.encoder, inputs, trail, Place.AHEAD)


def _media_at_a_time(settings: Settings) -> int:
    """A batch's worth and more, and no longer: the device waits for the first ones."""
    return _CHUNK_MEDIA if settings.device == CPU else max(_CHUNK_MEDIA, settings.batch_items)


def _unless(
    should_stop: Callable[[], bool], loaded: Generator[tuple[int, Segments | Failure], None, None]
) -> Iterator[Segments | Failure]:
    with contextlib.closing(loaded):
        for _, row in loaded:
            if should_stop():
                raise Cancelled("the shard was given up while its rows were loaded")
            yield row


def _inputs_of(row: Segments | Failure) -> list[Loaded]:
    return [] if isinstance(row, Failure) else [item for segment in row for item in segment.inputs]


def _most_items(recipe: Recipe, settings: Settings) -> int:
    """A level or a bit must not depend on a row's batch, whose shape changes a float's last bits: one row at a time.

    On a processor that costs little. On a GPU it would cost most of its speed: there a level may differ by one.
    """
    alone = settings.device == "cpu" and QUANTISED & set(recipe.outputs)
    return 1 if alone else settings.batch_items


def _row_of(
    segments: Segments, results: Iterator[tuple[np.ndarray | Failure, Length]], recipe: Recipe
) -> Embedded | Failure:
    """Take one row's results from the iterator, all of them, and put them together; the first failure is the row's."""
    content = segments[0].content
    if not segments[0].inputs:
        return Embedded(np.empty((0, 0), np.float32), [], content)
    vectors: list[np.ndarray] = []
    usage: list[dict[str, float]] = []
    failure: Failure | None = None
    for segment in segments:
        taken = [next(results) for _ in segment.inputs]
        vector = _vector_of([vector for vector, _ in taken], recipe)
        if isinstance(vector, Failure):
            failure = failure or vector
        else:
            vectors.append(vector)
            usage.append(_usage_of(segment, taken[0][1]))
    if failure is not None:
        return failure
    return Embedded(vectors[0][None] if len(vectors) == 1 else np.stack(vectors), usage, content)


def _vector_of(parts: list[np.ndarray | Failure], recipe: Recipe) -> np.ndarray | Failure:
    vectors = []
    for part in parts:
        if isinstance(part, Failure):
            return part
        vectors.append(part)
    vector = finished(vectors[0] if len(vectors) == 1 else pooled(np.stack(vectors)), recipe)
    return vector if isinstance(vector, Failure) else overflows(vector, recipe) or vector


def _usage_of(segment: Segment, length: Length) -> dict[str, float]:
    told = dict(segment.usage)
    if segment.start_s is not None and segment.end_s is not None:
        told |= {"start_s": round(segment.start_s, 6), "end_s": round(segment.end_s, 6)}
    if length.tokens_in is not None and length.tokens_used is not None:
        told |= {"tokens_in": length.tokens_in, "tokens_used": length.tokens_used}
    return told


def _chunks(loaded: Iterator[Segments | Failure], media_at_a_time: int) -> Iterator[list[Segments | Failure]]:
    chunk: list[Segments | Failure] = []
    size = media = 0
    for row in loaded:
        chunk.append(row)
        sizes = [item.nbytes for item in _inputs_of(row)]
        size, media = size + sum(sizes), media + sum(map(bool, sizes))
        if size >= _CHUNK_BYTES or media >= media_at_a_time or len(chunk) >= _CHUNK_ROWS:
            yield chunk
            chunk, size, media = [], 0, 0
    if chunk:
        yield chunk
