"""The plan of a rerank job: pairs resolved to rows, and cut so that a query's items stay together."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer import pair_planner
from producer.prepare import JobRequest, prepare_job
from producer.rerank_job import RerankRequest, prepare_rerank
from schemas.errors import ManifestError, Refused, SpecMismatch
from schemas.failures import FailureCode
from schemas.rows import Modality, PairRow
from storage.jobs import Job
from storage.parquet import read_parquet
from storage.planned_pairs import pairs_of
from storage.plans import PlanReader
from tests.mill import write_jsonl
from tests.rerank import MODEL, Rows, crossed, planned, sentences

QUERIES, ITEMS = sentences("q", 12, seed=1), sentences("d", 60, seed=2)


def shards_of(job: Job) -> list[tuple[Modality, list[PairRow]]]:
    reader = PlanReader(job.store, job.record.plan)
    return [(reader.modality(n), pairs_of(reader.read_table(n))) for n in reader.shards()]


def rejects_of(job: Job) -> Rows:
    assert job.record.plan.rejects_file is not None
    rejects: Rows = read_parquet(job.store, job.record.plan.rejects_file).to_pylist()
    return rejects


def test_a_query_is_never_cut(tmp_path: Path) -> None:
    """However small the shards, all items of a query are in one, and nothing is lost or doubled."""
    pairs = crossed(QUERIES, ITEMS, 20)

    job = planned(tmp_path, pairs, QUERIES, ITEMS, shard_seconds=0.01)

    shards = [rows for _, rows in shards_of(job)]
    assert len(shards) > 4
    assert sorted(pair.id for rows in shards for pair in rows) == sorted(
        f"{pair['query_id']}\t{pair['item_id']}" for pair in pairs
    )
    queries = [{pair.query.id for pair in rows} for rows in shards]
    assert sum(map(len, queries)) == len(set.union(*queries)) == len(QUERIES)


def test_the_order_of_the_pairs_changes_no_shard(tmp_path: Path) -> None:
    """Shards hold the same pairs with the same contents, whatever order the manifests are in."""
    pairs = crossed(QUERIES, ITEMS, 20)
    (tmp_path / "other").mkdir()

    one = planned(tmp_path, pairs, QUERIES, ITEMS, shard_seconds=0.01)
    other = planned(tmp_path / "other", pairs[::-1], QUERIES[::-1], ITEMS[::-1], shard_seconds=0.01)

    contents = [
        [[(pair.id, pair.query.text, pair.item.text) for pair in rows] for _, rows in shards_of(job)]
        for job in (one, other)
    ]
    assert contents[0] == contents[1]


def test_an_unknown_id_is_a_failure_and_a_pair_that_comes_again_a_reject(tmp_path: Path) -> None:
    """The pair keeps its place with the side that is missing; the later of two equal pairs names the earlier's line."""
    pairs = [
        {"query_id": "q000", "item_id": "d000"},
        {"query_id": "q000", "item_id": "nowhere"},
        {"query_id": "nobody", "item_id": "d000"},
        {"query_id": "q000", "item_id": "d000"},
        {"query_id": "", "item_id": "d000"},
    ]

    job = planned(tmp_path, pairs, QUERIES, ITEMS)

    [(_, rows)] = shards_of(job)
    assert {pair.id: (pair.query.defect, pair.item.defect) for pair in rows} == {
        "nobody\td000": (FailureCode.ID_UNKNOWN, None),
        "q000\td000": (None, None),
        "q000\tnowhere": (None, FailureCode.ID_UNKNOWN),
    }
    rejects = {reject["line"]: (reject["code"], reject["message"]) for reject in rejects_of(job)}
    assert rejects[4] == ("duplicate_pair", "the pair was there before, on line 1")
    assert rejects[5][0] == "missing_id"
    assert len(rejects) == 2


def test_media_are_found_from_the_folder_of_their_own_side(tmp_path: Path) -> None:
    """Two manifests in two folders: relative uris lead to each its own, and both may be read from."""
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
    request = RerankRequest(
        pairs=str(write_jsonl(tmp_path / "pairs.jsonl", [{"query_id": "a", "item_id": "b"}])),
        left=str(write_jsonl(tmp_path / "left" / "rows.jsonl", [{"id": "a", "text": "a cat"}])),
        right=str(write_jsonl(tmp_path / "right" / "rows.jsonl", [{"id": "b", "uri": "one.png", "text": "its title"}])),
        model=MODEL,
        out=str(tmp_path / "out"),
    )

    job = prepare_rerank(request)

    [(modality, [pair])] = shards_of(job)
    assert modality is Modality.IMAGE
    assert [part.uri or part.text for part in pair.item.parts] == [f"{tmp_path}/right/one.png", "its title"]
    assert job.record.spec.media_roots == (f"{tmp_path}/left", f"{tmp_path}/right")


