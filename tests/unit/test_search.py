"""Search: the nearest rows of a job, whatever its shards and the type of its vectors, and what a query is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from producer.query import file_row, query_recipe, text_row
from schemas.errors import ModelError, Refused, SpecMismatch
from schemas.recipe import OutputType, Recipe, Role
from schemas.rows import Modality
from schemas.settings import Settings
from schemas.shard import Footer
from schemas.space import Space
from similarity.search import cosines, search
from storage import layout
from storage.jobs import Job
from storage.model_files import resolve_model
from storage.ranges import Ranges
from storage.shards import FAILURES_SCHEMA, ShardOutput, content_sha256, publish
from storage.store import memory_store
from tests.inline import InlineMill
from tests.jobs import DIGEST, DIM, planned_job, text_rows
from tests.mill import embedmill, texts, write_jsonl
from workers.hash_encoder import expected_vector
from workers.quantising import quantised
from workers.query import embed_query, model_of

DEMO = Path(__file__).parents[2] / "examples" / "demo"
ALL = tuple(Modality)


def job_of(vectors: np.ndarray, output: OutputType = OutputType.FLOAT32, *, cut: int = 30) -> Job:
    """A job whose row number n has the vector number n, in shards of `cut` rows, stored as `output`."""
    rows = text_rows(len(vectors))
    job = planned_job(memory_store(), [rows[at : at + cut] for at in range(0, len(rows), cut)])
    space = Space(model_digest=DIGEST, dim=DIM, recipe=Recipe(outputs=(output,)))
    ranges = Ranges.of(vectors)
    job.store.create(layout.RANGES, ranges.to_json())
    job = Job(job.store, replace(job.record, space=space))
    for shard in job.reader(job.record.plan).shards():
        part = rows[shard * cut : (shard + 1) * cut]
        stored = quantised(vectors[shard * cut : (shard + 1) * cut], output, ranges)
        ids, columns = [row.id for row in part], {"embedding": stored}
        footer = Footer(
            job=job.id,
            plan=job.record.plan.digest,
            shard=shard,
            attempt="0" * 16,
            space=space.digest,
            modality="text",
            model="hash",
            rows_planned=len(part),
            rows_ok=len(part),
            vectors=len(part),
            failures={},
            content_sha256=content_sha256(ids, columns),
            worker="test",
            versions={},
        )
        kept = pa.table({"label": [str(row.kept[0]) for row in part]})
        failures = FAILURES_SCHEMA.empty_table()
        output_of = ShardOutput(footer=footer, ids=ids, vectors=columns, usage={}, kept=kept, failures=failures)
        publish(job.store, output_of)
    return job


@pytest.mark.parametrize("output", list(OutputType))
def test_the_nearest_rows_are_those_of_brute_force(output: OutputType) -> None:
    """For each type of vectors: the same rows in the same order as from the whole matrix, with what the plan says."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(100, DIM)).astype(np.float32)
    query = rng.normal(size=DIM).astype(np.float32)
    ranges = Ranges.of(vectors)
    meant = {
        OutputType.INT8: ranges.values(quantised(vectors, OutputType.INT8, ranges)),
        OutputType.BINARY: np.where(vectors > 0, 1.0, -1.0),
        OutputType.FLOAT16: vectors.astype(np.float16),
    }.get(output, vectors)

    found = search(job_of(vectors, output), query, k=7)

    scores = cosines(meant.astype(np.float64), query)
    best = np.lexsort((np.arange(100), -scores))[:7]
    assert [hit.row.id for hit in found.hits] == [f"r{n:06d}" for n in best]
    assert [hit.row.text for hit in found.hits] == [f"text number {n}" for n in best]
    assert [hit.row.kept for hit in found.hits] == [(f"k{n}",) for n in best]
    np.testing.assert_allclose([hit.score for hit in found.hits], scores[best], atol=1e-6)
    assert (found.vectors, found.shards, found.planned, found.stored) == (100, 4, 4, output)


