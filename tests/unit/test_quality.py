"""Quality: recall, MRR and nDCG of ranked lists, by hand and by another implementation."""

import gzip
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import ndcg_score

from schemas.errors import EmbedmillError
from similarity.judged import read_judged
from similarity.quality import evaluate, per_query
from similarity.ranked import read_ranked
from tests.mill import embedmill

ROOT = Path(__file__).parents[2]
Pair = tuple[str, str, float]


def judged_file(path: Path, pairs: Iterable[Pair]) -> str:
    lines = [json.dumps({"query_id": q, "item_id": i, "relevance": g}) for q, i, g in pairs]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def pairs_file(path: Path, pairs: Iterable[Pair], by: str = "rank") -> str:
    path.write_text(f"query_id,item_id,{by}\n" + "".join(f"{q},{i},{value}\n" for q, i, value in pairs))
    return str(path)


def measured(judged: str, output: str, *ks: int) -> dict[str, list[float]]:
    """Each metric's value for each judged query."""
    known = read_judged(judged)
    return {name: values.tolist() for name, values in per_query(known, read_ranked(output, known), ks).items()}


def test_values_by_hand(tmp_path: Path) -> None:
    """Two queries: one finds its two items first and third of three places, one its only item second."""
    judged = judged_file(tmp_path / "j.jsonl", [("a", "x", 1), ("a", "y", 1), ("b", "z", 1), ("b", "x", 0)])
    output = pairs_file(tmp_path / "p.csv", [("a", "x", 1), ("a", "w", 2), ("a", "y", 3), ("b", "x", 1), ("b", "z", 2)])

    found = measured(judged, output, 1, 3)

    assert found["recall@1"] == [0.5, 0.0]
    assert found["recall@3"] == [1.0, 1.0]
    assert found["mrr"] == [1.0, 0.5]
    assert found["ndcg@1"] == [1.0, 0.0]
    assert found["ndcg@3"] == pytest.approx([1.5 / (1 + 1 / math.log2(3)), 1 / math.log2(3)])


def test_graded_relevance_by_hand(tmp_path: Path) -> None:
    """The gain of a grade is 2^grade - 1: 7, 3, 1; the list has them in the order 1, 3, 2."""
    judged = judged_file(tmp_path / "j.jsonl", [("a", "x", 1), ("a", "y", 3), ("a", "z", 2)])
    output = pairs_file(tmp_path / "p.csv", [("a", "x", 1), ("a", "y", 2), ("a", "z", 3)])

    found = measured(judged, output, 3)

    dcg, ideal = 1 + 7 / math.log2(3) + 3 / 2, 7 + 3 / math.log2(3) + 1 / 2
    assert found["ndcg@3"] == pytest.approx([dcg / ideal])


@pytest.mark.parametrize("seed", range(5))
def test_random_lists_agree_with_scikit_learn(tmp_path: Path, seed: int) -> None:
    """nDCG by scikit-learn's ndcg_score; recall and MRR by their definitions, query by query."""
    rng = np.random.default_rng(seed)
    queries, items = [f"q{n}" for n in range(30)], [f"i{n:02d}" for n in range(25)]
    grades = rng.choice([0, 0, 0, 0.5, 1, 2, 3], (30, 25)) + (np.arange(25) == rng.integers(0, 25, (30, 1)))
    scores = rng.permuted(np.tile(np.arange(25.0), (30, 1)), axis=1)
    judged = judged_file(
        tmp_path / "j.jsonl",
        [(q, i, float(g)) for q, row in zip(queries, grades, strict=True) for i, g in zip(items, row, strict=True)],
    )
    written = [(q, i, s) for q, row in zip(queries, scores, strict=True) for i, s in zip(items, row, strict=True)]
    shuffled = [written[n] for n in rng.permutation(len(written))]
    output = pairs_file(tmp_path / "p.csv", shuffled, by="score")

    found = measured(judged, output, 1, 5, 25)

    best_first = np.take_along_axis(grades, np.argsort(-scores, axis=1), axis=1) > 0
    for k in (1, 5, 25):
        expected = [ndcg_score([2**g - 1], [s], k=k) for g, s in zip(grades, scores, strict=True)]
        assert found[f"ndcg@{k}"] == pytest.approx(expected)
        assert found[f"recall@{k}"] == pytest.approx(best_first[:, :k].sum(axis=1) / (grades > 0).sum(axis=1))
    assert found["mrr"] == pytest.approx(1 / (best_first.argmax(axis=1) + 1))


