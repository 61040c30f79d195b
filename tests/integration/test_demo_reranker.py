"""The demo reranker through the mill, and the pipeline of examples/ from a manifest to a picture."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from storage.model_files import minilm_folder, resolve_model
from tests.mill import embedmill, write_jsonl
from tests.rerank import scores_of
from workers.apart_reader import register_apart_reader
from workers.demo_reranker import demo_reranker_folder

_ROOT = Path(__file__).parents[2]
_DEMO = _ROOT / "examples" / "demo"
#: Query, what fits, what does not; of unlike lengths, so that they are padded.
_CLEAR = [
    ("a hot drink", "A cup of coffee", "A red bicycle"),
    ("a bird that hunts at night", "An owl on a branch. owl, bird, animal, night", "A bowl of soup"),
    ("telling the time", "clock", "A pair of mittens that somebody left in the snow on a cold morning in January"),
]


@pytest.mark.model
def test_what_fits_scores_above_what_does_not(tmp_path: Path, model_cache: str) -> None:
    """Through the mill; each score is that of CrossEncoder.predict on the pair alone, and MiniLM's own cosine."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    queries = [{"id": f"q{n}", "text": query} for n, (query, _, _) in enumerate(_CLEAR)]
    texts = {f"{kind}{n}": text for n, (_, *two) in enumerate(_CLEAR) for kind, text in zip("yn", two, strict=True)}
    pairs = [{"query_id": f"q{n}", "item_id": f"{kind}{n}"} for n in range(len(_CLEAR)) for kind in "yn"]
    words = ["rerank", write_jsonl(tmp_path / "pairs.jsonl", pairs), "--model", "demo-reranker", "--workers", 1]
    words += ["--left", write_jsonl(tmp_path / "queries.jsonl", queries), "--out", tmp_path / "out"]
    words += ["--right", write_jsonl(tmp_path / "items.jsonl", [{"id": i, "text": t} for i, t in texts.items()])]

    done = embedmill(*words, env={"EMBEDMILL_MODEL_CACHE": model_cache})

    assert done.returncode == 0, done.stderr
    scores = {pair: score for pair, (score, _) in scores_of(tmp_path / "out").items()}
    folder = demo_reranker_folder(model_cache, resolve_model("demo-reranker").card.digest)
    register_apart_reader()
    model: CrossEncoder = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    minilm = SentenceTransformer(str(minilm_folder()), device="cpu", local_files_only=True)
    for n, (query, *_) in enumerate(_CLEAR):
        assert scores[f"q{n}", f"y{n}"] > scores[f"q{n}", f"n{n}"] + 0.2, query
        for item in (f"y{n}", f"n{n}"):
            first, second = minilm.encode([query, texts[item]], normalize_embeddings=True)
            assert scores[f"q{n}", item] == pytest.approx(model.predict([(query, texts[item])])[0], abs=1e-5)
            assert scores[f"q{n}", item] == pytest.approx(first @ second, abs=1e-5)


def test_the_pipeline_goes_from_a_manifest_to_a_picture(tmp_path: Path) -> None:
    """A slice of the demo through every step; done again, it goes on where it was and ends the same."""
    rows = [json.loads(line) for line in (_DEMO / "manifest.jsonl").read_text("utf-8").splitlines()]
    queries = [json.loads(line) for line in (_DEMO / "queries.jsonl").read_text("utf-8").splitlines()][:2]
    relevant = {item for query in queries for item in query["relevant"]}
    some = [row for row in rows if row["id"] in relevant or row.get("describes") in relevant]
    for row in some:
        if "uri" in row:
            (tmp_path / row["uri"]).parent.mkdir(exist_ok=True)
            shutil.copy(_DEMO / row["uri"], tmp_path / row["uri"])
    words = ["--manifest", write_jsonl(tmp_path / "manifest.jsonl", some), "--out", tmp_path / "out", "--workers", 1]
    words += ["--queries", write_jsonl(tmp_path / "queries.jsonl", queries), "--depth", 4]
    words += ["--model", "hash", "--reranker", "hash-rerank"]  # what it finds is another test's: these are quick

    told = [_pipeline(*words) for _ in range(2)]

    assert told[0].count("\n$ embedmill ") == 5
    assert queries[0]["text"] in told[0]
    assert "ndcg@10" in told[0]
    assert told[0][told[0].index("The first three") :] == told[1][told[1].index("The first three") :]
    assert len(scores_of(tmp_path / "out" / "demo-scores")) == 2 * 4
    with Image.open(tmp_path / "out" / "demo.png") as sheet:
        assert len(sheet.getcolors(2**24) or []) > 100  # images, not an empty page


def _pipeline(*words: object) -> str:
    command = [sys.executable, str(_ROOT / "examples" / "pipeline.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
