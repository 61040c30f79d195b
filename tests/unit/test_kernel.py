"""The join's kernel: the same answer as float64 and brute force, whatever the blocks, threads and ties."""

import itertools

import numpy as np
import pytest
import torch

from schemas.errors import Refused
from schemas.join import Device, Precision
from similarity.engine import Engine, engine_for
from similarity.exact import ExactRows
from similarity.kernel import Block, Pairs, Wanted, join
from similarity.measure import COSINE, Measure
from similarity.scanning import CHUNK, gamma, product_error, scanned

DOT = Measure(unit=False)


def unit(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths > 0, lengths, 1)


def best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row and their scores, ties by column."""
    columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.lexsort((columns, -scores), axis=1)[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def blocks(vectors: np.ndarray, size: int) -> list[Block]:
    return [Block(at, vectors[at : at + size]) for at in range(0, len(vectors), size)]


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    """300 x 3,000 vectors; a third of the right ones are copies, so that ties cross every block's border."""
    rng = np.random.default_rng(7)
    left, right = (rng.normal(size=(n, 48)).astype(np.float32) for n in (300, 3000))
    right[1000:2000] = right[:1000]
    right[2500:] = right[0]
    left[:30] = right[0]
    left[30] = 0
    return left, right


@pytest.mark.parametrize(("size", "threads"), itertools.product([7, 999, 3000], [1, 2]))
def test_the_best_are_those_of_brute_force(sides: tuple[np.ndarray, np.ndarray], size: int, threads: int) -> None:
    """Every row, score and tie as float64 has them, in blocks of any shape."""
    left, right = sides
    order, scores = best((unit(left) @ unit(right).T).astype(np.float32), 10)

    found = join(Block(0, left), blocks(right, size), Wanted(top_k=10), engine=Engine(threads=threads))

    np.testing.assert_array_equal(found.right.reshape(-1, 10), order)
    np.testing.assert_array_equal(found.scores.reshape(-1, 10), scores)
    np.testing.assert_array_equal(found.left, np.repeat(np.arange(300), 10))


@pytest.mark.parametrize("size", [64, 5000])
def test_a_threshold_finds_every_pair_that_reaches_it(sides: tuple[np.ndarray, np.ndarray], size: int) -> None:
    """And none that does not; a pair right at it counts."""
    left, right = sides
    scores = (unit(left) @ unit(right).T).astype(np.float32)
    at = float(np.sort(scores, axis=None)[-5000])

    found = join(Block(0, left), blocks(right, size), Wanted(threshold=at))

    wanted = set(zip(*map(np.ndarray.tolist, np.nonzero(scores >= np.float32(at))), strict=True))
    assert set(zip(found.left.tolist(), found.right.tolist(), strict=True)) == wanted
    assert len(found) == len(wanted)


def test_both_limits_hold_at_once(sides: tuple[np.ndarray, np.ndarray]) -> None:
    """At most three of a row, each of 0.3 and more."""
    left, right = sides
    order, scores = best((unit(left) @ unit(right).T).astype(np.float32), 3)

    found = join(Block(0, left), blocks(right, 500), Wanted(top_k=3, threshold=0.3))

    np.testing.assert_array_equal(found.right, order[scores >= np.float32(0.3)])


def test_a_set_meets_itself(sides: tuple[np.ndarray, np.ndarray]) -> None:
    """Without the rows themselves, or each pair once."""
    _, right = sides
    scores = (unit(right) @ unit(right).T).astype(np.float32)

    once = join(Block(0, right), blocks(right, 700), Wanted(threshold=0.6, after_self=True))
    others = join(Block(0, right), blocks(right, 700), Wanted(top_k=2, not_self=True))

    rows, columns = np.nonzero(np.triu(scores >= np.float32(0.6), k=1))
    assert sorted(zip(once.left.tolist(), once.right.tolist(), strict=True)) == list(
        zip(rows.tolist(), columns.tolist(), strict=True)
    )
    np.fill_diagonal(scores, -2)
    np.testing.assert_array_equal(others.right.reshape(-1, 2), best(scores, 2)[0])


