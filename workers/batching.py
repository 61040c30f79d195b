"""Batching: a shard's items in batches that fit the device, and each item's vector or failure out of them."""

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from schemas.errors import EmbedmillError, WorkerUnfit
from schemas.failures import Failure, FailureCode, Stage, one_line
from schemas.redaction import redact, unquoted
from schemas.spent import Step
from workers.breadcrumb import NoTrail, Place, Trail
from workers.encoder import Features, Length, OutOfMemory
from workers.meter import Meter

#: Batches that are preprocessed ahead of the forward pass.
_AHEAD = 2
#: Items that are measured at a time: the suspects, should the process die of it.
_MEASURED = 1024
_NO_TRAIL = NoTrail()
#: Padded tokens in a batch, until something is known of model and device.
DEFAULT_TOKENS = 2048


class Input(Protocol):
    """What a model is fed, one of a batch."""

    @property
    def kinds(self) -> tuple[str, ...]: ...

    @property
    def texts(self) -> tuple[str, ...]: ...


T = TypeVar("T", bound=Input)
T_contra = TypeVar("T_contra", bound=Input, contravariant=True)


class Model(Protocol[T_contra]):
    """What batches are put through: an Encoder, whose inputs are Loaded, or a PairScorer, whose are LoadedPairs."""

    dim: int

    def lengths(self, items: Sequence[T_contra]) -> list[Length]: ...

    def preprocess(self, items: Sequence[T_contra]) -> Features: ...

    def forward(self, features: Features) -> np.ndarray: ...


class Cancelled(EmbedmillError):
    """Nobody wants the shard any more: the job was cancelled, or another worker has it."""


