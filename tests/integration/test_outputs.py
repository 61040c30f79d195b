"""What vectors are written as: types, dimensions, prompts, segments."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from storage.shards import published_shards, read_shard
from storage.store import LocalStore
from tests.mill import embedmill, texts, write_jsonl

DEMO = Path(__file__).parents[2] / "examples" / "demo"


def columns_of(out: Path) -> dict[str, dict[str, Any]]:
    """Each row's columns by id."""
    store = LocalStore(out)
    found: dict[str, dict[str, Any]] = {}
    for _, key, _ in sorted(published_shards(store)):
        _, ids, vectors, _ = read_shard(store, key)
        for at, id_ in enumerate(ids):
            found[id_] = {name: column[at] for name, column in vectors.items()}
    return found


def run(manifest: Path, out: Path, model: object, *words: object, env: dict[str, str] | None = None) -> str:
    done = embedmill("run", manifest, "--model", model, "--out", out, *words, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.model
def test_int8_is_byte_equal_whatever_the_shards(tmp_path: Path) -> None:
    """The ranges are the job's, not the shard's, and a row's levels do not depend on its batch: 1, 2 and 7 shards."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(60))
    found, shards = [], []
    for seconds in ("1000", "2.5", "0.22"):
        out = tmp_path / seconds
        words = ("--output-dtype", "int8", "--output-dtype", "float32", "--output-dtype", "binary")
        run(manifest, out, "minilm", *words, "--shard-seconds", seconds)
        found.append(columns_of(out))
        shards.append(json.loads((out / "job.json").read_text())["plan"]["shards"])

    ranges = {(tmp_path / seconds / "plan/int8-ranges.json").read_bytes() for seconds in ("1000", "2.5", "0.22")}
    assert len(ranges) == 1
    assert shards == [1, 2, 7]
    for id_, row in found[0].items():
        for other in found[1:]:
            assert row["embedding"].dtype == np.int8
            assert row["embedding"].tobytes() == other[id_]["embedding"].tobytes()
            assert row["embedding_binary"].tobytes() == other[id_]["embedding_binary"].tobytes()


def test_duckdb_sees_each_type(tmp_path: Path) -> None:
    """The views give arrays of the right width for every column."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(20))
    types = ("float32", "float16", "int8", "binary")
    run(manifest, tmp_path / "out", "hash", *(word for t in types for word in ("--output-dtype", t)))

    with duckdb.connect() as db:
        db.execute((tmp_path / "out" / "views.sql").read_text())
        described = {name: kind for name, kind, *_ in db.execute("DESCRIBE embeddings").fetchall()}

    assert {name: kind for name, kind in described.items() if name.startswith("embedding")} == {
        "embedding": "FLOAT[16]",
        "embedding_float16": "FLOAT[16]",
        "embedding_int8": "TINYINT[16]",
        "embedding_binary": "UTINYINT[2]",
    }
    assert embedmill("verify", tmp_path / "out").returncode == 0


@pytest.mark.model
def test_cut_vectors_are_sentence_transformers_cut_vectors(tmp_path: Path) -> None:
    """--truncate-dim keeps the first dimensions, of unit length."""
    from sentence_transformers import SentenceTransformer

    from storage.model_files import minilm_folder

    rows = texts(20)
    run(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out", "minilm", "--truncate-dim", "64")

    model = SentenceTransformer(str(minilm_folder()), device="cpu", truncate_dim=64)
    expected = model.encode([row["text"] for row in rows], normalize_embeddings=True)
    found = columns_of(tmp_path / "out")
    for row, vector in zip(rows, expected, strict=True):
        assert found[row["id"]]["embedding"] @ vector > 0.99999


@pytest.mark.model
def test_a_role_uses_the_models_prompt(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Queries and documents get their vectors as sentence-transformers' own methods give them."""
    from sentence_transformers import SentenceTransformer

    rows = texts(6)
    manifest = write_jsonl(tmp_path / "rows.jsonl", rows)
    folder = tiny_models["qwen3vl_embedding"]
    run(manifest, tmp_path / "q", folder, "--role", "query", "--size", "cpu")
    run(manifest, tmp_path / "d", folder, "--role", "document", "--size", "cpu")
    run(manifest, tmp_path / "p", folder, "--prompt", "Find the animal.", "--size", "cpu")

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    said = [row["text"] for row in rows]
    for out, expected in (
        ("q", model.encode_query(said)),
        ("d", model.encode_document(said)),
        ("p", model.encode(said, prompt="Find the animal.")),
    ):
        found = columns_of(tmp_path / out)
        for row, vector in zip(rows, expected, strict=True):
            assert found[row["id"]]["embedding"] @ vector > 0.99999, (out, row["id"])


def test_segments_have_a_vector_each(tmp_path: Path) -> None:
    """Sounds and films are cut at the same times each time; the id is kept, start and end are told."""
    rows = [
        {"id": "sound", "uri": "audio/sound-rain.mp3"},
        {"id": "film", "uri": "video/fruit.mp4"},
        {"id": "text", "text": "not cut"},
    ]
    manifest = write_jsonl(tmp_path / "rows.jsonl", [_absolute(row) for row in rows])
    run(manifest, tmp_path / "out", "hash", "--segment", "1s", "--media-root", DEMO)

    with duckdb.connect() as db:
        glob = str(tmp_path / "out" / "data" / "**" / "*.parquet")
        sql = f"SELECT id, start_s, end_s, seconds_in FROM '{glob}' ORDER BY id, start_s"
        found = db.execute(sql).fetchall()

    verified = embedmill("verify", tmp_path / "out")
    sounds = [(start, end) for id_, start, end, _ in found if id_ == "sound"]
    films = [(start, end) for id_, start, end, _ in found if id_ == "film"]
    assert verified.returncode == 0, verified.stdout
    assert sounds == [(0.0, 1.0), (1.0, 2.0)]
    assert [start for start, _ in films] == [float(n) for n in range(len(films))]
    assert len(films) >= 3
    assert [row[1:3] for row in found if row[0] == "text"] == [(None, None)]


def test_a_job_is_not_taken_for_another_with_other_wishes(tmp_path: Path) -> None:
    """The difference is named."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(3))
    run(manifest, tmp_path / "out", "hash")

    other = embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out", "--normalize")

    assert other.returncode == 2
    assert "normalize: False / True" in other.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--truncate-dim", "999"), "--truncate-dim 999: model hash has 16 dimensions; give fewer"),
        (("--prompt-name", "query"), "--prompt-name query: model hash has none; or say it with --prompt"),
        (("--prompt", "a", "--prompt-name", "b"), "two ways to say one thing"),
        (("--output-dtype", "int8", "--output-dtype", "int8"), "--output-dtype int8 is given twice"),
        (("--segment", "soon"), "'soon' is no duration; write 10s, 500ms, 2m, 1h or 1d"),
        (("--keep", "tokens_in"), "--keep tokens_in: the output has a column of that name"),
    ],
)
def test_wishes_that_cannot_be_fulfilled_are_refused(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """Before anything is planned, in one line."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", [{"id": "a", "text": "b", "tokens_in": 1}])

    done = embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out", *words)

    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def _absolute(row: dict[str, Any]) -> dict[str, Any]:
    return row | ({"uri": str(DEMO / row["uri"])} if "uri" in row else {})
