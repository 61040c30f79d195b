"""How items are put into batches, and what becomes of those that go wrong."""

import math
import random
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from schemas.errors import WorkerUnfit
from schemas.failures import MESSAGE_LIMIT, Failure, FailureCode, Stage
from schemas.recipe import Recipe
from workers.batching import Cancelled, TokenBudget, encode_batches, fill_batches
from workers.encoder import Length, OutOfMemory
from workers.loading import Loaded

DIM = 4


class ScriptedEncoder:
    """An encoder that goes wrong as told: `fails` maps an item's text to what happens to any batch that holds it."""

    def __init__(self, fails: dict[str, str] | None = None, *, memory: int = 10**9) -> None:
        self.dim = DIM
        self.fails = fails or {}
        self.memory = memory  # padded tokens that a forward pass has memory for
        self.preprocessed: list[list[str]] = []
        self.forwarded: list[list[str]] = []
        self.threads: dict[str, set[int]] = {"lengths": set(), "preprocess": set(), "forward": set()}
        self.on_forward: Callable[[list[str]], None] = lambda texts: None

    def told(self, recipe: Recipe) -> "ScriptedEncoder":
        return self

    def lengths(self, items: Sequence[Loaded]) -> list[Length]:
        self.threads["lengths"].add(threading.get_ident())
        texts = [item.text or "" for item in items]
        self._raise(texts, "lengths", ValueError)
        return [Length(len(text)) for text in texts]

    def preprocess(self, items: Sequence[Loaded]) -> list[str]:
        self.threads["preprocess"].add(threading.get_ident())
        texts = [item.text or "" for item in items]
        self.preprocessed.append(texts)
        self._raise(texts, "unfit before", WorkerUnfit)
        self._raise(texts, "preprocess", ValueError)
        self._raise(texts, "exit before", SystemExit)
        return texts

    def forward(self, features: list[str]) -> np.ndarray:
        self.threads["forward"].add(threading.get_ident())
        self.forwarded.append(features)
        self.on_forward(features)
        self._raise(features, "unfit", WorkerUnfit)
        self._raise(features, "interrupt", KeyboardInterrupt)
        self._raise(features, "forward", RuntimeError)
        if len(features) * max(map(len, features)) > self.memory:
            raise OutOfMemory("scripted")
        if any(self.fails.get(text) == "shape" for text in features):
            return np.ones((len(features), DIM + 1), np.float32)
        rows = np.stack([vector(text) for text in features])
        for at, text in enumerate(features):
            rows[at] *= {"nan": np.nan, "zero": 0.0}.get(self.fails.get(text, ""), 1.0)
            if self.fails.get(text) == "nan among others" and len(features) > 1:
                rows[at, 1] = np.inf
        return rows

    @property
    def passes(self) -> int:
        return len(self.forwarded)

    def _raise(self, texts: list[str], when: str, error: type[BaseException]) -> None:
        for text in texts:
            if self.fails.get(text) == when:
                raise error(f"scripted\n{when}" + "!" * 1000)


def vector(text: str) -> np.ndarray:
    """The vector that the scripted encoder gives a text."""
    return np.random.default_rng(sum(text.encode()) * 1000 + len(text)).normal(size=DIM).astype(np.float32)


def texts(count: int, *, seed: int = 0) -> list[str]:
    """Different texts of 1 to 60 characters."""
    rng = random.Random(seed)
    return [f"{n}" + "x" * rng.randint(0, 57) for n in range(count)]


def items_of(words: list[str]) -> list[Loaded]:
    return [Loaded(text=word) for word in words]


def encode(
    encoder: ScriptedEncoder, words: list[str], *, tokens: int = 512, max_items: int = 64
) -> list[np.ndarray | Failure]:
    return encode_batches(encoder, items_of(words), budget=TokenBudget(tokens), max_items=max_items)


def assert_good(words: list[str], outcomes: list[np.ndarray | Failure], *, but: Sequence[str] = ()) -> None:
    """Each word has its own vector, except `but`."""
    assert len(outcomes) == len(words)
    for word, outcome in zip(words, outcomes, strict=True):
        if word not in but:
            assert not isinstance(outcome, Failure), (word, outcome)
            np.testing.assert_array_equal(outcome, vector(word))


def failure_of(words: list[str], outcomes: list[np.ndarray | Failure], word: str) -> Failure:
    outcome = outcomes[words.index(word)]
    assert isinstance(outcome, Failure)
    return outcome


@pytest.mark.parametrize("seed", range(20))
def test_batches_hold_each_item_once_within_their_limits(seed: int) -> None:
    """Every index is in one batch; no batch is over the budget or the number of items, unless it is one item."""
    rng = random.Random(seed)
    lengths = [rng.randint(0, 300) for _ in range(rng.randint(0, 200))]

    batches = fill_batches(lengths, budget=400, max_items=7)

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= 7
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 400


