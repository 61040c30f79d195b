"""From what the user asked for to a job: planned once, or found as it was left."""

import dataclasses
import posixpath
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from producer.manifest import manifest_sha256, open_manifest
from producer.parsing import kept_columns
from producer.planner import make_plan
from schemas.errors import Refused, SpecMismatch
from schemas.job import JobRecord, JobSpec, new_job_id
from schemas.model_cards import ModelCard
from schemas.rows import Modality
from schemas.space import Space
from storage import layout
from storage.jobs import Job, create_job, find_job, now
from storage.model_files import resolve_model
from storage.store import Store, canonical_location, open_store, require_create_only


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """The words of the command line, parsed."""

    manifest: str
    model: str
    out: str
    keep: tuple[str, ...] = ()
    id_column: str = "id"
    modalities: tuple[Modality, ...] = ()
    strict: bool = False
    media_roots: tuple[str, ...] = ()
    allow_unpinned: bool = False
    shard_seconds: float = 30.0
    max_pixels: int = 50_000_000
    max_file_bytes: int = 64 * 2**20


def prepare_job(request: JobRequest, *, progress: Callable[[int], None] | None = None) -> Job:
    """The job of `request`: the one that lies in its folder, or a new one, planned now.

    Raises SpecMismatch naming the difference when the folder holds another job.
    """
    store = open_store(canonical_location(request.out))
    card = resolve_model(request.model, allow_unpinned=request.allow_unpinned).card
    spec = _spec(request, card)
    found = find_job(store)
    if found is not None:
        return _same(found, dataclasses.replace(spec, manifest_sha256=manifest_sha256(spec.manifest)))
    require_create_only(store)
    return _plan(store, spec, card, progress)


def resume(job: Job) -> None:
    """Take back a cancellation."""
    job.store.delete(layout.CANCELLED)


def _spec(request: JobRequest, card: ModelCard) -> JobSpec:
    manifest = canonical_location(request.manifest)
    base = posixpath.dirname(manifest)
    roots = tuple(map(canonical_location, request.media_roots)) or (base,)
    for root in roots:
        if "://" not in root and not Path(root).is_dir():
            raise Refused(f"--media-root {root} is no folder; name the one that the media lie in")
    return JobSpec(
        manifest=manifest,
        manifest_sha256="",
        model=card.name,
        model_digest=card.digest,
        id_column=request.id_column,
        keep=kept_columns(list(request.keep), open_manifest(manifest)),
        modalities=tuple(sorted(set(request.modalities))),
        strict=request.strict,
        media_base=base,
        media_roots=roots,
        max_pixels=request.max_pixels,
        max_file_bytes=request.max_file_bytes,
        shard_seconds=request.shard_seconds,
    )


def _same(found: Job, spec: JobSpec) -> Job:
    differences = found.record.spec.differences(spec)
    if len(differences) == 1 and differences[0].startswith("manifest_sha256"):
        raise SpecMismatch(
            f"{spec.manifest} has changed since the job in {found.store.url} was planned ({differences[0]}); "
            "restore it, or give another --out"
        )
    if differences:
        raise SpecMismatch(
            f"{found.store.url} holds a job with other arguments ({'; '.join(differences)}); "
            "call it as before, or give another --out"
        )
    return found


def _plan(store: Store, spec: JobSpec, card: ModelCard, progress: Callable[[int], None] | None) -> Job:
    plan, digest = make_plan(store, open_manifest(spec.manifest), spec, card, progress=progress)
    record = JobRecord(
        id=new_job_id(posixpath.basename(store.url), secrets.token_bytes(16)),
        created_at=now(),
        spec=dataclasses.replace(spec, manifest_sha256=digest),
        space=Space.of(card),
        plan=plan,
        versions={"embedmill": version("embedmill")},
    )
    return create_job(store, record)
