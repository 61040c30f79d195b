"""Estimates: from plans and rates, better with what was measured, and compared with what a job took."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from producer.estimate import MediaSample, estimate_job, read_estimate, write_estimate
from producer.job_receipt import written_receipt
from producer.remembering import remember_rates
from schemas.rates import Rates, Source, guessed_rates
from schemas.rows import ManifestRow, Modality
from schemas.settings import Settings
from storage import layout
from storage.jobs import Job
from storage.model_files import resolve_model
from storage.rates_file import RatesFile
from storage.store import LocalStore
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from tests.media import sound, tone
from tests.mill import embedmill, texts, write_jsonl
from workers.media_sample import look_at_media
from workers.meter import Meter

DIGEST = resolve_model("hash").card.digest
LINEAR = Rates(source=Source.JOB, points={Modality.TEXT: ((10.0, 0.5),)}, load_s=4.0)


def job_in(folder: Path, *shards: list[ManifestRow]) -> Job:
    return planned_job(
        LocalStore(folder), list(shards) or [text_rows(30), text_rows(10, first=30)], model_digest=DIGEST
    )


def media_rows(modality: Modality, uris: list[str]) -> list[ManifestRow]:
    return [
        ManifestRow(id=f"m{n}", line=n + 1, modality=modality, uri=uri, kept=("k",))
        for n, uri in enumerate(sorted(uris))
    ]


def test_a_job_takes_what_its_cost_says(tmp_path: Path) -> None:
    """40 tokens at 0.05 s each are 2 s of workers; two share them, each loads its model, and both are paid for."""
    estimate = estimate_job(job_in(tmp_path), LINEAR, workers=8, price=36.0)

    [queue] = estimate.queues
    assert (queue.queue, queue.rows, queue.shards, queue.worker_s) == ("embed.text.cpu", 40, 2, 2.0)
    assert estimate.workers == 2  # there are no more shards
    assert estimate.seconds == (10.8, 11.0, 11.3)  # 1 s of work, 4 of loading, 6 of starting
    assert estimate.cost == (0.216, 0.22, 0.226)


def test_texts_are_estimated_by_their_lengths(tmp_path: Path) -> None:
    """Of short ones each takes by its own length, of long ones too, where that was measured."""
    curve = ((1.0, 0.001), (10.0, 0.01), (100.0, 1.0))
    rates = Rates(source=Source.BENCH, points={Modality.TEXT: curve})
    short = [replace(row, text="a" * 30) for row in text_rows(20)]
    mixed = [replace(row, text="a" * (4 if n % 2 else 392)) for n, row in enumerate(short)]
    plans = [
        planned_job(LocalStore(tmp_path / name), [rows], model_digest=DIGEST, costs=[cost])
        for name, rows, cost in (("short", short, 20 * 9.5), ("mixed", mixed, 10 * 3.0 + 10 * 100.0))
    ]

    seconds = [estimate_job(job, rates, workers=1).worker_s for job in plans]

    assert seconds[0] == pytest.approx(20 * 0.0095, rel=0.01)
    assert seconds[1] == pytest.approx(10 * 0.003 + 10 * 1.0, rel=0.01)


@pytest.mark.parametrize(("cost", "seconds"), [(5.0, 0.1), (10.0, 0.1), (15.0, 0.3), (20.0, 0.5), (40.0, 1.0)], ids=str)
def test_rates_lie_between_what_was_measured(cost: float, seconds: float) -> None:
    """Straight between two lengths, no less than the shortest, and in proportion beyond the longest."""
    rates = Rates(source=Source.BENCH, points={Modality.TEXT: ((10.0, 0.1), (20.0, 0.5))})

    assert rates.seconds(Modality.TEXT, cost) == pytest.approx(seconds)
    assert rates.seconds(Modality.AUDIO, 40.0) == 1.0


def test_the_less_is_known_the_wider_the_band(tmp_path: Path) -> None:
    """A guess may be four times wrong; what a job took is not; a larger device is thought to be faster."""
    job = job_in(tmp_path)

    bands = [estimate_job(job, replace(LINEAR, source=source), workers=1).seconds for source in Source]
    guesses = [estimate_job(job, guessed_rates(100, size, 0), workers=1).worker_s for size in ("cpu", "gpu24")]

    widths = [high - low for low, _, high in bands]
    assert widths == sorted(widths, reverse=True)
    assert guesses[0] > 50 * guesses[1]


def test_media_are_as_dear_as_those_that_were_looked_at(tmp_path: Path) -> None:
    """On processors decoding is added; beside a GPU it counts where it takes longer; longer sounds take longer."""
    rows = media_rows(Modality.AUDIO, [f"{n}.wav" for n in range(10)])
    job = job_in(tmp_path, rows)
    rates = Rates(source=Source.BENCH, points={Modality.AUDIO: ((1.0, 0.1),)})
    gpu = Job(job.store, replace(job.record, spec=replace(job.record.spec, size="gpu24")))
    slow = {Modality.AUDIO: MediaSample(media=5, fetch_s=0.1, decode_s=0.9)}

    plain = estimate_job(job, rates, workers=1).worker_s
    decoded = estimate_job(job, rates, workers=1, media=slow).worker_s
    beside = estimate_job(gpu, rates, workers=1, media=slow, feeders=2).worker_s
    longer = estimate_job(job, rates, workers=1, media={Modality.AUDIO: replace(slow[Modality.AUDIO], scale=3.0)})

    assert (plain, decoded, beside, longer.worker_s) == pytest.approx((1.0, 10.0, 5.0, 12.0))


def test_some_media_are_loaded_as_workers_will(tmp_path: Path) -> None:
    """Through the jail and within the roots; what cannot be loaded is counted, and nothing is raised."""
    (tmp_path / "a.wav").write_bytes(sound(tone(8000, 2.0), 8000))
    (tmp_path / "b.wav").write_bytes(sound(tone(8000, 4.0), 8000))
    (tmp_path / "c.wav").write_bytes(b"RIFF, or not")
    rows = media_rows(Modality.AUDIO, ["a.wav", "b.wav", "c.wav", "../d.wav"])
    job = planned_job(LocalStore(tmp_path / "job"), [rows], model_digest=DIGEST, root=str(tmp_path))
    recipe = replace(job.record.space.recipe, audio_rate=8000)
    job = Job(job.store, replace(job.record, space=replace(job.record.space, recipe=recipe)))

    looked = look_at_media(job, rows, Settings(), limit_s=30)

    assert (looked.media, looked.failed) == (2, 2)
    assert looked.seconds == pytest.approx(3.0)
    assert looked.decode_s > 0


def test_an_estimate_is_kept_and_compared(tmp_path: Path) -> None:
    """The receipt says what was estimated, and what the job took by that; in bytes too."""
    job = job_in(tmp_path)
    write_estimate(job, estimate_job(job, LINEAR, workers=1))
    kept = read_estimate(job)
    InlineMill(job).run()

    receipt = written_receipt(job)

    assert receipt is not None
    assert kept == estimate_job(job, LINEAR, workers=1)
    told = receipt["estimate"]
    assert told["actual_by_estimate"] == pytest.approx(told["actual_worker_s"] / 2.0, abs=0.001)
    assert told["actual_output_bytes"] == sum(path.stat().st_size for path in (tmp_path / "data").rglob("*.parquet"))
    assert told["output_bytes"] == pytest.approx(told["actual_output_bytes"], rel=1)


@pytest.mark.parametrize(
    "change",
    [
        {"source": "oracle"},
        {"seconds": [1, 2]},
        {"worker_s": -1},
        {"worker_s": "nan"},
        {"size": "\x1b[2J"},
        {"queues": 5},
    ],
    ids=str,
)
def test_an_estimate_that_makes_no_sense_is_none(tmp_path: Path, change: dict[str, object]) -> None:
    """What lies in the store is believed only as far as embedmill could have written it."""
    job = job_in(tmp_path)
    good = estimate_job(job, LINEAR, workers=1).to_dict()
    job.store.replace(layout.ESTIMATE, json.dumps(good | change).encode())

    assert read_estimate(job) is None
    InlineMill(job).run()
    assert (written_receipt(job) or {})["estimate"] is None


def test_a_finished_job_is_remembered(tmp_path: Path) -> None:
    """Its rates are those of the next estimate, before a bench's; they hold for devices that are larger too."""
    ticking = itertools.count(0.0, 2.0)  # each look at the clock is two seconds later
    job, file = job_in(tmp_path / "job"), RatesFile(str(tmp_path / "memory"))
    bench = Rates(source=Source.BENCH, points={Modality.TEXT: ((1.0, 1.0),)})
    file.put(DIGEST, "cpu", "float32", bench)
    before = file.find(DIGEST, "cpu", "float32")
    InlineMill(job, meter=Meter(lambda: next(ticking))).run()

    rates = remember_rates(job, file)

    assert before == bench
    assert rates is not None
    assert rates == file.find(DIGEST, "cpu", "float32")
    estimate = estimate_job(job, rates, workers=1)
    assert estimate.source is Source.JOB
    assert estimate.worker_s == pytest.approx((written_receipt(job) or {})["total"]["seconds"]["wall"], rel=0.5)
    assert file.find(DIGEST, "gpu24", "float32") is None