def test_a_missing_query_counts_and_an_unjudged_one_does_not(tmp_path: Path) -> None:
    """A judged query without any pair is 0; one that nobody judged, or with nothing that fits, is left out."""
    judged = judged_file(tmp_path / "j.jsonl", [("a", "x", 1), ("gone", "x", 1), ("none", "x", 0)])
    output = pairs_file(tmp_path / "p.csv", [("a", "x", 1), ("none", "x", 1), ("new", "x", 1), ("new", "y", 2)])

    evaluation = evaluate(judged, [output], ks=[1])

    [only] = evaluation.outputs
    assert evaluation.judged.queries == ["a", "gone"]
    assert evaluation.judged.without_relevant == 1
    assert only.metrics["recall@1"].mean == only.metrics["mrr"].mean == only.metrics["ndcg@1"].mean == 0.5
    assert only.ranked.found.tolist() == [True, False]
    assert only.ranked.unjudged == 3


def test_equal_scores_are_ordered_by_id_and_counted(tmp_path: Path) -> None:
    """The order of the lines in the file does not matter."""
    judged = judged_file(tmp_path / "j.jsonl", [("a", "b", 1)])
    pairs: list[Pair] = [("a", "z", 0.5), ("a", "m", 0.5), ("a", "b", 0.5), ("a", "c", 0.75)]

    there = read_ranked(pairs_file(tmp_path / "p.csv", pairs, by="score"), read_judged(judged))
    back = read_ranked(pairs_file(tmp_path / "p.csv", pairs[::-1], by="score"), read_judged(judged))

    assert there.place.tolist() == back.place.tolist() == [2]
    assert there.ties == back.ties == 2


def test_a_pair_that_occurs_again_counts_once(tmp_path: Path) -> None:
    """As the segments of one film do: its best place, and the places behind close up."""
    judged = judged_file(tmp_path / "j.jsonl", [("a", "film", 1), ("a", "late", 1)])
    output = pairs_file(tmp_path / "p.csv", [("a", "film", 1), ("a", "film", 2), ("a", "film", 3), ("a", "late", 4)])

    ranked = read_ranked(output, read_judged(judged))

    assert ranked.place.tolist() == [1, 2]
    assert ranked.repeated == 2


def test_every_form_of_the_files_gives_the_same(tmp_path: Path) -> None:
    """Parquet of a join in pieces, a rerank's folder, JSONL, CSV, TSV, gzip; judged pairs as lists."""
    pairs: list[Pair] = [("1", "x", 1), ("1", "y", 2), ("2", "y", 1), ("2", "x", 2)]
    names = ("left_id", "right_id", "rank")
    for folder, columns in (("join/data", names), ("rerank/data/modality=text", ("query_id", "item_id", "rank"))):
        (tmp_path / folder).mkdir(parents=True)
        for part in range(2):
            rows = [dict(zip(columns, pair, strict=True)) | {"score": -1.0} for pair in pairs[2 * part :][:2]]
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / folder / f"part-{part:06d}.parquet")
    (tmp_path / "join" / "strays").mkdir()
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "join" / "strays" / "rows.parquet")
    lines = [json.dumps({"query_id": int(q), "item_id": i, "rank": r}) for q, i, r in pairs]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (tmp_path / "p.tsv").write_text("rank\titem_id\tquery_id\n" + "".join(f"{r}\t{i}\t{q}\n" for q, i, r in pairs))
    pairs_file(tmp_path / "p.csv", pairs)
    (tmp_path / "list.jsonl").write_text('{"id": 1, "relevant": ["y"]}\n{"id": "2", "relevant": ["y"]}\n')
    pq.write_table(pa.table({"query_id": [1, 2], "item_id": ["y", "y"]}), tmp_path / "judged.parquet")

    found = [
        measured(str(tmp_path / judged), str(tmp_path / output), 1, 2)
        for judged in ("list.jsonl", "judged.parquet")
        for output in ("join", "rerank", "p.csv", "p.tsv", "p.jsonl", "p.jsonl.gz")
    ]

    assert found[0]["mrr"] == [0.5, 1.0]
    assert all(other == found[0] for other in found)


def test_intervals_are_those_of_the_seed_and_cover_the_mean(tmp_path: Path) -> None:
    """The same seed gives the same interval; its width is about that of the normal approximation. Seed 7."""
    rng = np.random.default_rng(7)
    pairs: list[Pair] = [(f"q{n}", "x", float(rng.integers(1, 9))) for n in range(200)]
    filler: list[Pair] = [(q, f"o{r}", float(r)) for q, _, last in pairs for r in range(1, int(last))]
    judged = judged_file(tmp_path / "j.jsonl", [(q, "x", 1) for q, _, _ in pairs])
    output = pairs_file(tmp_path / "p.csv", [*pairs, *filler])

    first, again, other = (evaluate(judged, [output], ks=[1], seed=s).outputs[0].metrics["mrr"] for s in (0, 0, 1))

    assert first == again
    assert first != other
    assert first.low < first.mean < first.high
    assert first.error is not None
    assert (first.high - first.low) == pytest.approx(2 * 1.96 * first.error, rel=0.15)