def test_more_are_wanted_than_there_are(sides: tuple[np.ndarray, np.ndarray]) -> None:
    """Then all are found."""
    left, right = sides

    found = join(Block(0, left[:5]), blocks(right[:8], 3), Wanted(top_k=20))

    assert len(found) == 5 * 8


def test_nothing_joined_with_nothing_is_nothing() -> None:
    """Empty sides are no error."""
    some, none = np.ones((2, 4), np.float32), np.zeros((0, 4), np.float32)

    assert len(join(Block(0, none), [Block(0, some)], Wanted(top_k=1))) == 0
    assert len(join(Block(0, some), [Block(0, none)], Wanted(top_k=1))) == 0


def formula(kind: str, c: np.ndarray, left: np.ndarray, right: np.ndarray, times: np.ndarray) -> np.ndarray:
    if kind == "ratio":
        return np.asarray(2 * c / (left[:, None] + right))
    return np.asarray((2 * c + left[:, None] + right) * times[:, None])


@pytest.mark.parametrize("kind", ["sum", "ratio"])
def test_terms_of_rows_count(sides: tuple[np.ndarray, np.ndarray], kind: str) -> None:
    """A measure's terms and means enter the order exactly."""
    left, right = sides
    rng = np.random.default_rng(8)
    a, b, times = rng.uniform(0.3, 0.9, 300), rng.uniform(0.3, 0.9, 3000), rng.uniform(0.5, 2, 300)
    means = unit(left).mean(axis=0), unit(right).mean(axis=0)
    c = unit(unit(left) - means[0]) @ unit(unit(right) - means[1]).T
    order, scores = best(formula(kind, c, a, b, times).astype(np.float32), 5)
    measure = Measure(left_mean=means[0], right_mean=means[1], left_add=a, right_add=b, is_ratio=True)
    if kind == "sum":
        measure = Measure(left_mean=means[0], right_mean=means[1], times=2.0, left_add=a, right_add=b, left_times=times)

    found = join(Block(0, left), blocks(right, 512), Wanted(top_k=5), measure=measure)

    np.testing.assert_array_equal(found.scores.reshape(-1, 5), scores)
    np.testing.assert_array_equal(found.right.reshape(-1, 5), order)


def test_products_of_long_vectors_are_exact_too(sides: tuple[np.ndarray, np.ndarray]) -> None:
    """Dot products of vectors of any length."""
    left, right = (side * np.float32(1000) for side in sides)
    order, _ = best((left.astype(np.float64) @ right.astype(np.float64).T).astype(np.float32), 4)

    found = join(Block(0, left), blocks(right, 256), Wanted(top_k=4), measure=Measure(unit=False))

    np.testing.assert_array_equal(found.right.reshape(-1, 4), order)


def test_a_part_of_the_left_side_keeps_its_numbers(sides: tuple[np.ndarray, np.ndarray]) -> None:
    """A panel's pairs are those that the whole join has of its rows."""
    left, right = sides
    whole = join(Block(0, left), blocks(right, 512), Wanted(top_k=3))

    part = join(Block(100, left[100:150]), blocks(right, 100), Wanted(top_k=3), measure=COSINE)

    mine = (whole.left >= 100) & (whole.left < 150)
    assert_same(part, Pairs(whole.left[mine], whole.right[mine], whole.scores[mine]))


