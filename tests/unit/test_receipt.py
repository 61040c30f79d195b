"""The receipt: what it holds, and what it finds years later."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from producer.receipt import differences, make_receipt, read_receipt
from producer.retry import plan_retry
from producer.verify import verify_store
from schemas.errors import Refused
from schemas.sealed import sealed, unsealed
from storage.jobs import Job, open_job
from storage.store import LocalStore
from tests.inline import InlineMill
from tests.mill import embedmill
from tests.proved_jobs import files_of, image_job, picture, text_job


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished job that no test changes."""
    job = text_job(tmp_path_factory.mktemp("finished"))
    InlineMill(job).run()
    return job


def receipt_of(folder: str | Path) -> dict[str, Any]:
    store = LocalStore(Path(folder))
    return unsealed(make_receipt(store.url, *verify_store(store)))


def compared(receipt: dict[str, Any], folder: str | Path) -> list[str]:
    """What differs from the receipt, after verify itself found nothing."""
    job, verdict = verify_store(LocalStore(Path(folder)))
    assert job is not None
    assert verdict.problems == []
    return list(differences(receipt, job, verdict))


def test_a_receipt_says_what_was_proved(finished: Job) -> None:
    """Job, plan, space, model, versions, counts, and every file with its bytes and sha256."""
    receipt, record = receipt_of(finished.store.url), finished.record
    files = {Path(finished.store.url) / file["key"]: file for file in receipt["files"]}

    assert (receipt["verdict"], receipt["problems"], receipt["job"]) == ("complete", [], finished.id)
    assert receipt["space_fields"]["model_digest"] == receipt["model_digest"] == record.spec.model_digest
    assert receipt["plans"][0]["digest"] == record.plan.digest
    assert receipt["outcomes"] == {
        "rows": 48,
        "rows_ok": 46,
        "vectors": 46,
        "failures": {"text_empty": 1, "text_nul": 1},
        "missing": 0,
    }
    assert "torch" in receipt["written_with"]
    assert sorted(files) == files_of(finished)
    for path, file in files.items():
        data = path.read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_receipt_differs_in_nothing_but_the_time(finished: Job) -> None:
    """Made twice of the same files it is the same."""
    one, other = receipt_of(finished.store.url), receipt_of(finished.store.url)

    assert one | {"verified_at": ""} == other | {"verified_at": ""}
    assert list(one) == list(other)


def test_a_receipt_holds_no_secrets(finished: Job, tmp_path: Path) -> None:
    """User info and queries of locations are cut off."""
    spec = dataclasses.replace(finished.record.spec, manifest="https://me:secret@host/rows.jsonl?key=secret")
    job = Job(finished.store, dataclasses.replace(finished.record, spec=spec))
    _, verdict = verify_store(finished.store)

    data = make_receipt("s3://me:secret@bucket/out", job, verdict)

    assert b"secret" not in data
    assert b"***@host/rows.jsonl" in data


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change sealed JSON and seal it again, as a careful forger would."""
    content = unsealed(path.read_bytes())
    change(content)
    path.write_bytes(sealed(content))


def test_a_forged_end_is_found_against_a_receipt(finished: Job, tmp_path: Path) -> None:
    """A manifest that was written anew and sealed proves itself; the receipt knows the one that was."""
    receipt = receipt_of(finished.store.url)
    shutil.copytree(finished.store.url, tmp_path / "out")
    rewrite(tmp_path / "out/manifest.json", lambda content: content.update(finished_at="2020-01-01T00:00:00+00:00"))

    found = compared(receipt, tmp_path / "out")

    assert [line.partition(":")[0] for line in found] == ["manifest.json"]


def test_another_job_is_told_from_the_one_of_the_receipt(finished: Job, tmp_path: Path) -> None:
    """Of the same manifest, with the same vectors: it is not the job that was proved then."""
    twin = text_job(tmp_path)
    InlineMill(twin).run()

    assert compared(receipt_of(finished.store.url), twin.store.url) == [
        f"the receipt is of job {finished.id}, and this is job {twin.id}"
    ]


def test_what_a_job_adds_as_it_goes_on_is_no_difference(tmp_path: Path) -> None:
    """A receipt of a planned job, and one from before a retry, stand; changes to what they list are found."""
    job = image_job(tmp_path)
    out = Path(job.store.url)
    planned = receipt_of(out)
    InlineMill(job, {f"i{n:03d}": picture(n) for n in range(6)}).run()
    first = receipt_of(out)
    plan_retry(job)
    InlineMill(job, {f"i{n:03d}": picture(n) for n in range(12)}).run()

    assert (planned["verdict"], first["verdict"]) == ("unfinished", "complete")
    assert compared(planned, out) == compared(first, out) == []
    rewrite(out / "manifest-retry-0001.json", lambda content: content.update(finished_at="2020-01-01T00:00:00+00:00"))
    assert compared(first, out) == []
    assert len(compared(receipt_of(out) | {"files": []}, out)) == len(files_of(job))


def test_what_is_no_receipt_is_refused(finished: Job, tmp_path: Path) -> None:
    """A missing file, another JSON, or a receipt with one character changed."""
    receipt = make_receipt(finished.store.url, *verify_store(finished.store))
    for name, content in {
        "json": b"{}",
        "other": sealed({"kind": "other"}),
        "bad": receipt.replace(b"46", b"47"),
    }.items():
        (tmp_path / name).write_bytes(content)

        with pytest.raises(Refused, match="--against"):
            read_receipt(str(tmp_path / name))
    with pytest.raises(Refused, match="No such file"):
        read_receipt(str(tmp_path / "nothing"))


def test_the_command_writes_and_compares_receipts(finished: Job, tmp_path: Path) -> None:
    """To stdout alone; also when something is wrong; and compared it exits 1 naming what differs."""
    out, place = tmp_path / "out", tmp_path / "receipt.json"
    shutil.copytree(finished.store.url, out)
    printed = embedmill("verify", out, "--receipt", "-")
    place.write_text(printed.stdout)
    victim = next((out / "data").rglob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"2")
    wrong = embedmill("verify", out, "--receipt", tmp_path / "wrong.json", "--against", place)
    unwritable = embedmill("verify", out, "--receipt", tmp_path / "no/such/folder.json")

    assert (printed.returncode, json.loads(printed.stdout)["verdict"]) == (0, "complete")
    assert "each row has exactly one outcome" in printed.stderr
    assert wrong.returncode == 1
    assert f"{victim.relative_to(out)}: it is not the file that the receipt lists" in wrong.stdout
    assert json.loads((tmp_path / "wrong.json").read_text())["verdict"] == "wrong"
    assert (unwritable.returncode, unwritable.stderr.count("\n")) == (2, 1)
    assert open_job(LocalStore(out)).id == finished.id