def test_a_difference_is_of_the_same_queries(tmp_path: Path) -> None:
    """Every query gains exactly as much: the difference has no width, though both outputs have."""
    judged = judged_file(tmp_path / "j.jsonl", [(f"q{n}", item, 1) for n in range(20) for item in "xy"])
    one: list[Pair] = [(f"q{n}", "x", 1) for n in range(10)]
    two: list[Pair] = [*one, *((q, "y", 2) for q, _, _ in one), *((f"q{n}", "x", 1) for n in range(10, 20))]
    outputs = [pairs_file(tmp_path / "one.csv", one), pairs_file(tmp_path / "two.csv", two)]

    first, second = evaluate(judged, outputs, ks=[2]).outputs

    assert first.difference == {}
    assert first.metrics["recall@2"].low < first.metrics["recall@2"].high
    gain = second.difference["recall@2"]
    assert (gain.mean, gain.low, gain.high) == (0.5, 0.5, 0.5)


BAD_OUTPUTS = {
    "no-ids.csv": ("a,b,rank\n1,2,3\n", "left_id and right_id"),
    "no-order.csv": ("query_id,item_id\nq,x\n", "neither rank nor score"),
    "word.csv": ("query_id,item_id,rank\nq,x,first\n", "line 2: rank is 'first'"),
    "nan.csv": ("query_id,item_id,score\nq,x,nan\n", "score is 'nan'"),
    "short.csv": ("query_id,item_id,rank\nq,x\n", "line 2"),
    "empty-id.csv": ("query_id,item_id,rank\nq,,1\n", "item_id is empty"),
    "broken.jsonl": ("{", "line 1: not JSON"),
    "list.jsonl": ("[1]", "line 1: a list"),
    "float-id.jsonl": ('{"query_id": 1.5, "item_id": "x", "rank": 1}', "query_id is a float"),
    "other-ids.csv": ("query_id,item_id,rank\nno-such,x,1\n", "none of the 1 judged queries"),
    "no.gz.csv.gz": ("query_id,item_id,rank\n", "cannot be read"),
    "torn.parquet": ("PAR1 and nothing else", "no sound Parquet file"),
    "absent.csv": (None, "does not exist"),
    "absent": (None, "holds no Parquet file"),
}


@pytest.mark.parametrize("name", BAD_OUTPUTS)
def test_a_bad_output_gets_one_line(tmp_path: Path, name: str) -> None:
    """It names the file, the line and what is wrong with it."""
    content, said = BAD_OUTPUTS[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    judged = judged_file(tmp_path / "j.jsonl", [("q", "x", 1)])

    with pytest.raises(EmbedmillError) as refused:
        evaluate(judged, [str(tmp_path / name)], ks=[1])

    assert said in str(refused.value)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"query_id": "q", "item_id": "x", "relevance": -1}', "relevance is -1"),
        ('{"query_id": "q", "item_id": "x", "relevance": 1000}', "relevance is 1000"),
        ('{"query_id": "q", "item_id": "x", "relevance": null}', "relevance is None"),
        ('{"query_id": "q", "item_id": "x"}\n{"query_id": "q", "item_id": "x", "relevance": 2}', "and 1 elsewhere"),
        ('{"id": "q", "relevant": "x"}', "relevant is a str"),
        ('{"id": "q", "relevant": []}', "no query has an item"),
        ('{"id": "q", "fitting": ["x"]}', "neither query_id and item_id, nor id and relevant"),
        ("", "no query has an item"),
    ],
)
def test_bad_judged_pairs_get_one_line(tmp_path: Path, content: str, said: str) -> None:
    """It names what is wrong; nothing is guessed."""
    (tmp_path / "j.jsonl").write_text(content)

    with pytest.raises(EmbedmillError) as refused:
        read_judged(str(tmp_path / "j.jsonl"))

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_command_compares_outputs(tmp_path: Path) -> None:
    """A table for people that says what was left out, the same numbers as JSON for scripts, one line for a mistake."""
    queries = [json.loads(line) for line in (ROOT / "examples/demo/queries.jsonl").read_text().splitlines()]
    good = [(q["id"], item, rank) for q in queries for rank, item in enumerate(q["relevant"], start=1)]
    bad = [(q, item, rank + 3) for q, item, rank in good] + [(q["id"], "img-x", 1) for q in queries[2:]]
    outputs = pairs_file(tmp_path / "bad.csv", bad[1:]), pairs_file(tmp_path / "good.csv", good)
    words = ("eval", *outputs, "--judged", ROOT / "examples/demo/queries.jsonl", "--k", 10)

    shown = embedmill(*words)
    told = json.loads(embedmill(*words, "--json").stdout)
    wrong = embedmill("eval", tmp_path / "none.csv", "--judged", tmp_path / "none.jsonl")

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[0].split() == ["pairs", "recall@10", "mrr", "ndcg@10"]
    assert shown.stdout.splitlines()[2].split()[1] == "1.000"
    assert "minus the first" in shown.stdout
    assert told["outputs"][1]["metrics"]["ndcg@10"]["mean"] == 1.0
    assert told["outputs"][0]["difference"] is None
    assert told["outputs"][1]["difference"]["mrr"]["low"] > 0
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
