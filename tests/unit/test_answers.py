"""Joins, dedups and rerank jobs as what other commands are given: their folders, their ends, their pairs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from producer.prepare import JobRequest, prepare_job
from producer.rerank_job import RerankRequest, prepare_rerank
from schemas.errors import EmbedmillError, Refused, SpecMismatch
from schemas.rerank import Activation, Scoring
from similarity.dedup_request import DedupRequest, dedup_here
from similarity.join_request import SideRequest
from similarity.quality import evaluate
from similarity.standing import standing
from storage import layout
from storage.store import open_store
from tests.inline import InlineMill
from tests.joins import join_of, random_file
from tests.mill import embedmill, write_jsonl
from tests.rerank import MODEL, hash_scores, sentences

QUERIES, ITEMS = sentences("q", 12, seed=1), sentences("d", 20, seed=2)


@pytest.fixture
def manifests(tmp_path: Path) -> tuple[Path, Path]:
    """Queries and items whose ids are those of `sides`."""
    return write_jsonl(tmp_path / "queries.jsonl", QUERIES), write_jsonl(tmp_path / "items.jsonl", ITEMS)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Vectors of queries and items."""
    left, right = tmp_path / "left.parquet", tmp_path / "right.parquet"
    return random_file(left, "q", 12, seed=1), random_file(right, "d", 20, seed=2)


def reranked(pairs: Path, manifests: tuple[Path, Path], out: Path) -> None:
    left, right = map(str, manifests)
    prepare_rerank(RerankRequest(pairs=str(pairs), left=left, right=right, model=MODEL, out=str(out)))


def test_no_job_moves_into_the_folder_of_a_join_or_dedup(
    tmp_path: Path, sides: tuple[Path, Path], manifests: tuple[Path, Path]
) -> None:
    """Its manifest.json would be taken for the job's: a job that says it has ended and never began."""
    join_of(*sides, tmp_path / "join", panel_rows=100)
    side = SideRequest(location=str(sides[0]))
    dedup_here(DedupRequest(side=side, threshold=0.9), str(tmp_path / "dedup"), progress=lambda *seen: None)

    for kind in ("join", "dedup"):
        with pytest.raises(SpecMismatch, match=f"holds a {kind}"):
            reranked(tmp_path / "join", manifests, tmp_path / kind)
        with pytest.raises(SpecMismatch, match=f"holds a {kind}"):
            prepare_job(JobRequest(manifest=str(manifests[0]), model="hash", out=str(tmp_path / kind)))
        assert not (tmp_path / kind / layout.JOB).exists()


def test_a_job_of_vectors_and_one_of_pairs_are_told_apart(
    tmp_path: Path, sides: tuple[Path, Path], manifests: tuple[Path, Path]
) -> None:
    """In the folder of the one the other is refused, whichever was first."""
    join_of(*sides, tmp_path / "join", panel_rows=100)
    reranked(tmp_path / "join", manifests, tmp_path / "scores")
    prepare_job(JobRequest(manifest=str(manifests[0]), model="hash", out=str(tmp_path / "vectors")))

    with pytest.raises(SpecMismatch, match="other arguments"):
        prepare_job(JobRequest(manifest=str(manifests[0]), model="hash", out=str(tmp_path / "scores")))
    with pytest.raises(SpecMismatch, match="other arguments"):
        reranked(tmp_path / "join", manifests, tmp_path / "vectors")


def test_pairs_of_a_join_that_has_not_ended_are_refused(
    tmp_path: Path, sides: tuple[Path, Path], manifests: tuple[Path, Path]
) -> None:
    """What it has not found yet would be pairs that nobody scores, and queries that count as missed."""
    judged = write_jsonl(tmp_path / "judged.jsonl", [{"id": "q000", "relevant": ["d000"]}])
    ended = join_of(*sides, tmp_path / "join", panel_rows=5, top_k=3, max_pairs=20)

    assert not ended
    with pytest.raises(Refused, match="the join is not finished"):
        reranked(tmp_path / "join", manifests, tmp_path / "scores")
    with pytest.raises(Refused, match="the join is not finished"):
        evaluate(str(judged), [str(tmp_path / "join")], ks=[1])
    join_of(*sides, tmp_path / "join", panel_rows=5, top_k=3)
    reranked(tmp_path / "join", manifests, tmp_path / "scores")
    with pytest.raises(EmbedmillError, match=r"job scores-\w+ is not finished"):
        evaluate(str(judged), [str(tmp_path / "scores")], ks=[1])