def assert_same(one: Pairs, other: Pairs) -> None:
    for name in ("left", "right", "scores"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("precision", [p for p in Precision if p is not Precision.AUTO])
def test_no_answer_depends_on_the_precision_of_the_scan(precision: Precision) -> None:
    """Neighbours that lie nearer to each other than the scan can tell are told apart, in tiles of any shape."""
    engine = Engine(threads=2, precision=precision, tile_left=64, tile_right=640)
    rng = np.random.default_rng(9)
    left = rng.normal(size=(150, 40)).astype(np.float32)
    near = np.repeat(left, 12, axis=0) + rng.normal(size=(1800, 40)).astype(np.float32) * np.float32(1e-3)
    right = np.concatenate([near, rng.normal(size=(1000, 40)).astype(np.float32)])[rng.permutation(2800)]
    order, scores = best((unit(left) @ unit(right).T).astype(np.float32), 5)

    top = join(Block(0, left), blocks(right, 1500), Wanted(top_k=5), engine=engine)
    above = join(Block(0, left), blocks(right, 1500), Wanted(threshold=0.9999995), engine=engine)

    np.testing.assert_array_equal(top.right.reshape(-1, 5), order)
    np.testing.assert_array_equal(top.scores.reshape(-1, 5), scores)
    assert len(above) == int(((unit(left) @ unit(right).T).astype(np.float32) >= np.float32(0.9999995)).sum()) > 0


@pytest.mark.parametrize("precision", [p for p in Precision if p is not Precision.AUTO])
@pytest.mark.parametrize("dim", [3, 384, 1500])
def test_a_product_is_no_farther_off_than_is_said(precision: Precision, dim: int) -> None:
    """For rows of ones, of one great value and many small ones, of zeros, and of lengths from 1e-30 to 1e30."""
    rng = np.random.default_rng(10)
    some = rng.normal(size=(256, dim)) * 10.0 ** rng.uniform(-30, 30, (256, 1))
    some[:20] = rng.choice([-1.0, 1.0], (20, dim))
    some[20:40, 0] *= 1000
    some[40] = 0
    rows = some.astype(np.float32)
    engine, exact = Engine(precision=precision), ExactRows(rows, None, False)
    left, right = (scanned(exact, 256, dim, group, engine) for group in (1, CHUNK))

    scale = np.outer(left.scale, np.repeat(right.scale, CHUNK))
    found = engine.products(left.values, right.values).double().numpy() * scale

    error = np.abs(found - rows.astype(np.float64) @ rows.astype(np.float64).T)
    bound = np.repeat(product_error(left, right, gamma(precision, dim)), CHUNK, axis=1)
    assert (error <= bound).all()


@pytest.mark.parametrize("precision", [p for p in Precision if p is not Precision.AUTO])
def test_long_vectors_do_not_overflow(precision: Precision) -> None:
    """Products that float32 holds are found although those of others, and their sums, are beyond it."""
    rng = np.random.default_rng(12)
    left = rng.normal(size=(20, 16)).astype(np.float32) * np.float32(1e18)
    right = rng.normal(size=(200, 16)).astype(np.float32) * np.float32(1e18)
    right[100:] *= np.float32(1e-3)
    right[100:, 0], left[:, 0], right[:100, 0] = 3e18, 2e19, -3e19
    with np.errstate(over="ignore"):
        order, scores = best((left.astype(np.float64) @ right.astype(np.float64).T).astype(np.float32), 6)

    found = join(Block(0, left), blocks(right, 70), Wanted(top_k=6), measure=DOT, engine=Engine(precision=precision))

    np.testing.assert_array_equal(found.right.reshape(-1, 6), order)
    np.testing.assert_array_equal(found.scores.reshape(-1, 6), scores)
    with pytest.raises(Refused, match="beyond float32"):
        join(Block(0, left), blocks(-right, 70), Wanted(top_k=6), measure=DOT, engine=Engine(precision=precision))


def test_an_engine_is_what_there_is() -> None:
    """A GPU is refused where there is none; int8 is chosen only where it is exact; torch is left as it was."""
    before = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    chosen = engine_for(Device.CPU, Precision.AUTO, 3)

    with chosen.pool(), Engine(precision=Precision.TF32).pool():
        assert torch.get_num_threads() == 1

    assert (chosen.device, chosen.threads) == ("cpu", 3)
    assert (torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32) == before
    if not torch.cuda.is_available():
        with pytest.raises(Refused, match="--device cuda"):
            engine_for(Device.CUDA, Precision.AUTO, 1)