def test_a_job_of_moments_is_not_remembered(tmp_path: Path) -> None:
    """It says more of its start than of the model."""
    job, file = job_in(tmp_path / "job"), RatesFile(str(tmp_path / "memory"))
    InlineMill(job).run()

    assert remember_rates(job, file) is None
    assert file.find(DIGEST, "cpu", "float32") is None


@pytest.mark.parametrize(
    "entry", [None, 5, {}, {"points": {}}, {"points": {"text": [[1, 0]]}}, {"points": {"x": [[1, 1]]}}]
)
def test_rates_that_make_no_sense_are_none(tmp_path: Path, entry: object) -> None:
    """A damaged entry is passed over for one that is whole."""
    file = RatesFile(str(tmp_path))
    file.put(DIGEST, "cpu", "float32", LINEAR)
    file.put(DIGEST, "cpu", "float32", replace(LINEAR, source=Source.BENCH))
    path = Path(file.path)
    told = json.loads(path.read_text())
    [key] = [key for key in told["entries"] if key.endswith(" job")]
    told["entries"][key] = entry
    path.write_text(json.dumps(told))

    found = file.find(DIGEST, "cpu", "float32")

    assert found is not None
    assert found.source is Source.BENCH


def test_plan_guesses_until_something_is_measured(tmp_path: Path) -> None:
    """Before a bench it says that it guesses; after it, what rows that take 2 ms each take; the end compares."""
    rows = [*texts(200), {"id": "picture", "uri": "picture.png"}]
    Image.new("RGB", (64, 48), "red").save(tmp_path / "picture.png")
    manifest, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    env = {"EMBEDMILL_MEMORY_DIR": str(tmp_path / "memory"), "EMBEDMILL_HASH_DELAY_MS": "2"}
    words = (manifest, "--model", "hash", "--out", out)
    guess = embedmill("plan", *words, "--workers", "3", "--price", "cpu=0.04", env=env)
    measured = embedmill("bench", "--model", "hash", "--device", "cpu", "--seconds", "0.02", "--json", env=env)
    planned = json.loads(embedmill("plan", *words, "--json", env=env).stdout)

    done = json.loads(embedmill("run", *words, "--workers", "1", "--json", env=env).stdout)

    assert "a guess from the model's parameters" in guess.stdout
    assert "  costs     about " in guess.stdout
    assert {found["modality"] for found in json.loads(measured.stdout)["classes"]} == {
        "text",
        "image",
        "audio",
        "video",
    }
    estimate = planned["estimate"]
    assert estimate["source"] == "bench"
    assert [queue["rows"] for queue in estimate["queues"]] == [1, 200]
    assert estimate["worker_s"] > 0.4
    assert done["receipt"]["estimate"]["worker_s"] == estimate["worker_s"]
    assert done["receipt"]["estimate"]["actual_worker_s"] > 0.4
