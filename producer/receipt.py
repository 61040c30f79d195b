"""The receipt: what a verified job was, file by file, so that it can be proved again years later."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from producer.verdict import Verdict
from schemas.errors import Refused
from schemas.job import JobSpec, PlanRecord
from schemas.redaction import redact
from schemas.sealed import sealed, unsealed
from storage import layout
from storage.jobs import Job, now

FORMAT = 1
_KIND = "embedmill receipt"
_CHECKED = (
    "each planned row has one outcome: a vector, a failure, or its shard is not published yet",
    "no id is planned twice, and a retry does only rows that failed",
    "ids, vectors and kept columns of each shard belong together, as they were written and planned",
    "no vector is zero, not finite, of another dimension or of another space",
    "every bit of job.json, plans, data, failures, manifests, statistics and views is as it was written",
    "nothing else lies where readers look for data and failures",
)


def make_receipt(url: str, job: Job | None, verdict: Verdict) -> bytes:
    """The receipt as sealed JSON; the same for the same files, but for `verified_at`."""
    content: dict[str, Any] = {
        "v": FORMAT,
        "kind": _KIND,
        "verified_at": now(),
        "embedmill": version("embedmill"),
        "verdict": verdict.word,
        "problems": [redact(problem) for problem in verdict.problems],
        "problem_count": verdict.problem_count,
        "location": redact(url),
        "checked": list(_CHECKED),
        **(_job(job) if job else {"job": None}),
        "plans": [_plan(plan) for plan in verdict.plans],
        "outcomes": _outcomes(verdict),
        "written_with": {name: sorted(found) for name, found in sorted(verdict.versions.items())},
        "files": [
            {"key": file.key, "bytes": file.size, "sha256": file.sha256} for _, file in sorted(verdict.digests.items())
        ],
    }
    return sealed(content)


def _outcomes(verdict: Verdict) -> dict[str, Any]:
    return {
        "rows": verdict.rows,
        "rows_ok": verdict.rows_ok,
        "vectors": verdict.vectors,
        "failures": dict(sorted(verdict.failures_by_code.items())),
        "missing": verdict.missing,
    }


def _plan(plan: PlanRecord) -> dict[str, Any]:
    names = ("round", "digest", "index_sha256", "shards", "rows", "rejects", "skipped")
    return {name: getattr(plan, name) for name in names}


def _job(job: Job) -> dict[str, Any]:
    record = job.record
    return {
        "job": record.id,
        "created_at": record.created_at,
        "manifest": redact(record.spec.manifest),
        "manifest_sha256": record.spec.manifest_sha256,
        "model": redact(record.spec.model),
        "model_digest": record.spec.model_digest,
        "space": record.space.digest,
        "space_fields": record.space.fields(),
        **_sides(record.spec),
        "planned_with": record.versions,
    }


def _sides(spec: JobSpec) -> dict[str, Any]:
    """What the ids of pairs were resolved to; nothing of a job that embeds."""
    if spec.rerank is None:
        return {}
    return {"rerank": asdict(spec.rerank) | {"left": redact(spec.rerank.left), "right": redact(spec.rerank.right)}}


def require_writable(place: str) -> None:
    """Raise Refused, before a long proof, where a receipt cannot be written."""
    if place in ("", "-"):
        return
    folder = Path(place).absolute().parent
    if Path(place).is_dir() or not os.access(folder, os.W_OK):
        raise Refused(f"--receipt {place} cannot be written; name a file in a folder that exists")


def read_receipt(place: str) -> dict[str, Any]:
    """The receipt in the file `place`; raises Refused for anything else, or one that was changed."""
    try:
        receipt = unsealed(Path(place).read_bytes().rstrip(b"\n"))  # `--receipt -` ends its line
    except OSError as err:
        raise Refused(f"--against {place}: {err.strerror}") from err
    except ValueError as err:
        raise Refused(f"--against {place} is no receipt, or was changed: {err}") from err
    if (receipt.get("kind"), receipt.get("v")) != (_KIND, FORMAT):
        raise Refused(f"--against {place} is no receipt that this embedmill reads; `verify --receipt` writes one")
    return receipt


def differences(receipt: dict[str, Any], job: Job, verdict: Verdict) -> Iterator[str]:
    """What is not as it was when `receipt` was written; what a job under way has added since is no difference."""
    if receipt["job"] != job.id:
        yield f"the receipt is of job {receipt['job']}, and this is job {job.id}"
        return
    when, then = receipt["verified_at"], {file["key"]: file for file in receipt["files"]}
    went_on = receipt["verdict"] == "unfinished" or len(verdict.plans) > len(receipt["plans"])
    for key, file in then.items():
        found = verdict.digests.get(key)
        if found is None:
            yield f"{key}: it was there when the receipt was written ({when}), and is not now"
        elif found.sha256 != file["sha256"] and not (went_on and key in (layout.STATS, layout.VIEWS, layout.RECEIPT)):
            yield f"{key}: it is not the file that the receipt lists ({when})"
    for key in sorted(verdict.digests.keys() - then.keys()) if not went_on else ():
        yield f"{key}: it was not there when the receipt was written ({when})"
