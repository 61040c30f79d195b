"""A funnel: it may miss pairs, says how many, and gives those it finds the scores that a join gives them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from schemas.errors import Refused, Stopped
from schemas.join import Integers, JoinRecord, PanelFooter, Precision, Score, Stage
from schemas.shard import FOOTER_KEY
from similarity.engine import Engine
from similarity.funnel import Funnel, funnel, whole_products
from similarity.join import Join, pin
from similarity.join_proof import prove_join
from similarity.join_request import JoinRequest, SideRequest, plan_join
from similarity.joining import Joined, join_here
from similarity.kernel import Block, Pairs, Wanted, join
from similarity.measure import COSINE, Measure
from similarity.recall import Recall
from similarity.score_proof import ScoreProof
from similarity.vectors import open_vectors
from storage import layout
from storage.store import open_store

BEST = Wanted(top_k=5)
ALL = (Stage.BINARY, Stage.INT8, Stage.FLOAT32)


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    """300 x 2,500 vectors around 40 centres; a tenth of the right ones are copies."""
    rng = np.random.default_rng(21)
    centres = rng.normal(size=(40, 32))
    left, right = (
        (centres[rng.integers(0, 40, n)] + 0.8 * rng.normal(size=(n, 32))).astype(np.float32) for n in (300, 2500)
    )
    right[2250:] = right[:250]
    return left, right


def found(
    sides: tuple[np.ndarray, np.ndarray],
    oversample: int,
    *,
    stages: tuple[Stage, ...] = ALL,
    size: int = 700,
    wanted: Wanted = BEST,
    engine: Engine | None = None,
    measure: Measure = COSINE,
) -> Pairs:
    left, right = sides
    plan = Funnel.of(stages, 5, oversample, len(right))

    def blocks() -> list[Block]:
        return [Block(at, right[at : at + size]) for at in range(0, len(right), size)]

    return funnel(Block(0, left), blocks, wanted, plan, measure=measure, engine=engine or Engine())


def assert_same(one: Pairs, other: Pairs) -> None:
    for name in ("left", "right", "scores"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("stages", [ALL, (Stage.BINARY, Stage.FLOAT32), (Stage.INT8, Stage.FLOAT32)])
def test_a_funnel_that_keeps_all_is_exact(sides: tuple[np.ndarray, np.ndarray], stages: tuple[Stage, ...]) -> None:
    """Pairs, scores and ties as a join has them, also of a set with itself and above a threshold."""
    left, right = sides
    rows = np.arange(300)
    measure = Measure(left_mean=left.mean(axis=0) / 9, right_mean=right.mean(axis=0) / 9, left_add=rows / 300 - 0.5)

    for wanted in (Wanted(top_k=5), Wanted(top_k=5, not_self=True), Wanted(top_k=5, threshold=0.4)):
        exact = join(Block(0, left), [Block(0, right)], wanted, measure=measure)
        assert_same(found(sides, 50 if len(stages) > 2 else 500, stages=stages, wanted=wanted, measure=measure), exact)


def test_what_is_found_depends_on_no_block_thread_or_kind_of_product(sides: tuple[np.ndarray, np.ndarray]) -> None:
    """And differs from the exact pairs, but for their scores."""
    once = found(sides, 2)
    exact = join(Block(0, sides[0]), [Block(0, sides[1])], Wanted(top_k=2500))

    others = [
        found(sides, 2, size=77, engine=Engine(threads=2, tile_left=50, tile_right=128)),
        found(sides, 2, size=2500, engine=Engine(tile_left=300)),
    ]

    for other in others:
        assert_same(once, other)
    true = {(i, j): s for i, j, s in zip(exact.left.tolist(), exact.right.tolist(), exact.scores.tolist(), strict=True)}
    assert [true[i, j] for i, j in zip(once.left.tolist(), once.right.tolist(), strict=True)] == once.scores.tolist()
    assert not np.array_equal(once.right.reshape(-1, 5), exact.right.reshape(300, -1)[:, :5])


def test_whole_products_are_exact_either_way() -> None:
    """By int8, and by float32 where there is none, at sums beyond 2^24."""
    rng = np.random.default_rng(22)
    left, right = (torch.from_numpy(rng.choice([-127, 126, 127], (n, 3000)).astype(np.int8)) for n in (40, 64))
    left[0], right[0] = 127, 127
    true = left.to(torch.int64) @ right.to(torch.int64).T

    assert torch.equal(whole_products(left, right, Engine(precision=Precision.FP32)).long(), true)
    assert torch.equal(whole_products(left, right, Engine(precision=Precision.INT8)).long(), true)


def test_an_interval_of_recall() -> None:
    """Wilson's: 0.9 of 100 rows is 0.826 to 0.945; a thousand rows without a miss are no proof of none."""
    footer = PanelFooter(
        join="j", panel=0, first=0, rows=0, pairs=0, score="", threshold=None, left_space="", right_space="",
        forced=(), content_sha256="",
    )  # fmt: skip

    some = Recall.of([replace(footer, sampled=60, recall_sum=55.0), replace(footer, sampled=40, recall_sum=35.0)])
    best = Recall.of([replace(footer, sampled=1000, recall_sum=1000.0)])

    assert (some.rows, round(some.mean, 3), round(some.low, 3), round(some.high, 3)) == (100, 0.9, 0.826, 0.945)
    assert (best.mean, best.high) == (1.0, 1.0)
    assert 0.995 < best.low < 0.997


