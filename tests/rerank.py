"""Rerank jobs for tests: queries, items, pairs of them, and what was published."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from producer.rerank_job import RerankRequest, prepare_rerank
from storage.jobs import Job
from storage.model_files import resolve_model
from tests.mill import write_jsonl
from workers.hash_encoder import canonical_bytes
from workers.hash_scorer import expected_score
from workers.loading import Loaded

MODEL = "hash-rerank"
_WORDS = "a cat sleeps on the sofa while rockets launch over the sea and people drink coffee in berlin".split()

Rows = list[dict[str, Any]]
Pair = tuple[str, str]


def sentences(prefix: str, count: int, *, seed: int, longest: int = 40) -> Rows:
    """Rows of texts of mixed lengths; the same for the same seed."""
    rng = random.Random(seed)
    return [
        {"id": f"{prefix}{n:03d}", "text": " ".join(rng.choices(_WORDS, k=rng.randint(1, longest)))}
        for n in range(count)
    ]


def crossed(queries: Rows, items: Rows, each: int, *, seed: int = 3) -> Rows:
    """`each` items for every query, in any order."""
    rng = random.Random(seed)
    pairs = [{"query_id": query["id"], "item_id": item["id"]} for query in queries for item in rng.sample(items, each)]
    rng.shuffle(pairs)
    return pairs


def planned(folder: Path, pairs: Rows, queries: Rows, items: Rows, *, out: str = "out", **words: Any) -> Job:
    """A job of these pairs below `folder`, planned as the command line does it."""
    request = RerankRequest(
        pairs=str(write_jsonl(folder / "pairs.jsonl", pairs)),
        left=str(write_jsonl(folder / "queries.jsonl", queries)),
        right=str(write_jsonl(folder / "items.jsonl", items)),
        out=str(folder / out),
        **{"model": MODEL, **words},
    )
    return prepare_rerank(request)


def scores_of(out: Path) -> dict[Pair, tuple[float, int | None]]:
    """Score and rank of every published pair; fails on a pair that is there twice."""
    found: dict[Pair, tuple[float, int | None]] = {}
    for file in sorted((out / "data").rglob("*.parquet")):
        for row in pq.ParquetFile(file).read().to_pylist():
            pair = (row["query_id"], row["item_id"])
            assert pair not in found
            found[pair] = (row["score"], row["rank"])
    return found


def failures_of(out: Path) -> Rows:
    """Every failure."""
    tables = [pq.read_table(file) for file in sorted((out / "failures").glob("*.parquet"))]
    return pa.concat_tables(tables).to_pylist() if tables else []


def hash_scores(pairs: Rows, queries: Rows, items: Rows) -> dict[Pair, float]:
    """What the model `hash-rerank` gives for pairs of texts, as it is by --activation none."""
    digest = resolve_model(MODEL).card.digest
    texts = [{row["id"]: canonical_bytes(Loaded(text=row["text"])) for row in rows} for rows in (queries, items)]
    return {
        (pair["query_id"], pair["item_id"]): float(
            expected_score(texts[0][pair["query_id"]], texts[1][pair["item_id"]], digest)
        )
        for pair in pairs
    }


def ranked(scores: dict[Pair, float]) -> dict[Pair, int]:
    """The rank of each pair among those of its query, said in the plainest way."""
    return {
        (query, item): 1 + sum(1 for (q, i), s in scores.items() if q == query and (-s, i) < (-score, item))
        for (query, item), score in scores.items()
    }