def test_the_longest_come_first() -> None:
    """Out of memory shows at once, and padding is little, because lengths fall from batch to batch."""
    batches = fill_batches([3, 9, 1, 9, 5, 2], budget=18, max_items=10)

    assert batches == [[1, 3], [4, 0, 5], [2]]


def test_no_items_are_no_batches() -> None:
    """Nothing to do is done at once, without a call of the model."""
    encoder = ScriptedEncoder()

    outcomes = encode(encoder, [])

    assert (outcomes, fill_batches([], budget=1, max_items=1), encoder.passes) == ([], [], 0)


def test_vectors_come_in_the_items_order() -> None:
    """Whatever the batches, each item has its own vector at its own place."""
    words = texts(300)

    outcomes = encode(ScriptedEncoder(), words)

    assert_good(words, outcomes)


def test_equal_items_each_have_a_vector() -> None:
    """Items are told apart by their place, not by their content."""
    words = ["same"] * 50

    outcomes = encode(ScriptedEncoder(), words, tokens=40)

    assert_good(words, outcomes)


def test_one_thread_preprocesses_and_the_caller_computes() -> None:
    """Tokenizers are not safe to share: what is measured before is preprocessed by one thread; the model has ours."""
    encoder = ScriptedEncoder()

    encode(encoder, texts(100))

    assert len(encoder.threads["preprocess"]) == 1
    assert encoder.threads["forward"] == {threading.get_ident()}


def test_the_next_two_batches_are_preprocessed_during_a_forward_pass() -> None:
    """The device never waits for preprocessing that could have been done before."""
    encoder = ScriptedEncoder()
    third = threading.Event()
    preprocess = encoder.preprocess

    def watched(items: Sequence[Loaded]) -> list[str]:
        if len(encoder.preprocessed) == 2:
            third.set()
        return preprocess(items)

    encoder.preprocess = watched  # type: ignore[method-assign]  # it only looks on
    seen: list[bool] = []
    encoder.on_forward = lambda _: seen.append(third.wait(20))

    encode(encoder, ["abcd"] * 4, tokens=4)

    assert seen[0]


@pytest.mark.parametrize("place", [0, 1, 17, 31])
@pytest.mark.parametrize(
    ("fault", "code", "stage"),
    [
        ("preprocess", FailureCode.PREPROCESS_FAILED, Stage.PREPROCESS),
        ("forward", FailureCode.FORWARD_FAILED, Stage.FORWARD),
    ],
)
def test_an_error_costs_one_row(fault: str, code: FailureCode, stage: Stage, place: int) -> None:
    """The row whose batch raises is found by halving; every other row of the batch has its vector."""
    words = [f"{n:04}" for n in range(32)]
    encoder = ScriptedEncoder({words[place]: fault})

    outcomes = encode(encoder, words)

    assert_good(words, outcomes, but=[words[place]])
    failure = failure_of(words, outcomes, words[place])
    assert (failure.code, failure.stage) == (code, stage)
    assert "\n" not in failure.message
    assert len(failure.message) <= MESSAGE_LIMIT
    assert failure.message.startswith(("ValueError: scripted", "RuntimeError: scripted"))


@pytest.mark.parametrize("count", [2, 3, 16, 33, 64])
@pytest.mark.parametrize("fault", ["preprocess", "forward", "nan", "zero"])
def test_a_bad_row_costs_few_passes(fault: str, count: int) -> None:
    """Finding one bad row among n takes at most 2 * ceil(log2(n)) + 2 passes more."""
    words = [f"{n:04}" for n in range(count)]

    for bad in words:
        encoder = ScriptedEncoder({bad: fault})
        encode(encoder, words)

        assert len(encoder.preprocessed) - 1 <= 2 * math.ceil(math.log2(count)) + 2


def test_many_bad_rows_are_each_found() -> None:
    """Rows that fail in different ways, in the same batch, fail with their own codes."""
    words = texts(200)
    faults = ("preprocess", "forward", "nan", "zero")
    fails = {word: faults[n % 4] for n, word in enumerate(words[::9])}

    outcomes = encode(ScriptedEncoder(fails), words)

    assert_good(words, outcomes, but=list(fails))
    codes = [FailureCode.PREPROCESS_FAILED, FailureCode.FORWARD_FAILED]
    codes += [FailureCode.VECTOR_NOT_FINITE, FailureCode.VECTOR_ZERO]
    for word, fault in fails.items():
        assert failure_of(words, outcomes, word).code is codes[faults.index(fault)]