@pytest.fixture
def files(sides: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> tuple[Path, Path]:
    for name, vectors in zip(("left", "right"), sides, strict=True):
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 32)
        table = pa.table({"id": [f"{name}{n}" for n in range(len(vectors))], "embedding": column})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=600)
    return tmp_path / "left.parquet", tmp_path / "right.parquet"


def request_of(files: tuple[Path, Path], **asked: Any) -> JoinRequest:
    left, right = (SideRequest(location=str(file)) for file in files)
    return JoinRequest(left=left, right=right, **{"memory": 2**29, "top_k": 5, "funnel": ALL, "oversample": 2, **asked})


def joined(request: JoinRequest, out: Path, max_pairs: int = 10**6) -> Joined:
    return join_here(request, str(out), max_pairs=max_pairs, progress=lambda *seen: None)


def pairs_of(out: Path) -> set[tuple[str, str]]:
    table = pq.read_table(sorted(out.glob("data/part-*.parquet")))
    return set(zip(table["left_id"].to_pylist(), table["right_id"].to_pylist(), strict=True))


@pytest.mark.parametrize("score", [Score.COSINE, Score.CENTERED, Score.ZSCORE])
def test_the_recall_is_told(files: tuple[Path, Path], tmp_path: Path, score: Score) -> None:
    """In the summary, the manifest and each panel: with as few rows as here it is that of all of them."""
    joined(request_of(files, funnel=(), score=score), tmp_path / "exact")

    done = joined(request_of(files, score=score), tmp_path / "out")

    share = len(pairs_of(tmp_path / "out") & pairs_of(tmp_path / "exact")) / 1500
    assert done.recall is not None
    assert 0.3 < share < 1
    assert done.recall.rows == 300
    assert done.recall.mean == pytest.approx(share)
    assert f"recall {share:.4f}" in done.line
    store = open_store(str(tmp_path / "out"))
    assert b'"recall"' in store.get(layout.manifest_key(0))
    assert JoinRecord.from_json(store.get(layout.JOIN)).spec.funnel == ALL
    assert prove_join(store).lines()[-1] == "each score is that of its vectors"


