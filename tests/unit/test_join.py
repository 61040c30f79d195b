"""Joins in this process: refusals, scores, resuming, and their proof."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import Refused, SpecMismatch, Stopped, StoreError
from schemas.join import Score
from similarity.join_proof import prove_join
from similarity.join_request import JoinRequest, SideRequest, bytes_of, plan_join
from similarity.joining import Joined, join_here
from similarity.vectors import open_vectors
from storage import layout
from storage.store import open_store

RNG = np.random.default_rng(3)


def dataset(path: Path, vectors: np.ndarray, prefix: str, kind: Any = None) -> Path:
    """Parquet with ids, vectors and a column beside them."""
    kind = kind or pa.float32()
    flat = pa.array(vectors.reshape(-1)).cast(kind)
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    ids = [f"{prefix}{n}" for n in range(len(vectors))]
    table = pa.table({"id": ids, "embedding": column, "title": [f"title of {i}" for i in ids]})
    pq.write_table(table, path, row_group_size=100)
    return path


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    left, right = (RNG.normal(size=(n, 24)).astype(np.float32) for n in (250, 700))
    left[:, 0] += 3  # a gap between the two
    return dataset(tmp_path / "left.parquet", left, "l"), dataset(tmp_path / "right.parquet", right, "r")


def request_of(sides: tuple[Path, Path], **asked: Any) -> JoinRequest:
    left, right = (SideRequest(location=str(side)) for side in sides)
    return JoinRequest(left=left, right=right, **{"memory": 2**29, **asked})


def joined(request: JoinRequest, out: Path, max_pairs: int = 10**6) -> Joined:
    return join_here(request, str(out), max_pairs=max_pairs, progress=lambda *seen: None)


def read(out: Path) -> pa.Table:
    return pq.read_table(sorted(out.glob("data/part-*.parquet")))


def vectors_of(path: Path) -> np.ndarray:
    table = pq.read_table(path)
    return np.asarray(table["embedding"].combine_chunks().flatten(), np.float64).reshape(table.num_rows, -1)


def unit(vectors: np.ndarray) -> np.ndarray:
    out: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return out


def by_formula(score: Score, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The whole matrix of scores, as docs/joins.md writes them."""
    x, y = unit(left), unit(right)
    c = x @ y.T
    if score is Score.DOT:
        return np.asarray(left @ right.T)
    if score is Score.ZSCORE:
        return np.asarray((c - c.mean(axis=1, keepdims=True)) / c.std(axis=1, keepdims=True))
    if score in (Score.CENTERED, Score.CSLS):
        c = unit(x - x.mean(axis=0)) @ unit(y - y.mean(axis=0)).T
    near_left = np.sort(c, axis=1)[:, -10:].mean(axis=1)
    near_right = np.sort(c, axis=0)[-10:].mean(axis=0)
    if score is Score.CSLS:
        c = 2 * c - near_left[:, None] - near_right
    if score is Score.MARGIN:
        c = c / ((near_left[:, None] + near_right) / 2)
    return np.asarray(c)


@pytest.mark.parametrize("score", list(Score))
def test_each_score_is_its_formula(sides: tuple[Path, Path], tmp_path: Path, score: Score) -> None:
    """The best three of each row, and their scores, as numpy has them from the whole matrix."""
    matrix = by_formula(score, *map(vectors_of, sides))

    joined(request_of(sides, score=score, top_k=3), tmp_path / "out")

    table = read(tmp_path / "out")
    best = np.argsort(-matrix, axis=1)[:, :3]
    assert table["right_id"].to_pylist() == [f"r{n}" for n in best.reshape(-1)]
    np.testing.assert_allclose(table["score"], np.take_along_axis(matrix, best, axis=1).reshape(-1), rtol=2e-5)
    assert table["rank"].to_pylist() == [1, 2, 3] * 250