@pytest.mark.parametrize(("fault", "code"), [("nan", FailureCode.VECTOR_NOT_FINITE), ("zero", FailureCode.VECTOR_ZERO)])
def test_a_vector_that_is_none_is_a_failure(fault: str, code: FailureCode) -> None:
    """NaN and zero vectors are not published; the rows beside them are."""
    words = ["aa", "bb", "cc"]

    outcomes = encode(ScriptedEncoder({"bb": fault}), words)

    assert_good(words, outcomes, but=["bb"])
    failure = failure_of(words, outcomes, "bb")
    assert (failure.code, failure.stage) == (code, Stage.CHECK)


def test_a_row_that_is_bad_only_among_others_has_its_vector() -> None:
    """A row whose vector is infinite in a batch is tried again alone."""
    words = ["aa", "bb", "cc"]

    outcomes = encode(ScriptedEncoder({"bb": "nan among others"}), words)

    assert_good(words, outcomes)


def test_a_wrong_shape_is_a_failure() -> None:
    """Vectors of another dimension than the space's are never handed on."""
    words = ["aa", "bb"]

    outcomes = encode(ScriptedEncoder({"bb": "shape"}), words)

    assert_good(words, outcomes, but=["bb"])
    assert failure_of(words, outcomes, "bb").code is FailureCode.VECTOR_SHAPE


def test_an_item_that_cannot_be_measured_costs_one_row() -> None:
    """Where the model cannot tell one item's length the others are batched by theirs."""
    words = texts(100)
    encoder = ScriptedEncoder({words[7]: "lengths"})

    outcomes = encode(encoder, words)

    assert_good(words, outcomes)
    largest = max(encoder.forwarded, key=len)
    assert len(largest) * max(map(len, largest[:1])) <= 512


def test_out_of_memory_halves_and_is_remembered() -> None:
    """Batches shrink until they fit, and those of the next shard fit at once."""
    words = texts(200)
    budget = TokenBudget(4096)
    encoder = ScriptedEncoder(memory=300)

    outcomes = encode_batches(encoder, items_of(words), budget=budget, max_items=64)
    first = encoder.passes
    again = encode_batches(encoder, items_of(words), budget=budget, max_items=64)

    assert_good(words, outcomes)
    assert_good(words, again)
    assert budget.tokens <= 300
    assert encoder.passes - first == len(fill_batches([len(w) for w in words], budget=budget.tokens, max_items=64))


def test_an_item_too_large_even_alone_is_a_failure() -> None:
    """It fails with its own code, and does not shrink the batches of others to nothing."""
    words = ["x" * 100, *(f"{n:03}" for n in range(40))]
    budget = TokenBudget(512)

    outcomes = encode_batches(ScriptedEncoder(memory=60), items_of(words), budget=budget, max_items=64)

    assert_good(words, outcomes, but=[words[0]])
    failure = failure_of(words, outcomes, words[0])
    assert (failure.code, failure.stage) == (FailureCode.TOO_LARGE, Stage.FORWARD)
    assert budget.tokens >= 12


def test_recovery_holds_no_exception() -> None:
    """While a batch is done again in parts the error's traceback, and the tensors it holds, are gone."""
    import gc
    import weakref

    class Tensor:
        """Stands for a batch on the device; only the failed pass's frame knows it."""

    alive: list[weakref.ref[Tensor]] = []
    held: list[bool] = []
    encoder = ScriptedEncoder()

    def forward(texts: list[str]) -> None:
        held.extend(ref() is not None for ref in alive)
        tensor = Tensor()
        alive.append(weakref.ref(tensor))
        if len(texts) > 1:
            raise RuntimeError("scripted")

    encoder.on_forward = forward
    gc.disable()
    try:
        encode(encoder, ["aa", "bb", "cc", "dd"])
    finally:
        gc.enable()

    assert held
    assert not any(held)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("unfit", WorkerUnfit),
        ("unfit before", WorkerUnfit),
        ("interrupt", KeyboardInterrupt),
        ("exit before", SystemExit),
    ],
)
def test_what_ends_the_worker_is_no_failure_of_a_row(fault: str, error: type[BaseException]) -> None:
    """An unfit worker, an interrupt and an exit end the call, from either thread."""
    words = texts(100)

    with pytest.raises(error):
        encode(ScriptedEncoder({words[50]: fault}), words)


def test_it_stops_between_batches_when_told() -> None:
    """A shard that nobody wants any more is left before the next forward pass."""
    encoder = ScriptedEncoder()

    with pytest.raises(Cancelled):
        encode_batches(
            encoder,
            items_of(texts(100)),
            budget=TokenBudget(64),
            max_items=64,
            should_stop=lambda: encoder.passes == 2,
        )

    assert encoder.passes == 2