def test_the_modality_of_a_shard_is_that_of_all_items_of_its_queries(tmp_path: Path) -> None:
    """A query with texts and images is one of images; with images and sounds it is mixed."""
    queries = sentences("q", 3, seed=1)
    items = [{"id": "t", "text": "a"}, {"id": "i", "uri": "i.png"}, {"id": "s", "uri": "s.wav"}]
    pairs = [
        {"query_id": query, "item_id": item}
        for query, its in (("q000", "t"), ("q001", "ti"), ("q002", "is"))
        for item in its
    ]

    job = planned(tmp_path, pairs, queries, items)

    assert {rows[0].query.id: str(modality) for modality, rows in shards_of(job)} == {
        "q000": "text",
        "q001": "image",
        "q002": "mixed",
    }


def test_sides_may_be_jobs_and_pairs_a_join(tmp_path: Path) -> None:
    """Ids are those of a job's planned rows; a join's folder is read file by file, with columns of its own kept."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", ITEMS)
    prepare_job(JobRequest(manifest=str(manifest), model="hash", out=str(tmp_path / "vectors")))
    (tmp_path / "join" / "data").mkdir(parents=True)
    for n, (left, right) in enumerate([("d001", "d002"), ("d003", "d004")]):
        columns = {"left_id": [left], "right_id": [right], "score": [0.5], "rank": [1], "left.label": [f"l{n}"]}
        pq.write_table(pa.table(columns), tmp_path / "join" / "data" / f"part-{n:06d}.parquet")
    side = str(tmp_path / "vectors")
    request = RerankRequest(
        pairs=str(tmp_path / "join"), left=side, right=side, model=MODEL, out=str(tmp_path / "o"), keep=("left.label",)
    )

    job = prepare_rerank(request)

    [(_, rows)] = shards_of(job)
    texts = {row["id"]: row["text"] for row in ITEMS}
    assert [(pair.id, pair.query.text, pair.item.text, pair.kept) for pair in rows] == [
        ("d001\td002", texts["d001"], texts["d002"], ("l0",)),
        ("d003\td004", texts["d003"], texts["d004"], ("l1",)),
    ]


def test_a_changed_side_is_named(tmp_path: Path) -> None:
    """The same command over another manifest of items is refused in one line that names the file."""
    pairs = crossed(QUERIES, ITEMS, 3)
    planned(tmp_path, pairs, QUERIES, ITEMS)

    with pytest.raises(SpecMismatch, match=r"items\.jsonl has changed since the job .* was planned \(right_sha256: "):
        planned(tmp_path, pairs, QUERIES, ITEMS[:-1])


def test_a_query_with_too_many_items_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are among all items of a query, so it is not cut but refused, by its name."""
    monkeypatch.setattr(pair_planner, "MAX_ITEMS", 9)

    with pytest.raises(Refused, match="query q000 has 10 items"):
        planned(tmp_path, crossed(QUERIES, ITEMS, 10), QUERIES, ITEMS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"model": "minilm"}, "model minilm makes vectors and scores no pairs"),
        ({"keep": ("score",)}, "--keep score: the output has a column of that name"),
        ({"band": (0.1, 0.2)}, "the first on line 1: the join score is missing"),
        ({"keep": ("lable",)}, "no pair has a value for --keep lable"),
        ({"band": (0.2, 0.1)}, "--selective 0.2 0.1: the first is to be the lower score"),
        ({"query_column": "q"}, "--query-column and --item-column go together"),
        ({"query_column": "q", "item_column": "d"}, "has no columns q and d; it has query_id, item_id"),
        ({"id_column": "key"}, "of no pair are both ids there"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(tmp_path: Path, words: dict[str, Any], said: str) -> None:
    """Each refusal names the thing and what to give instead, and leaves no job behind."""
    with pytest.raises((Refused, ManifestError)) as refused:
        planned(tmp_path, crossed(QUERIES, ITEMS, 2), QUERIES, ITEMS, **words)

    assert said in str(refused.value)
    assert not (tmp_path / "out" / "job.json").exists()
