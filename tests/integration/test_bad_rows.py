"""Bad rows among good ones: each costs itself and nothing else."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas.failures import FailureCode
from storage.jobs import open_job
from storage.store import LocalStore
from tests.bad_images import Sample, bad_images, good_images, write_images
from tests.mill import embedmill, texts, without_network, write_jsonl
from workers.decode import decode_image
from workers.hash_encoder import canonical_bytes, expected_vector
from workers.loading import Loaded

Row = dict[str, Any]

BAD_TEXTS: dict[FailureCode, str] = {
    FailureCode.TEXT_EMPTY: " \t\n ",
    FailureCode.TEXT_NUL: "a text\0with a NUL",
    FailureCode.TEXT_SURROGATE: "half a character: \ud83d",
    FailureCode.TEXT_TOO_LONG: "x" * 1_000_001,
}


def bad_rows(count: int, *, sound: FailureCode) -> list[tuple[Row, FailureCode]]:
    """`count` bad rows, every kind many times, each with its code; `sound` is that of a sound that is not there."""
    kinds: list[tuple[Row, FailureCode]] = [
        ({"uri": sample.name, "modality": "image"}, sample.code) for sample in bad_images() if sample.code
    ]
    kinds += [({"text": text, "modality": "text"}, code) for code, text in BAD_TEXTS.items() if len(text) < 1000]
    kinds += [
        ({"uri": "nul\0.png", "modality": "image"}, FailureCode.URI_INVALID),
        ({"uri": "", "modality": "image"}, FailureCode.URI_EMPTY),
        ({"uri": "sound.wav"}, sound),
    ]
    return [({"id": f"bad-{n:04d}", **kinds[n % len(kinds)][0]}, kinds[n % len(kinds)][1]) for n in range(count)]


def image_rows(count: int, samples: Iterable[Sample]) -> list[Row]:
    names = [sample.name for sample in samples]
    return [{"id": f"img-{n:05d}", "uri": names[n % len(names)]} for n in range(count)]


def shuffled_manifest(folder: Path, rows: list[Row]) -> Path:
    """The rows in one fixed disorder, written so that every kind of text survives JSON."""
    rows = list(rows)
    random.Random(7).shuffle(rows)
    return write_jsonl(folder / "rows.jsonl", rows)


def outcomes(out: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Vectors and failure codes by id; no id may have two outcomes."""
    vectors: dict[str, np.ndarray] = {}
    for path in (out / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        for item, vector in zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True):
            assert item not in vectors
            vectors[item] = np.asarray(vector, np.float32)
    failures: dict[str, str] = {}
    for path in (out / "failures").rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            assert row["id"] not in failures
            failures[row["id"]] = row["code"]
    assert not set(vectors) & set(failures)
    return vectors, failures


def test_a_hundred_bad_among_ten_thousand_cost_a_hundred(tmp_path: Path) -> None:
    """Exactly the bad rows are failures, each with its code; every other vector is the row's own, bit for bit."""
    samples = good_images()
    write_images(tmp_path, [*samples, *bad_images()])
    bad = bad_rows(100, sound=FailureCode.NOT_FOUND)
    good_texts, good_pictures = texts(8000), image_rows(1900, samples)
    manifest = shuffled_manifest(tmp_path, [*good_texts, *good_pictures, *(row for row, _ in bad)])
    out = tmp_path / "out"

    done = embedmill("run", manifest, "--model", "hash", "--out", out, "--json")

    vectors, failures = outcomes(out)
    assert done.returncode == 1, done.stderr
    assert failures == {row["id"]: str(code) for row, code in bad}
    assert set(vectors) == {row["id"] for row in [*good_texts, *good_pictures]}
    digest = open_job(LocalStore(out)).record.spec.model_digest
    content = {row["id"]: row["text"].encode() for row in good_texts}
    pixels = {sample.name: pixel_bytes(sample) for sample in samples}
    content |= {row["id"]: pixels[row["uri"]] for row in good_pictures}
    for item, vector in vectors.items():
        np.testing.assert_array_equal(vector, expected_vector(content[item], digest, 16))
    assert json.loads(embedmill("verify", out, "--json").stdout)["complete"]


def pixel_bytes(sample: Sample) -> bytes:
    """What the hash encoder is fed for an image."""
    assert sample.data is not None
    image = decode_image(sample.data, max_pixels=50_000_000)
    return canonical_bytes(Loaded(image=image))  # type: ignore[arg-type]  # a Failure would fail here, as it should


@pytest.mark.model
def test_with_a_real_model_too(tmp_path: Path) -> None:
    """Text and images of the demo model: bad rows fail with their codes, good ones equal sentence-transformers' own;
    and nothing of it, once installed, needs a network: the whole job runs where there is none."""
    samples = good_images()
    write_images(tmp_path, [*samples, *bad_images()])
    bad = bad_rows(40, sound=FailureCode.MODALITY_UNSUPPORTED)
    good_texts, good_pictures = texts(60), image_rows(len(samples), samples)
    manifest = shuffled_manifest(tmp_path, [*good_texts, *good_pictures, *(row for row, _ in bad)])
    out = tmp_path / "out"

    done = embedmill("run", manifest, "--model", "demo", "--out", out, before=without_network())

    vectors, failures = outcomes(out)
    assert done.returncode == 1, done.stderr
    assert failures == {row["id"]: str(code) for row, code in bad}
    alone = reference_vectors(good_texts, good_pictures, {sample.name: sample for sample in samples})
    assert set(vectors) == set(alone)
    worst = min(float(vectors[item] @ alone[item]) for item in alone)  # both of unit length
    assert worst > 0.99999


def reference_vectors(rows: list[Row], pictures: list[Row], samples: dict[str, Sample]) -> dict[str, np.ndarray]:
    """Each row alone through SentenceTransformer.encode."""
    from sentence_transformers import SentenceTransformer

    from storage.model_files import resolve_model
    from workers.conse import register_conse
    from workers.demo_model import demo_folder

    register_conse()
    folder = demo_folder("", resolve_model("demo").card.digest)
    model = SentenceTransformer(str(folder), device="cpu", processor_kwargs={"backend": "pil"})
    alone = {row["id"]: model.encode({"text": row["text"]}) for row in rows}
    for row in pictures:
        sample = samples[row["uri"]]
        assert sample.data is not None
        alone[row["id"]] = model.encode([decode_image(sample.data, max_pixels=10**9)])[0]
    return alone
