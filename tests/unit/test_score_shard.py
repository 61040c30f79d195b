"""A shard of pairs, from its plan to its published file, by the model `hash-rerank`: every score can be checked."""

import json
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.retry import plan_retry
from producer.verify import verify_job
from schemas.failures import Failure, FailureCode, Stage
from schemas.rerank import Activation, Scoring
from schemas.rows import ManifestRow
from storage.parquet import column_file
from storage.shards import read_footer
from tests.inline import InlineMill
from tests.rerank import crossed, failures_of, hash_scores, planned, ranked, scores_of, sentences
from workers.hash_scorer import sigmoid
from workers.loading import IsKnown, ScriptedLoader, Segments, nothing_known

QUERIES, ITEMS = sentences("q", 8, seed=1), sentences("d", 40, seed=2)
PAIRS = crossed(QUERIES, ITEMS, 15)
RAW = Scoring(activation=Activation.NONE)


class CountingLoader(ScriptedLoader):
    """Counts how often each row is loaded."""

    def __init__(self) -> None:
        super().__init__({})
        self.loads: Counter[str] = Counter()
        self.down: set[str] = set()  # ids that cannot be had now

    def load(self, row: ManifestRow, is_known: IsKnown = nothing_known) -> Segments | Failure:
        self.loads[row.id] += 1
        if row.id in self.down:
            return Failure(code=FailureCode.FETCH_FAILED, stage=Stage.FETCH, message="down")
        return super().load(row, is_known)


def test_every_pair_has_its_score_and_rank(tmp_path: Path) -> None:
    """Scores are those of the pair's content, ranks count from 1 within a query, and verify agrees."""
    job = planned(tmp_path, PAIRS, QUERIES, ITEMS, scoring=RAW, shard_seconds=0.01)

    InlineMill(job).run()

    wanted = hash_scores(PAIRS, QUERIES, ITEMS)
    found = scores_of(tmp_path / "out")
    assert {pair: score for pair, (score, _) in found.items()} == wanted
    assert {pair: rank for pair, (_, rank) in found.items()} == ranked(wanted)
    assert verify_job(job).complete


def test_each_side_is_loaded_once_a_shard(tmp_path: Path) -> None:
    """In a shard of many pairs a row is decoded once, as a query and as an item, whatever its pairs."""
    job = planned(tmp_path, PAIRS, QUERIES, ITEMS)
    loader = CountingLoader()

    InlineMill(job, loader=loader).run()

    assert set(loader.loads.values()) == {1}
    assert set(loader.loads) == {pair[name] for pair in PAIRS for name in ("query_id", "item_id")}


def test_equal_scores_are_ranked_by_item_id(tmp_path: Path) -> None:
    """Items with one text have one score; the smaller id comes first."""
    items = [{"id": name, "text": "the same"} for name in ("c", "a", "b")]
    pairs = [{"query_id": "q000", "item_id": item["id"]} for item in items]
    job = planned(tmp_path, pairs, QUERIES, items)

    InlineMill(job).run()

    assert {item: rank for (_, item), (_, rank) in scores_of(tmp_path / "out").items()} == {"a": 1, "b": 2, "c": 3}


def test_the_activation_is_what_was_asked_for_and_is_written_down(tmp_path: Path) -> None:
    """Scores pass through a sigmoid; the footer names it, with the model's digest and the space."""
    scoring = Scoring(activation=Activation.SIGMOID)
    job = planned(tmp_path, PAIRS, QUERIES, ITEMS, scoring=scoring)

    InlineMill(job).run()

    wanted = hash_scores(PAIRS, QUERIES, ITEMS)
    found = scores_of(tmp_path / "out")
    assert {pair: found[pair][0] for pair in wanted} == {
        pair: float(sigmoid(np.array([score], np.float32))[0]) for pair, score in wanted.items()
    }
    footer = read_footer(job.store, job.reader(job.record.plan).modality(0), 0)
    assert footer.space_fields["activation"] == "sigmoid"
    assert footer.space_fields["model_digest"] == job.record.spec.model_digest
    assert footer.notes == ("scores are the model's, through Sigmoid",)


def test_a_pair_that_the_model_refuses_costs_itself(tmp_path: Path) -> None:
    """Of a batch the bad pairs are found: one raises, one has no finite score; all others are scored and ranked."""
    items = [*ITEMS[:10], {"id": "x", "text": "!raise"}, {"id": "y", "text": "!nan"}]
    pairs = [{"query_id": "q000", "item_id": item["id"]} for item in items]
    job = planned(tmp_path, pairs, QUERIES, items, scoring=RAW)

    InlineMill(job, faults="poison").run()

    assert {(failure["id"], failure["code"]) for failure in failures_of(tmp_path / "out")} == {
        ("q000\tx", "forward_failed"),
        ("q000\ty", "score_not_finite"),
    }
    wanted = hash_scores(pairs[:10], QUERIES, ITEMS)
    assert {pair: rank for pair, (_, rank) in scores_of(tmp_path / "out").items()} == ranked(wanted)
    assert verify_job(job).complete


