"""Joins, dedups and rerank jobs as what other commands are given: their folders, their ends, their pairs."""

from pathlib import Path

import pytest

from producer.prepare import JobRequest, prepare_job
from producer.rerank_job import RerankRequest, prepare_rerank
from schemas.errors import EmbedmillError, Refused, SpecMismatch
from similarity.dedup_request import DedupRequest, dedup_here
from similarity.join_request import SideRequest
from similarity.quality import evaluate
from storage import layout
from tests.joins import join_of, random_file
from tests.mill import write_jsonl
from tests.rerank import MODEL, sentences

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