@dataclass(slots=True)
class TokenBudget:
    """Padded tokens that a batch may hold; it shrinks when the device runs out of memory, and stays so."""

    tokens: int
    on_shrink: Callable[[int], None] = lambda tokens: None  # told of what it has shrunk to

    def shrink_below(self, tokens: int) -> None:
        """Remember that a batch of so many padded tokens was too much."""
        self.tokens = max(1, min(self.tokens, tokens // 2))
        self.on_shrink(self.tokens)


def fill_batches(lengths: Sequence[int], *, budget: int, max_items: int) -> list[list[int]]:
    """Indices in batches, the longest first, so that items x longest stays within `budget` and items in `max_items`.

    An item that is over the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or len(batches[-1]) >= max_items or (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
            longest = max(1, lengths[index])
        batches[-1].append(index)
    return batches


def measure(encoder: Model[T], items: Sequence[T], trail: Trail = _NO_TRAIL, place: Place = Place.MAIN) -> list[Length]:
    """The items' lengths; one that the model cannot measure counts one token, and fails when it is preprocessed."""
    lengths: list[Length] = []
    for start in range(0, len(items), _MEASURED):
        some = items[start : start + _MEASURED]
        with trail.at(place, range(start, start + len(some))):
            lengths += _lengths_of(encoder, some) or [(_lengths_of(encoder, [item]) or [Length(1)])[0] for item in some]
    return lengths


def encode_batches(
    encoder: Model[T],
    items: Sequence[T],
    *,
    budget: TokenBudget,
    max_items: int,
    should_stop: Callable[[], bool] = lambda: False,
    lengths: Sequence[Length] | None = None,
    trail: Trail = _NO_TRAIL,
    scores: bool = False,
    meter: Meter | None = None,
) -> list[np.ndarray | Failure]:
    """A float32 (dim,) vector or a failure for each item, in the items' order.

    A batch holds items with the same kinds of parts. `lengths` are those of `measure`, where they are known already;
    `trail` is told of each batch before it is preprocessed, and before it goes through the model. Of `scores` zero is
    as good as any.
    Raises Cancelled between two batches once `should_stop()` is true.
    """
    lengths = measure(encoder, items, trail) if lengths is None else lengths
    with ThreadPoolExecutor(1, thread_name_prefix="preprocess") as pool:
        told = (budget, max_items, should_stop, pool, trail, scores, meter or Meter())
        return _Encoding(encoder, items, lengths, *told).run()


def begin_batches(
    encoder: Model[T],
    items: Sequence[T],
    *,
    pool: ThreadPoolExecutor,
    lengths: Sequence[Length],
    budget: TokenBudget,
    max_items: int,
    should_stop: Callable[[], bool],
    trail: Trail,
    meter: Meter,
) -> Callable[[], list[np.ndarray | Failure]]:
    """The rest of an `encode_batches` whose first batches are preprocessed by `pool` from now on.

    The pool has one thread, which measures and preprocesses for all that share it.
    """
    return _Encoding(encoder, items, lengths, budget, max_items, should_stop, pool, trail, False, meter).run


@contextlib.contextmanager
def metered(encoder: object, meter: Meter) -> Iterator[None]:
    """A forward pass: what the encoder says that it spent on copies is theirs, the rest the device's."""
    copied, started = getattr(encoder, "copy_s", 0.0), time.monotonic()  # those on a processor copy nothing
    try:
        yield
    finally:
        copied = getattr(encoder, "copy_s", 0.0) - copied
        meter.add(Step.COPY, copied)
        meter.add(Step.DEVICE, time.monotonic() - started - copied)


def _lengths_of(encoder: Model[T], items: Sequence[T]) -> list[Length] | None:
    try:
        return encoder.lengths(items)
    except WorkerUnfit:
        raise
    except Exception:  # noqa: BLE001  # recorded for its row by _preprocess, which meets it again
        return None


@dataclass(frozen=True, slots=True)
class _Error:
    """What went wrong with a batch, without the exception: its traceback would hold the device's memory."""

    code: FailureCode
    message: str

    def failure(self, item: Input) -> Failure:
        """The failure of `item`, whose texts a library may have quoted."""
        stage = Stage.PREPROCESS if self.code is FailureCode.PREPROCESS_FAILED else Stage.FORWARD
        return Failure(code=self.code, stage=stage, message=unquoted(redact(self.message), item.texts))


class _Encoding(Generic[T]):
    """One call of `encode_batches`: what is to be done, what is prepared, and what has come of it."""

    def __init__(
        self,
        encoder: Model[T],
        items: Sequence[T],
        lengths: Sequence[Length],
        budget: TokenBudget,
        max_items: int,
        should_stop: Callable[[], bool],
        pool: ThreadPoolExecutor,
        trail: Trail,
        scores: bool,
        meter: Meter,
    ) -> None:
        self._bad_rows = _bad_scores if scores else _bad_rows
        self._encoder, self._items, self._budget, self._max_items = encoder, items, budget, max_items
        self._should_stop, self._pool, self._trail, self._meter = should_stop, pool, trail, meter
        self._lengths = [length.padded for length in lengths]
        self._todo: deque[list[int]] = deque()
        self._ahead: deque[tuple[list[int], Future[Features | _Error]]] = deque()
        self._outcomes: list[np.ndarray | Failure | None] = [None] * len(items)
        self._todo.extend(self._within_budget(range(len(items))))
        self._prepare_ahead()

    def run(self) -> list[np.ndarray | Failure]:
        try:
            for batch, features in self._prepared():
                if self._should_stop():
                    raise Cancelled("the shard was given up between two batches")
                self._settle(batch, features if isinstance(features, _Error) else self._forward(batch, features))
        finally:
            for _, future in self._ahead:
                future.cancel()
        assert all(outcome is not None for outcome in self._outcomes)
        return [outcome for outcome in self._outcomes if outcome is not None]

    def _within_budget(self, indices: Sequence[int]) -> Iterator[list[int]]:
        alike = defaultdict(list)
        for index in indices:
            alike[self._items[index].kinds].append(index)
        for group in alike.values():
            lengths = [self._lengths[i] for i in group]
            for batch in fill_batches(lengths, budget=self._budget.tokens, max_items=self._max_items):
                yield [group[at] for at in batch]

    def _prepared(self) -> Iterator[tuple[list[int], Features | _Error]]:
        """The batches with their features, in order; the next ones are preprocessed meanwhile."""
        while self._ahead:
            batch, future = self._ahead.popleft()
            with self._meter.while_in(Step.INPUT_WAIT):
                features = future.result()
            self._prepare_ahead()
            yield batch, features
            self._prepare_ahead()  # a batch that failed is to be done again, in parts

    def _prepare_ahead(self) -> None:
        while self._todo and len(self._ahead) < _AHEAD:
            batch = self._todo.popleft()
            self._ahead.append((batch, self._pool.submit(self._preprocess, batch)))

    def _preprocess(self, batch: list[int]) -> Features | _Error:
        try:
            with self._trail.at(Place.AHEAD, batch), self._meter.while_in(Step.PREPROCESS):
                return self._encoder.preprocess([self._items[i] for i in batch])
        except WorkerUnfit:
            raise
        except MemoryError:
            return _Error(FailureCode.TOO_LARGE, "there is no memory to prepare this row, even alone")
        except Exception as err:  # noqa: BLE001  # the row loop: recorded, then bisected
            return _Error(FailureCode.PREPROCESS_FAILED, one_line(f"{type(err).__name__}: {err}"))

    def _forward(self, batch: list[int], features: Features) -> np.ndarray | _Error:
        try:
            with self._trail.at(Place.MAIN, batch), metered(self._encoder, self._meter):
                result = self._encoder.forward(features)
            lengths = [self._lengths[i] for i in batch]
            self._meter.count(items=len(batch), tokens=sum(lengths), padded=len(batch) * max(lengths))
            return result
        except WorkerUnfit:
            raise
        except (OutOfMemory, MemoryError):
            return _Error(FailureCode.TOO_LARGE, "the device has no memory for this row, even alone")
        except Exception as err:  # noqa: BLE001  # the row loop: recorded, then bisected
            return _Error(FailureCode.FORWARD_FAILED, one_line(f"{type(err).__name__}: {err}"))

    def _settle(self, batch: list[int], result: np.ndarray | _Error) -> None:
        if isinstance(result, _Error):
            self._recover(batch, result)
            return
        bad = self._bad_rows(result, len(batch), self._encoder.dim)
        for at, index in enumerate(batch):
            if at not in bad:
                self._outcomes[index] = result[at]
            elif len(batch) == 1:
                self._outcomes[index] = bad[at]
            else:
                self._todo.appendleft([index])  # alone, to see whose fault it is

    def _recover(self, batch: list[int], error: _Error) -> None:
        """Split the batch, or, of one item, record its failure."""
        if len(batch) == 1:
            self._outcomes[batch[0]] = error.failure(self._items[batch[0]])
            return
        if error.code is FailureCode.TOO_LARGE:
            self._budget.shrink_below(len(batch) * max(self._lengths[i] for i in batch))
            self._todo = deque(part for waiting in self._todo for part in self._within_budget(waiting))
        middle = len(batch) // 2
        self._todo.extendleft([batch[middle:], batch[:middle]])


def _bad_rows(vectors: np.ndarray, count: int, dim: int) -> dict[int, Failure]:
    """The rows of a result that are no vectors of the space, each with its failure."""
    if vectors.shape != (count, dim) or vectors.dtype != np.float32:
        said = f"the model gave {vectors.dtype} {vectors.shape} for {count} rows of {dim} dimensions"
        return dict.fromkeys(range(count), _check_failure(FailureCode.VECTOR_SHAPE, said))
    not_finite = _check_failure(FailureCode.VECTOR_NOT_FINITE, "the vector holds NaN or infinity, even alone")
    zero = _check_failure(FailureCode.VECTOR_ZERO, "the vector is zero in all dimensions, even alone")
    bad = {int(at): not_finite for at in np.flatnonzero(~np.isfinite(vectors).all(axis=1))}
    return bad | {int(at): zero for at in np.flatnonzero(~vectors.any(axis=1))}


def _bad_scores(scores: np.ndarray, count: int, dim: int) -> dict[int, Failure]:
    """The rows of a result that are no scores, each with its failure."""
    if scores.shape != (count, dim) or scores.dtype != np.float32:
        said = f"the model gave {scores.dtype} {scores.shape} for {count} pairs"
        return dict.fromkeys(range(count), _check_failure(FailureCode.VECTOR_SHAPE, said))
    not_finite = _check_failure(FailureCode.SCORE_NOT_FINITE, "the score is NaN or infinity, even alone")
    return {int(at): not_finite for at in np.flatnonzero(~np.isfinite(scores).all(axis=1))}


def _check_failure(code: FailureCode, message: str) -> Failure:
    return Failure(code=code, stage=Stage.CHECK, message=message)
