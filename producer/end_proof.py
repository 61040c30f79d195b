"""The proof of a job's end: its manifests against its files, its statistics and views."""

from typing import Any

from producer.shard_proof import DAMAGE, ShardProof, first_line
from producer.snapshot import Snapshot
from producer.verdict import Verdict, digest_of
from schemas.job import PlanRecord
from schemas.sealed import is_sealed_at_end, unsealed
from storage import layout
from storage.jobs import Job


def prove_end(job: Job, snapshot: Snapshot, listed: dict[str, dict[str, Any]], verdict: Verdict) -> None:
    """Compare each manifest with what was read; `listed` holds what a manifest must say of each published shard."""
    ended = [plan for plan in snapshot.rounds if plan.round in snapshot.ended]
    with_receipt = False
    for plan in ended:
        try:
            with_receipt |= _prove_manifest(job, plan, listed, verdict)
        except DAMAGE as err:
            verdict.blame(f"{layout.manifest_key(plan.round)}: {first_line(err)}")
    if with_receipt:
        _prove_receipt(job, verdict)
    for key in (layout.STATS, layout.VIEWS) if ended else ():
        try:
            data = _read(job, key, verdict)
            if not is_sealed_at_end(data, job.id):
                verdict.blame(f"{key} was changed, or is of another job: its bytes are not those that were written")
        except DAMAGE as err:
            verdict.blame(first_line(err))


def as_listed(proof: ShardProof) -> dict[str, Any]:
    """What the manifest says of a published shard."""
    file, footer = proof.files[0], proof.footer
    assert footer is not None
    counts = {"rows": footer.rows_ok, "failures": footer.rows_failed}
    return {"key": file.key, "bytes": file.size, "sha256": file.sha256, "attempt": footer.attempt} | counts


def _prove_receipt(job: Job, verdict: Verdict) -> None:
    try:
        if unsealed(_read(job, layout.RECEIPT, verdict))["job"] != job.id:
            verdict.blame(f"{layout.RECEIPT} is of another job")
    except DAMAGE as err:
        verdict.blame(f"{layout.RECEIPT}: {first_line(err)}")


def _prove_manifest(job: Job, plan: PlanRecord, listed: dict[str, dict[str, Any]], verdict: Verdict) -> bool:
    """Returns whether the round's end wrote a receipt."""
    key = layout.manifest_key(plan.round)
    manifest = unsealed(_read(job, key, verdict))
    said = {name: manifest[name] for name in ("job", "round", "space", "rejects")}
    space, rejects = job.record.space.digest, job.record.plan.rejects
    if said != {"job": job.id, "round": plan.round, "space": space, "rejects": rejects}:
        verdict.blame(f"{key} is of another job or round")
    files = {entry["key"]: entry for entry in manifest["files"]}
    wanted = {name: entry for name, entry in listed.items() if (layout.shard_of(name) or 0) <= plan.last_shard}
    for name in sorted(files.keys() | wanted.keys()):
        if files.get(name) != wanted.get(name):
            verdict.blame(f"{name}: it is not the file that {key} lists")
    for entry in manifest["others"]:
        name = entry["key"]
        if name not in verdict.digests:
            _read(job, name, verdict)
        if (verdict.digests[name].size, verdict.digests[name].sha256) != (entry["bytes"], entry["sha256"]):
            verdict.blame(f"{name}: it is not the file that {key} lists")
    return bool(manifest.get("receipt"))


def _read(job: Job, key: str, verdict: Verdict) -> bytes:
    data = job.store.get(key)
    verdict.note(digest_of(key, data))
    return data