def test_equal_vectors_go_by_id_whatever_the_shards() -> None:
    """Forty rows of the same vector: the first ids, with one score, from shards of any size."""
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(100, DIM)).astype(np.float32)
    vectors[30:70] = vectors[30]

    found = [search(job_of(vectors, cut=cut), vectors[30], k=5).hits for cut in (7, 30, 100)]

    for hits in found:
        assert [hit.row.id for hit in hits] == [f"r{n:06d}" for n in range(30, 35)]
        assert {hit.score for hit in hits} == {1.0}


def test_a_running_job_shows_what_is_published() -> None:
    """One shard of three: its rows are found, and the count says that there are more to come."""
    job = planned_job(memory_store(), [text_rows(5, first=5 * n) for n in range(3)])
    mill = InlineMill(job)

    with pytest.raises(Refused, match="no vector so far"):
        search(job, np.ones(DIM, np.float32), k=3)
    mill.work(mill.message(1))
    found = search(job, np.ones(DIM, np.float32), k=30)

    assert sorted(hit.row.id for hit in found.hits) == [f"r{n:06d}" for n in range(5, 10)]
    assert (found.shards, found.planned) == (1, 3)


def test_only_rows_of_the_modality_asked_for() -> None:
    """There are texts alone: as images nothing is found, and it is said."""
    job = job_of(np.eye(DIM, dtype=np.float32))

    assert search(job, np.ones(DIM, np.float32), k=3, modality=Modality.TEXT).vectors == DIM
    with pytest.raises(Refused, match="of modality image"):
        search(job, np.ones(DIM, np.float32), k=3, modality=Modality.IMAGE)


def test_a_text_is_never_a_path(tmp_path: Path) -> None:
    """A text that names a file, or a URL, is embedded as the text it is."""
    (tmp_path / "cat.png").write_bytes((DEMO / "images" / "tiger.png").read_bytes())
    job = hash_job()
    model = model_of(job, Settings())

    for text in (str(tmp_path / "cat.png"), "https://example.com/cat.png", "-k"):
        vector = embed_query(job, model, text_row(text, ALL), Recipe(), Settings())

        assert np.array_equal(vector, expected_vector(text.encode(), model.card.digest, DIM))


def test_a_file_is_read_as_its_ending_says(tmp_path: Path) -> None:
    """A picture gets the vector of its pixels, also where its folder is reached by a link."""
    picture = Image.new("RGB", (3, 2), (10, 20, 30))
    (tmp_path / "real").mkdir()
    picture.save(tmp_path / "real" / "p.png")
    (tmp_path / "link").symlink_to("real")
    job = hash_job()
    model = model_of(job, Settings())

    vector = embed_query(job, model, file_row(str(tmp_path / "link" / "p.png"), ALL), Recipe(), Settings())

    assert np.array_equal(vector, expected_vector(b"3x2:" + picture.tobytes(), model.card.digest, DIM))


