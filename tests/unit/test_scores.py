"""Scores: what a threshold by a share of random pairs lets through, and what finding it takes up."""

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import Stopped
from schemas.join import Score
from similarity.dedup_request import DedupRequest, dedup_here
from similarity.join_request import JoinRequest, SideRequest
from similarity.joining import join_here
from similarity.measure import COSINE
from similarity.scores import base_of, threshold_for
from similarity.vectors import VectorSource, open_vectors
from tests.joins import vectors_file


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[VectorSource, VectorSource]:
    """More rows than are drawn, in clusters, with a gap between the two: no normal null distribution. Seed 6."""
    folder, rng = tmp_path_factory.mktemp("sides"), np.random.default_rng(6)
    sources = []
    for name, rows in (("left", 9000), ("right", 7000)):
        vectors = rng.normal(size=(40, 24))[rng.integers(0, 40, rows)] + 0.7 * rng.normal(size=(rows, 24))
        vectors[:, 0] += 2
        ids = [f"{name}{n}" for n in range(rows)]
        sources.append(open_vectors(str(vectors_file(folder / f"{name}.parquet", vectors, ids))))
    return sources[0], sources[1]


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def shuffled_scores(sides: tuple[VectorSource, VectorSource], score: Score) -> np.ndarray:
    """float64 (shuffles, rows): of each right row with a random left row, by the formula. Seed 1."""
    x, y = (unit(side.vectors(0, side.rows).astype(np.float64)) for side in sides)
    rng = np.random.default_rng(1)
    drawn = np.array([rng.permutation(len(x))[: len(y)] for _ in range(40)])
    if score is Score.ZSCORE:
        c = np.array([np.einsum("ij,ij->i", x[rows], y) for rows in drawn])
        means, cov = y.mean(axis=0), np.cov(y.T, bias=True)
        return np.asarray((c - (x @ means)[drawn]) / np.sqrt(np.einsum("ij,jk,ik->i", x, cov, x))[drawn])
    if score is Score.CENTERED:
        x, y = unit(x - x.mean(axis=0)), unit(y - y.mean(axis=0))
    return np.array([np.einsum("ij,ij->i", x[rows], y) for rows in drawn])


@pytest.mark.parametrize("score", [Score.COSINE, Score.CENTERED, Score.ZSCORE])
def test_as_many_shuffled_pairs_pass_as_was_asked_for(sides: tuple[VectorSource, VectorSource], score: Score) -> None:
    """--fpr 0.01, from 4,096 rows of each side: of pairs that nobody drew one in a hundred passes, within the error.

    Pairs share rows, so the error is that of rows: of those that were drawn, and of those that are looked at.
    """
    threshold = threshold_for(0.01, *sides, base_of(score, *sides), seed=0)

    passed = shuffled_scores(sides, score) >= threshold
    by_row = passed.mean(axis=0)
    error = by_row.std() * np.sqrt(2 / 4096 + 1 / len(by_row))
    assert error < 0.002
    assert abs(passed.mean() - 0.01) < 3 * error


def test_a_threshold_takes_up_little_memory(sides: tuple[VectorSource, VectorSource]) -> None:
    """Sixteen million random pairs, and never more than some of them at once; the threshold is that of all."""
    tracemalloc.start()

    found = threshold_for(0.001, *sides, COSINE, seed=0)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 2**20
    rows = [np.sort(np.random.default_rng(seed).permutation(side.rows)[:4096]) for seed, side in enumerate(sides)]
    x, y = (unit(side.take(some).astype(np.float64)) for side, some in zip(sides, rows, strict=True))
    assert found == pytest.approx(np.quantile(x @ y.T, 0.999, method="higher"), abs=1e-12)


def test_a_row_and_itself_are_no_random_pair(tmp_path: Path) -> None:
    """Of a set with itself the best of the other pairs is the threshold, not the cosine of 1."""
    vectors = np.random.default_rng(2).normal(size=(50, 6))
    source = open_vectors(str(vectors_file(tmp_path / "rows.parquet", vectors, [f"r{n}" for n in range(50)])))

    found = threshold_for(1e-6, source, source, COSINE, seed=0)

    c = unit(vectors.astype(np.float32).astype(np.float64))
    scores = c @ c.T
    np.fill_diagonal(scores, -1)
    assert found == pytest.approx(scores.max(), abs=1e-12)


def test_who_asked_for_too_many_pairs_is_told_a_threshold(tmp_path: Path) -> None:
    """A join and a dedup that are stopped say which one gives how many, and it does."""
    vectors = np.random.default_rng(3).normal(size=(400, 6))
    file = vectors_file(tmp_path / "rows.parquet", vectors, [f"r{n}" for n in range(400)])
    side = SideRequest(location=str(file))

    def ask(threshold: float, most: int) -> int:
        request = JoinRequest(left=side, right=side, not_self=True, threshold=threshold, memory=2**29)
        out = str(tmp_path / f"join-{threshold}")
        return join_here(request, out, max_pairs=most, progress=lambda *seen: None).pairs

    with pytest.raises(Stopped) as stopped:
        ask(0.0, 20_000)
    request = DedupRequest(side=side, threshold=0.1, max_pairs=10_000)
    with pytest.raises(Stopped) as stopped_dedup:
        dedup_here(request, str(tmp_path / "dedup"), progress=lambda *seen: None)

    for told, pairs in ((stopped, (20_000, 2000, 200)), (stopped_dedup, (10_000, 1000, 100))):
        found = re.findall(r"(-?[\d.]+) gives about ([\d,]+)", str(told.value))
        assert [int(count.replace(",", "")) for _, count in found] == list(pairs)
        thresholds = [float(threshold) for threshold, _ in found]
    for threshold, wanted in zip(thresholds, (20_000, 2000, 200), strict=True):  # of a dedup each pair counts once
        assert ask(threshold, 10**6) == pytest.approx(wanted, rel=0.02)
