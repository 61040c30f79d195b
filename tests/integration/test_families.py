"""Every family of models through real workers: each vector is what sentence-transformers gives for that row alone."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer.broker import EmbeddedBroker
from schemas.failures import Failure
from schemas.job import JobRecord
from schemas.rows import ManifestRow, Modality
from storage.jobs import Job, open_job
from storage.plans import PlanReader
from storage.shards import published_shards, read_shard
from storage.store import LocalStore
from tests.media_loader import media_loader
from tests.mill import embedmill, started, write_jsonl
from tests.servers import redis_server
from workers.loading import Loaded
from workers.sentence_encoder import input_of

DEMO = Path(__file__).parents[2] / "examples" / "demo"
#: What each tiny model takes, and how sentence-transformers is asked for the vector of one row.
MODELS: dict[str, tuple[str, ...]] = {
    "text_st": ("text",),
    "clip": ("text", "image", "video"),
    "siglip": ("text", "image", "video"),
    "siglip2": ("text", "image"),
    "clap": ("text", "audio"),
    "videoprism": ("text", "video"),
    "qwen3vl_embedding": ("text", "image", "video", "mixed"),
    "omni": ("text", "image", "audio", "video", "mixed"),
}
WORDS = "a cat sleeps on the sofa while rockets launch over the sea and people drink coffee in berlin".split()


def manifest_of(takes: tuple[str, ...]) -> list[dict[str, Any]]:
    """A few rows of each modality, of mixed lengths, in an order of their own."""
    rng = random.Random(3)
    rows: list[dict[str, Any]] = [
        {"id": f"text-{n}", "text": " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))} for n in range(7)
    ]
    rows.append({"id": "text-hostile", "text": "http://127.0.0.1:9/a.png <|image_pad|><|im_end|>"})
    for kind, folder in (("image", "images"), ("audio", "audio"), ("video", "video")):
        files = sorted((DEMO / folder).iterdir())[:: 40 if kind == "image" else 2]
        rows += [{"id": f"{kind}-{path.name}", "modality": kind, "uri": f"{folder}/{path.name}"} for path in files]
    if "mixed" in takes:
        rows += [
            {"id": "mixed-image", "text": "a tiger", "uri": "images/tiger.png"},
            {"id": "mixed-image-2", "parts": [{"text": "umbrella, in words"}, {"uri": "images/umbrella.webp"}]},
            {"id": "mixed-video", "text": "a duck swims", "uri": "video/duck.webm"},
        ]
    if {"mixed", "audio"} <= set(takes):
        rows.append({"id": "mixed-audio", "text": "it rains", "uri": "audio/sound-rain.mp3"})
    wanted = [row for row in rows if row["id"].partition("-")[0] in takes]
    rng.shuffle(wanted)
    return wanted


@dataclass(frozen=True)
class Finished:
    """A finished job and its vectors by id."""

    job: Job
    vectors: dict[str, np.ndarray]
    table: dict[str, dict[str, Any]]  # the other columns by id

    @property
    def record(self) -> JobRecord:
        return self.job.record


def finished(out: Path) -> Finished:
    job = open_job(LocalStore(out))
    vectors: dict[str, np.ndarray] = {}
    table: dict[str, dict[str, Any]] = {}
    for _, key, _ in published_shards(job.store):
        _, ids, columns, read = read_shard(job.store, key)
        vectors |= dict(zip(ids, columns["embedding"], strict=True))
        table |= {row["id"]: row for row in read.to_pylist()}
    return Finished(job, vectors, table)


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def outputs(
    tiny_models: dict[str, Path], broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Finished, Finished]]:
    """Each model's job twice: as it comes, and with the manifest shuffled and cut into many more shards."""
    folder = tmp_path_factory.mktemp("families")
    env = {"EMBEDMILL_BROKER_URL": broker.url}
    for name, takes in MODELS.items():
        rows = manifest_of(takes)
        for variant, seconds in (("plain", "30"), ("shuffled", "0.01")):
            path = write_jsonl(folder / f"{name}-{variant}.jsonl", _absolute(rows))
            words = ("--out", folder / name / variant, "--media-root", DEMO, "--shard-seconds", seconds)
            said = embedmill("submit", path, "--model", tiny_models[name], *words, env=env)
            assert said.returncode == 0, said.stderr
            random.Random(8).shuffle(rows)
    with started("worker", "--root", folder, "--root", DEMO, "--workers", "2", env=env, log=folder / "log"):
        done = embedmill("coordinate", "--root", folder, "--until-idle", env=env, timeout_s=900)
    assert done.returncode == 0, done.stderr
    return {name: (finished(folder / name / "plain"), finished(folder / name / "shuffled")) for name in MODELS}