def test_status_and_gc_know_joins_and_dedups(tmp_path: Path, sides: tuple[Path, Path]) -> None:
    """Half done and done: so many panels of so many, exit 3 and 0; nothing is left over; what is for jobs says so."""
    join, dedup = tmp_path / "join", tmp_path / "dedup"
    join_of(*sides, join, panel_rows=5, top_k=3, max_pairs=20)
    dedup_here(
        DedupRequest(side=SideRequest(location=str(sides[0])), threshold=0.9), str(dedup), progress=lambda *seen: None
    )

    half = told("status", join)
    join_of(*sides, join, panel_rows=5, top_k=3)
    whole = told("status", join)

    assert half == (3, {**half[1], "panels": 3, "panels_done": 1, "pairs": 15, "finished": False})
    assert whole == (0, {**half[1], "panels_done": 3, "pairs": 36, "finished": True})
    assert told("status", dedup)[1]["kind"] == "dedup"
    for folder in (join, dedup):
        assert told("gc", folder) == (0, {"job": None, "deleted": False, "bytes": 0, "files": []})
    watched = embedmill("watch", join)
    assert (watched.returncode, watched.stderr) == (0, "")
    assert ": finished\n  panels    3 of 3 done" in watched.stdout
    for command in ("cancel", "retry"):
        done = embedmill(command, join)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "holds a join and no job" in done.stderr


def test_a_dedup_in_its_middle_says_how_far_it_is(tmp_path: Path, sides: tuple[Path, Path]) -> None:
    """Panels and pairs so far; without its last file it is not finished."""
    out = tmp_path / "dedup"
    request = DedupRequest(side=SideRequest(location=str(sides[1])), threshold=0.2)
    pairs = dedup_here(request, str(out), progress=lambda *seen: None).tally.pairs
    (out / layout.KEEP).unlink()

    seen = standing(open_store(str(out)))

    assert (seen.finished, seen.panels, seen.panels_done, seen.prepared, seen.pairs) == (False, None, 1, 1, pairs)
    assert pairs > 0
    assert "1 done" in "\n".join(seen.lines())


def test_the_uncertain_pairs_of_a_join_are_reranked_and_both_are_measured(
    tmp_path: Path, sides: tuple[Path, Path], manifests: tuple[Path, Path]
) -> None:
    """From a join of several panels to scores to numbers: each pair is in its place, recall is that of the places."""
    join_of(*sides, tmp_path / "join", panel_rows=5, top_k=6)
    joined = pq.read_table(tmp_path / "join" / "data").to_pylist()
    low, high = np.quantile([row["score"] for row in joined], [0.1, 0.9])
    left, right = map(str, manifests)
    request = RerankRequest(
        pairs=str(tmp_path / "join"),
        left=left,
        right=right,
        model=MODEL,
        out=str(tmp_path / "scores"),
        band=(float(low), float(high)),
        scoring=Scoring(activation=Activation.NONE),
        keep=("join_rank",),
    )

    InlineMill(prepare_rerank(request)).run()

    scores = hash_scores([{"query_id": r["left_id"], "item_id": r["right_id"]} for r in joined], QUERIES, ITEMS)
    found = pq.read_table(tmp_path / "scores" / "data", partitioning=None).to_pylist()
    expected: dict[tuple[str, str], tuple[int, bool]] = {}
    for query in {row["left_id"] for row in joined}:
        mine = [row for row in joined if row["left_id"] == query]
        sure = {row["right_id"]: int(row["score"] > high) - int(row["score"] < low) for row in mine}
        value = {r["right_id"]: r["score"] if sure[r["right_id"]] else scores[query, r["right_id"]] for r in mine}
        order = sorted(sure, key=lambda item: (-sure[item], -value[item], item))
        expected |= {(query, item): (place, bool(sure[item])) for place, item in enumerate(order, start=1)}
    assert {(r["query_id"], r["item_id"]): (r["rank"], r["score"] is None) for r in found} == expected
    assert {(r["query_id"], r["item_id"]): r["join_rank"] for r in found} == {
        (r["left_id"], r["right_id"]): r["rank"] for r in joined
    }
    truth = {(query["id"], item["id"]) for query, item in zip(QUERIES, ITEMS, strict=False)}
    judged = write_jsonl(tmp_path / "judged.jsonl", [{"query_id": q, "item_id": i} for q, i in sorted(truth)])
    measured = evaluate(str(judged), [str(tmp_path / "join"), str(tmp_path / "scores")], ks=[2]).outputs
    places = (
        {(r["left_id"], r["right_id"]): r["rank"] for r in joined},
        {p: rank for p, (rank, _) in expected.items()},
    )
    for output, rank in zip(measured, places, strict=True):
        assert output.metrics["recall@2"].mean == pytest.approx(np.mean([rank.get(pair, 99) <= 2 for pair in truth]))
        assert output.metrics["mrr"].mean == pytest.approx(np.mean([1 / rank.get(pair, np.inf) for pair in truth]))
    assert measured[0].metrics["mrr"].mean != measured[1].metrics["mrr"].mean


def told(*words: object) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON of a command."""
    done = embedmill(*words, "--json")
    return done.returncode, json.loads(done.stdout)