def test_what_is_no_query_is_refused(tmp_path: Path) -> None:
    """An empty text, a text or a picture for a model without, an ending that tells nothing, no file, no picture."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    job = hash_job()

    with pytest.raises(Refused, match="empty or white space"):
        text_row(" ", ALL)
    with pytest.raises(Refused, match="takes no text, but image"):
        text_row("a", (Modality.IMAGE,))
    with pytest.raises(Refused, match="takes no image"):
        file_row(str(tmp_path / "broken.png"), (Modality.TEXT,))
    with pytest.raises(Refused, match="tells no medium"):
        file_row("/etc/passwd", ALL)
    with pytest.raises(Refused, match="no such file"):
        file_row(str(tmp_path / "none.png"), ALL)
    with pytest.raises(Refused, match="cannot be embedded"):
        embed_query(job, model_of(job, Settings()), file_row(str(tmp_path / "broken.png"), ALL), Recipe(), Settings())


def test_a_model_that_is_not_the_jobs_is_refused() -> None:
    """Not here, or with other files: named, and nothing is embedded."""
    job = hash_job()
    spec = job.record.spec
    gone = Job(job.store, replace(job.record, spec=replace(spec, model="/models/that-is-not-here")))
    changed = Job(job.store, replace(job.record, spec=replace(spec, model_digest="1" * 64)))

    with pytest.raises(ModelError, match="no such folder"):
        model_of(gone, Settings())
    with pytest.raises(SpecMismatch, match="not those that"):
        model_of(changed, Settings())


def test_a_query_is_asked_as_a_query() -> None:
    """With the model's prompt for queries, of rows that are documents or neither; a prompt of one's own stays."""
    plain = replace(resolve_model("minilm").card, prompts=(), default_prompt="")
    asking = replace(plain, prompts=(("query", "Find: "), ("document", "")))

    assert query_recipe(asking, Recipe()).prompt == "Find: "
    assert query_recipe(asking, Recipe(role=Role.DOCUMENT)).role is Role.QUERY
    assert query_recipe(asking, Recipe(role=Role.DOCUMENT, truncate_dim=64)).truncate_dim == 64
    assert query_recipe(asking, Recipe(prompt="Mine: ")) == Recipe(prompt="Mine: ")
    assert query_recipe(plain, Recipe()) == Recipe()
    assert query_recipe(plain, Recipe(segment_s=2.0)) == Recipe()


@pytest.mark.model
def test_a_query_is_sentence_transformers_own(tiny_models: dict[str, Path]) -> None:
    """A model with prompts: the vector of a query is that of `encode_query`."""
    from sentence_transformers import SentenceTransformer

    folder = tiny_models["qwen3vl_embedding"]
    card = resolve_model(str(folder)).card
    recipe = query_recipe(card, Recipe(role=Role.DOCUMENT))
    job = hash_job()
    spec = replace(job.record.spec, model=str(folder), model_digest=card.digest)
    job = Job(job.store, replace(job.record, spec=spec, space=Space.of(card, Recipe(role=Role.DOCUMENT))))

    vector = embed_query(job, model_of(job, Settings()), text_row("a cat", ALL), recipe, Settings())

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    assert recipe.prompt
    assert float(vector @ model.encode_query("a cat")) / float(np.linalg.norm(vector)) > 0.99999


def test_the_command_finds_a_text(tmp_path: Path) -> None:
    """The row with the same words comes first; as JSON too; one line for what cannot be."""
    rows = [{"id": "same", "text": "a kitten asleep on the couch", "label": "x"}, *texts(10)]
    out = tmp_path / "out"
    done = embedmill("run", write_jsonl(tmp_path / "r.jsonl", rows), "-m", "hash", "-o", out, "-k", "label", "-q")
    assert done.returncode == 0, done.stderr

    shown = embedmill("search", out, "a kitten asleep on the couch", "--top-k", 3)
    told = json.loads(embedmill("search", out, "a kitten asleep on the couch", "--json").stdout)
    wrong = [embedmill("search", out), embedmill("search", tmp_path, "a cat")]

    assert shown.stdout.splitlines()[0].split() == "1 1.0000 same text a kitten asleep on the couch x".split()
    assert len(shown.stdout.splitlines()) == 3
    assert "11 vectors of model hash" in shown.stderr
    assert [hit["rank"] for hit in told["hits"]] == list(range(1, 11))
    assert told["hits"][0] | {"score": 1.0} == {
        "rank": 1,
        "score": 1.0,
        "id": "same",
        "modality": "text",
        "start_s": None,
        "text": "a kitten asleep on the couch",
        "uri": None,
        "parts": None,
        "kept": {"label": "x"},
    }
    assert [(done.returncode, len(done.stderr.splitlines())) for done in wrong] == [(2, 1)] * 2


def hash_job() -> Job:
    """A job of the model `hash`, with one shard that is not worked on."""
    return planned_job(memory_store(), [text_rows(1)], model_digest=resolve_model("hash").card.digest)