def test_panels_of_a_funnel_are_the_same_and_go_on(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Stopped after two panels and called again, with other threads: the pairs and the recall of one panel."""
    whole = joined(request_of(files), tmp_path / "whole")
    planned = plan_join(request_of(files))
    store = open_store(str(tmp_path / "out"))
    record = pin(store, replace(planned.spec, panel_rows=37))

    class Ended(Exception): ...

    def end(stage: str, done: int, panels: int, pairs: int) -> None:
        if done == 2:
            raise Ended

    with pytest.raises(Ended):
        Join(store, record, planned.left, planned.right, effort=planned.effort(1, 10**6), progress=end).run()
    done = joined(request_of(files, threads=2), tmp_path / "out")

    assert (done.published_before, done.panels) == (2, 9)
    assert done.recall == whole.recall
    assert pairs_of(tmp_path / "out") == pairs_of(tmp_path / "whole")
    assert prove_join(store).complete


def test_too_many_pairs_stop_a_funnel(files: tuple[Path, Path], tmp_path: Path) -> None:
    """As they stop a join."""
    with pytest.raises(Stopped, match="--max-pairs"):
        joined(request_of(files), tmp_path / "out", max_pairs=1000)


def test_a_score_that_is_not_that_of_its_vectors_is_found(files: tuple[Path, Path], tmp_path: Path) -> None:
    """By one bit; so is an id that no side has."""
    joined(request_of(files), tmp_path / "out")
    store = open_store(str(tmp_path / "out"))
    proof = ScoreProof.of(JoinRecord.from_json(store.get(layout.JOIN)))
    table = pq.read_table(tmp_path / "out" / layout.panel_key(0))
    footer = PanelFooter.from_json(table.schema.metadata[FOOTER_KEY])
    scores = np.array(table["score"].to_pylist(), np.float32)
    scores[7] = np.nextafter(scores[7], np.float32(0))
    ids = ["none", *table["right_id"].to_pylist()[1:]]

    assert isinstance(proof, ScoreProof)
    assert proof.problem(table, footer) == ""
    assert "1 of its scores" in proof.problem(table.set_column(2, "score", pa.array(scores)), footer)
    assert "do not have" in proof.problem(table.set_column(1, "right_id", pa.array(ids)), footer)


def test_vectors_that_have_changed_are_not_proved(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Verify says that it cannot tell, and proves the rest."""
    joined(request_of(files), tmp_path / "out")
    store = open_store(str(tmp_path / "out"))
    sound = files[1].read_bytes()
    table = pq.read_table(files[1])

    files[1].unlink()
    gone = prove_join(store)
    pq.write_table(table.slice(1), files[1])
    other = prove_join(store)
    files[1].write_bytes(sound)

    assert gone.complete
    assert "not proved" in gone.scores
    assert other.complete
    assert "is not what it was" in other.scores
    assert prove_join(store).scores == "each score is that of its vectors"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"funnel": ("int8", "binary", "float32")}, "from coarse to fine"),
        ({"funnel": ("binary", "int8")}, "end with float32"),
        ({"funnel": ("float32",)}, "binary,float32"),
        ({"funnel": ("binary", "float16", "float32")}, "from coarse to fine"),
        ({"top_k": None, "threshold": 0.5}, "needs --top-k"),
        ({"score": Score.CSLS}, "more than the angle"),
        ({"score": Score.DOT}, "more than the angle"),
        ({"mutual": True}, "--mutual"),
        ({"oversample": 0}, "1 or more"),
    ],
)
def test_a_funnel_that_would_not_mean_what_it_says_is_refused(
    files: tuple[Path, Path], asked: dict[str, Any], why: str
) -> None:
    """In one line, before anything is read."""
    with pytest.raises(Refused, match=why):
        plan_join(request_of(files, **asked))


def test_integers_of_others_mean_what_the_user_says(tmp_path: Path) -> None:
    """Plain numbers, or eight signs a byte; a guess would be wrong for half of the files there are."""
    rng = np.random.default_rng(23)
    signs = rng.choice([-1.0, 1.0], (20, 64))
    packed = np.packbits(signs > 0, axis=1)
    paths = {}
    for name, values in (("uint8", packed), ("int8", (packed.astype(np.int16) - 128).astype(np.int8))):
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 8)
        paths[name] = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"id": [str(n) for n in range(20)], "embedding": column}), paths[name])

    for name, path in paths.items():
        with pytest.raises(Refused, match=f"what the {name} of column embedding mean; say --integers"):
            open_vectors(str(path))
        np.testing.assert_array_equal(open_vectors(str(path), integers=Integers.BITS).vectors(0, 20), signs)
    numbers = open_vectors(str(paths["uint8"]), integers=Integers.NUMBERS).vectors(0, 20)
    np.testing.assert_array_equal(numbers, packed.astype(np.float32))