def test_mutual_pairs_are_the_best_of_both(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """Each among the two best of the other."""
    matrix = by_formula(Score.CSLS, *map(vectors_of, sides))
    of_left = np.argsort(-matrix, axis=1)[:, :2]
    of_right = np.argsort(-matrix, axis=0)[:2]

    joined(request_of(sides, score=Score.CSLS, top_k=2, mutual=True), tmp_path / "out")

    expected = {(f"l{i}", f"r{j}") for i in range(250) for j in of_left[i] if i in of_right[:, j]}
    table = read(tmp_path / "out")
    assert set(zip(table["left_id"].to_pylist(), table["right_id"].to_pylist(), strict=True)) == expected
    assert table.num_rows == len(expected)
    assert prove_join(open_store(str(tmp_path / "out"))).complete


def test_a_share_of_random_pairs_makes_the_threshold(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """All pairs of unrelated sets are random: one in a hundred is found."""
    done = joined(request_of(sides, score=Score.CENTERED, fpr=0.01), tmp_path / "out")

    assert done.pairs == pytest.approx(250 * 700 * 0.01, rel=0.02)  # the sample is the whole of both
    assert prove_join(open_store(str(tmp_path / "out"))).complete


def test_panels_and_threads_change_nothing(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """The same rows in the same order, from panels of another size and other threads."""
    joined(request_of(sides, top_k=4), tmp_path / "one")
    planned = plan_join(request_of(sides, top_k=4))
    store = open_store(str(tmp_path / "two"))
    from similarity.join import Join, pin

    record = pin(store, replace(planned.spec, panel_rows=37))
    Join(store, record, planned.left, planned.right, effort=planned.effort(2, 10**6)).run()

    assert len(list((tmp_path / "two").glob("data/*"))) == 7
    assert read(tmp_path / "one").equals(read(tmp_path / "two"))


def test_a_join_goes_on_where_it_was(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """Too many pairs stop it; with a higher limit it is finished, and what was there is kept as it was."""
    planned = plan_join(request_of(sides, top_k=4))
    from similarity.join import Join, pin

    store = open_store(str(tmp_path / "out"))
    record = pin(store, replace(planned.spec, panel_rows=100))
    with pytest.raises(Stopped, match="--max-pairs"):
        Join(store, record, planned.left, planned.right, effort=planned.effort(1, 500)).run()
    first = store.get(layout.panel_key(0))
    assert not prove_join(store).complete

    done = joined(request_of(sides, top_k=4), tmp_path / "out")

    assert (done.pairs, done.published_before) == (1000, 1)
    assert store.get(layout.panel_key(0)) == first
    assert prove_join(store).complete


def test_a_join_that_was_begun_with_more_memory_says_how_much_it_takes(tmp_path: Path) -> None:
    """Its panels are cut: with less it is refused, and with what the message says it goes on."""
    left, right = (RNG.normal(size=(rows, 512)).astype(np.float32) for rows in (6000, 20))
    sides = (dataset(tmp_path / "left.parquet", left, "l"), dataset(tmp_path / "right.parquet", right, "r"))
    asked = request_of(sides, top_k=2)
    with pytest.raises(Stopped):
        joined(asked, tmp_path / "out", max_pairs=1)

    with pytest.raises(Refused, match=r"begun with more memory, in panels of 65,\d+ rows") as refused:
        joined(replace(asked, memory=130 * 2**20), tmp_path / "out", max_pairs=1)
    [told] = re.findall(r"--memory (\w+)", str(refused.value))
    with pytest.raises(Stopped):
        joined(replace(asked, memory=bytes_of(told)), tmp_path / "out", max_pairs=1)


def test_another_join_is_refused_at_the_same_place(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """What differs is named."""
    joined(request_of(sides, top_k=4), tmp_path / "out")

    with pytest.raises(SpecMismatch, match="top_k: 4 / 5"):
        joined(request_of(sides, top_k=5), tmp_path / "out")


def test_columns_are_copied(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """Of either side, each beside its own id."""
    left, right = (SideRequest(location=str(side), keep=("title",)) for side in sides)

    joined(JoinRequest(left=left, right=right, top_k=2, memory=2**29), tmp_path / "out")

    table = read(tmp_path / "out")
    assert table["left.title"].to_pylist() == [f"title of {i}" for i in table["left_id"].to_pylist()]
    assert table["right.title"].to_pylist() == [f"title of {i}" for i in table["right_id"].to_pylist()]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float64()])
def test_other_types_of_vectors(sides: tuple[Path, Path], tmp_path: Path, kind: pa.DataType) -> None:
    """Half and double precision are read as what they are."""
    values = RNG.normal(size=(50, 24)).astype(np.float16)
    other = dataset(tmp_path / "other.parquet", values.astype(np.float64), "o", kind)

    joined(request_of((other, other), top_k=1), tmp_path / "out")

    assert read(tmp_path / "out")["right_id"].to_pylist() == [f"o{n}" for n in range(50)]


def test_every_flipped_bit_is_found(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """In the record, the pairs and the list of them."""
    joined(request_of(sides, top_k=2), tmp_path / "out")
    store = open_store(str(tmp_path / "out"))
    rng = np.random.default_rng(11)

    for key in (layout.JOIN, layout.panel_key(0), layout.manifest_key(0)):
        sound = store.get(key)
        for bit in rng.integers(0, 8 * len(sound), 15):
            broken = bytearray(sound)
            broken[bit // 8] ^= 1 << (bit % 8)
            store.replace(key, bytes(broken))
            try:
                assert prove_join(store).problems, (key, bit)
            except SpecMismatch:
                assert key == layout.JOIN
        store.replace(key, sound)
    assert prove_join(store).complete


def test_damage_to_what_the_panels_go_by_is_found(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """A flipped bit in what a score or the threshold rests on ends a join that goes on, and is named by verify."""
    asked, out = request_of(sides, score=Score.CSLS, fpr=0.01, top_k=3, mutual=True), tmp_path / "out"
    joined(asked, out)
    (out / layout.manifest_key(0)).unlink()
    stages = sorted((out / layout.STAGE).iterdir())

    for file in stages:
        (out / layout.panel_key(0)).unlink(missing_ok=True)
        sound = file.read_bytes()
        at = len(sound) // 2
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(StoreError, match=file.name):
            joined(asked, out)
        assert [problem.partition(":")[0] for problem in prove_join(open_store(str(out))).problems] == [
            f"{layout.STAGE}/{file.name}"
        ]
        file.write_bytes(sound)
    joined(asked, out)
    assert prove_join(open_store(str(out))).complete
    assert len(stages) == 4


def test_a_file_of_something_else_in_a_panels_place_is_named(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """A shard of a job, for one: its footer is none of a join."""
    joined(request_of(sides, top_k=2), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / layout.panel_key(0)).replace_schema_metadata(
        {b"embedmill": b'{"forced": [], "job": "x"}'}
    )
    pq.write_table(table, tmp_path / "out" / layout.panel_key(0))

    with pytest.raises(StoreError, match="part-000000"):
        joined(request_of(sides, top_k=2), tmp_path / "out")


def test_vectors_that_are_none_are_refused(tmp_path: Path) -> None:
    """Null, not finite, of another length, of no number; and ids that say nothing."""
    good = RNG.normal(size=(4, 3)).astype(np.float32)
    bad = good.copy()
    bad[2, 1] = np.nan
    nan = dataset(tmp_path / "nan.parquet", bad, "n")
    ragged, text, twice = (tmp_path / f"{name}.parquet" for name in ("ragged", "text", "twice"))
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": pa.array([[1.0, 2.0], [3.0]])}), ragged)
    pq.write_table(pa.table({"id": ["a"], "embedding": ["no vector"]}), text)
    pq.write_table(pa.table({"id": ["a", "a"], "embedding": pa.array([[1.0], [2.0]])}), twice)

    for path, why in (
        (nan, "row 2 .* not finite"),
        (ragged, "another length than 2"),
        (text, "no list of float32"),
        (twice, "id a stands for more than one row"),
        (tmp_path / "gone.parquet", "does not exist"),
        (tmp_path, "other columns|another length|no list|holds neither"),
    ):
        with pytest.raises(Refused, match=why):
            joined(request_of((path, path)), tmp_path / f"out-{path.stem}")


def test_what_the_user_asks_is_checked(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """Before anything is read twice or written."""
    other = dataset(tmp_path / "other.parquet", np.ones((3, 5), np.float32), "o")

    for request, why in (
        (request_of((sides[0], other)), "differ in dim: 24 and 5"),
        (request_of(sides, fpr=2.0), "between 0 and 1"),
        (request_of(sides, fpr=float("nan")), "between 0 and 1"),
        (request_of(sides, threshold=float("nan")), "finite"),
        (request_of(sides, threshold=1e300), "finite"),
        (request_of(sides, fpr=0.1, threshold=0.2), "give one"),
        (request_of(sides, fpr=1e-5), "175,000 random pairs .* too few"),
        (request_of(sides, not_self=True), "these are two"),
        (request_of(sides, memory=2**20), "MB are needed"),
        (request_of(sides, score=Score.ZSCORE, mutual=True), "csls"),
    ):
        with pytest.raises(Refused, match=why):
            joined(request, tmp_path / "out")


def test_amounts_of_memory() -> None:
    """As people write them."""
    assert [bytes_of(text) for text in ("512MB", "4 G", "1.5GiB", "77")] == [2**29, 2**32, 3 * 2**29, 77]
    with pytest.raises(Refused, match="512MB"):
        bytes_of("much")


def test_mutual_pairs_above_a_threshold_are_among_the_best_of_both(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """--mutual with --threshold alone asks for the same number of best rows from either side."""
    left, right = map(vectors_of, sides)
    c = by_formula(Score.COSINE, left, right).astype(np.float32)
    best_right, best_left = np.argsort(-c, axis=1)[:, :10], np.argsort(-c, axis=0)[:10].T

    joined(request_of(sides, threshold=0.4, mutual=True), tmp_path / "out")

    mutual = {(f"l{i}", f"r{j}") for i in range(len(c)) for j in best_right[i] if i in best_left[j] and c[i, j] >= 0.4}
    table = read(tmp_path / "out")
    assert mutual
    assert set(zip(table["left_id"].to_pylist(), table["right_id"].to_pylist(), strict=True)) == mutual


def test_a_long_row_group_is_read_in_stretches(tmp_path: Path) -> None:
    """Blocks are no longer than asked for, start where asked, and hold every row once, whatever the row groups."""
    vectors = RNG.normal(size=(300, 8)).astype(np.float32)
    source = open_vectors(str(dataset(tmp_path / "long.parquet", vectors, "x")))

    blocks = list(source.blocks(30, 200, size=64))

    assert max(map(len, blocks)) <= 64
    assert [block.first for block in blocks] == [30 + n for n in np.cumsum([0, *map(len, blocks)])[:-1]]
    assert np.array_equal(np.concatenate([block.vectors for block in blocks]), vectors[30:230])