def test_a_failed_side_fails_its_pairs_and_says_which(tmp_path: Path) -> None:
    """An id that is nowhere, and a text that is empty, cost the pairs that name them; the message names the side."""
    items = [{"id": "a", "text": "a cat"}, {"id": "b", "text": " "}]
    pairs = [{"query_id": query, "item_id": item} for query in ("q000", "gone") for item in ("a", "b")]
    job = planned(tmp_path, pairs, QUERIES, items)

    InlineMill(job).run()

    failures = {f["id"]: (f["code"], f["stage"], f["message"], f["retryable"]) for f in failures_of(tmp_path / "out")}
    assert failures == {
        "gone\ta": ("id_unknown", "parse", "the query: no row of the manifest has this id", False),
        "gone\tb": ("id_unknown", "parse", "the query: no row of the manifest has this id", False),
        "q000\tb": ("text_empty", "parse", "the item: the text is empty or white space only", False),
    }
    assert list(scores_of(tmp_path / "out")) == [("q000", "a")]


def test_a_retry_adds_scores_and_the_view_ranks_them_all(tmp_path: Path) -> None:
    """Published ranks stay; those that a retry adds are null, and the view `scores` counts all of a query's items."""
    job = planned(tmp_path, PAIRS, QUERIES, ITEMS, scoring=RAW)
    loader = CountingLoader()
    loader.down = {"d001", "d002", "d003"}
    InlineMill(job, loader=loader).run()
    before = scores_of(tmp_path / "out")
    loader.down = set()

    plan_retry(job)
    InlineMill(job, loader=loader).run()

    wanted, found = hash_scores(PAIRS, QUERIES, ITEMS), scores_of(tmp_path / "out")
    assert {pair: score for pair, (score, _) in found.items()} == wanted
    assert {pair for pair, (_, rank) in found.items() if rank is None} == wanted.keys() - before.keys() != set()
    assert before.items() <= found.items()
    assert verify_job(job).complete
    with duckdb.connect() as base:
        base.execute((tmp_path / "out" / "views.sql").read_text())
        rows = base.sql("SELECT query_id, item_id, rank FROM scores").fetchall()
        left = base.sql("SELECT count(*) FROM failures").fetchall()
    assert {(query, item): rank for query, item, rank in rows} == ranked(wanted)
    assert left == [(0,)]


def test_verify_finds_ranks_that_are_not_those_of_the_scores(tmp_path: Path) -> None:
    """A file that is whole, of the right pairs and scores, but with two ranks exchanged, is a problem."""
    job = planned(tmp_path, PAIRS, QUERIES, ITEMS)
    InlineMill(job).run()
    [file] = (tmp_path / "out" / "data").rglob("*.parquet")
    table = pq.ParquetFile(file).read()
    swapped = table["rank"].to_pylist()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    changed = table.set_column(3, table.schema.field("rank"), pa.array(swapped, pa.int32()))
    file.write_bytes(column_file(changed, floats=["score"]))

    problems = verify_job(job).problems

    assert any("its ranks are not those of its scores" in problem for problem in problems), json.dumps(problems)


def test_only_the_uncertain_band_is_scored(tmp_path: Path) -> None:
    """With a band, what the join was sure of keeps its place above and below, without a score; what is within is
    scored and ranked in the middle; the model's side of the rest is never loaded; verify and the view agree.
    """
    pairs = [pair | {"score": (n % 10) / 10, "rank": 1} for n, pair in enumerate(PAIRS)]
    job = planned(tmp_path, pairs, QUERIES, ITEMS, scoring=RAW, band=(0.3, 0.6), keep=("join_score",))
    loader = CountingLoader()

    InlineMill(job, loader=loader).run()

    joined = {(pair["query_id"], pair["item_id"]): pair["score"] for pair in pairs}
    within = [pair for pair in pairs if 0.3 <= pair["score"] <= 0.6]
    wanted = hash_scores(within, QUERIES, ITEMS)
    found = scores_of(tmp_path / "out")
    assert {pair: score for pair, (score, _) in found.items()} == {pair: wanted.get(pair) for pair in joined}
    places = {  # above the band, within, below: 1000 apart, so that no score of one reaches another
        pair: (1000 if score > 0.6 else -1000 if score < 0.3 else 0) + wanted.get(pair, score)
        for pair, score in joined.items()
    }
    assert {pair: rank for pair, (_, rank) in found.items()} == ranked(places)
    assert set(loader.loads) == {pair[name] for pair in within for name in ("query_id", "item_id")}
    assert verify_job(job).complete
    with duckdb.connect() as base:
        base.execute((tmp_path / "out" / "views.sql").read_text())
        rows = base.sql("SELECT query_id, item_id, rank FROM scores").fetchall()
    assert {(query, item): rank for query, item, rank in rows} == ranked(places)


@pytest.mark.parametrize("seconds", [0.002, 0.05, 30.0])
def test_scores_do_not_depend_on_the_cut(tmp_path: Path, seconds: float) -> None:
    """Shards of any size give the same scores and ranks."""
    job = planned(tmp_path, PAIRS, QUERIES, ITEMS, scoring=RAW, shard_seconds=seconds)

    InlineMill(job).run()

    wanted = hash_scores(PAIRS, QUERIES, ITEMS)
    assert scores_of(tmp_path / "out") == {pair: (wanted[pair], rank) for pair, rank in ranked(wanted).items()}