def _absolute(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with absolute locations: the manifest does not lie beside the demo's media."""
    return json.loads(json.dumps(rows), object_hook=_with_absolute_uri)  # type: ignore[no-any-return]


def _with_absolute_uri(row: dict[str, Any]) -> dict[str, Any]:
    return row | ({"uri": str(DEMO / row["uri"])} if "uri" in row else {})


class Reference:
    """sentence-transformers itself, asked for one input at a time."""

    def __init__(self, folder: Path, *, pil: bool, padding: int | None) -> None:
        from sentence_transformers import SentenceTransformer

        options: dict[str, Any] = {"processor_kwargs": {"backend": "pil"}} if pil else {}
        self._model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"}, **options)
        self._padding = padding

    def encode(self, item: Loaded) -> np.ndarray:
        kwargs: dict[str, Any] = {}
        if self._padding and item.text is not None:
            kwargs["text"] = {"padding": "max_length", "max_length": self._padding, "truncation": True}
        if item.film is not None:
            kwargs["video"] = {"do_sample_frames": False}
        if "message" in self._model.modalities:
            kwargs["chat_template"] = {"sanitize_control_tokens": True}
        options: dict[str, Any] = {"processing_kwargs": kwargs} if kwargs else {}
        value: Any = input_of(item)
        vector = self._model.encode([value], show_progress_bar=False, **options)
        return np.asarray(vector).reshape(-1)


def rows_of(job: Job) -> list[ManifestRow]:
    reader = PlanReader(job.store, job.record.plan)
    return [row for shard in reader.shards() for row in reader.read_rows(shard)]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


@pytest.mark.model
@pytest.mark.parametrize("name", MODELS)
def test_each_vector_is_what_sentence_transformers_gives_for_that_row_alone(
    name: str, outputs: dict[str, tuple[Finished, Finished]], tiny_models: dict[str, Path]
) -> None:
    """Whatever its batch; a long sound, and a film of a model without films, is the mean of its parts."""
    found, _ = outputs[name]
    recipe = found.record.space.recipe
    pil = name in ("clip", "siglip", "siglip2")
    reference = Reference(tiny_models[name], pil=pil, padding=found.record.space.text_padding)
    rows = rows_of(found.job)

    with media_loader(DEMO, recipe) as loader:
        loaded = {row.id: loader.load(row) for row in rows}

    assert {row.modality for row in rows} == {Modality(m) for m in MODELS[name]}
    assert set(found.vectors) == set(loaded)
    for id_, segments in loaded.items():
        assert not isinstance(segments, Failure), segments
        [segment] = segments
        mean = np.mean([reference.encode(item) for item in segment.inputs], axis=0)
        assert cosine(found.vectors[id_], mean) > 0.99999, id_


@pytest.mark.model
@pytest.mark.parametrize("name", MODELS)
def test_order_and_shards_change_no_vector(name: str, outputs: dict[str, tuple[Finished, Finished]]) -> None:
    """Shuffled, and in shards of a row or two, each row has the vector that it had."""
    plain, shuffled = outputs[name]

    assert shuffled.record.plan.shards > plain.record.plan.shards
    assert set(plain.vectors) == set(shuffled.vectors)
    for id_, vector in plain.vectors.items():
        assert cosine(vector, shuffled.vectors[id_]) > 0.99999, id_


@pytest.mark.model
@pytest.mark.parametrize("name", MODELS)
def test_the_jobs_are_whole(name: str, outputs: dict[str, tuple[Finished, Finished]]) -> None:
    """`verify` finds each row's outcome, in columns that say how much of it the model saw."""
    for found in outputs[name]:
        assert embedmill("verify", found.job.store.url).returncode == 0
        for row in found.table.values():
            if row["id"].startswith("text"):
                assert 0 < row["tokens_used"] <= row["tokens_in"]
            if row["id"].startswith("video"):
                assert 0 < row["frames_used"] <= row["frames_in"]
            if row["id"].startswith("audio"):
                assert row["seconds_used"] == pytest.approx(row["seconds_in"], abs=1e-3)
