"""From what the user asked for to a job: planned once, or found as it was left."""

import dataclasses
import posixpath
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from producer.manifest import manifest_sha256, open_manifest
from producer.parsing import kept_columns
from producer.planner import make_plan
from producer.recipes import Wishes, chosen_size, recipe_for, taken_modalities
from producer.reuse import earlier_contents
from schemas.columns import own_columns
from schemas.errors import Refused, SpecMismatch
from schemas.job import JobRecord, JobSpec, PlanRecord, new_job_id
from schemas.model_cards import ModelCard
from schemas.rows import Modality
from schemas.space import Space
from storage import layout
from storage.answers import require_no_answer
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
    reuse: tuple[str, ...] = ()
    max_pixels: int = 50_000_000
    max_file_bytes: int = 64 * 2**20
    max_media_s: float = 3600.0
    fetch_s: float = 60.0
    decode_s: float = 60.0
    allow_http: bool = False
    allow_private: bool = False
    wishes: Wishes = field(default_factory=Wishes)


#: What has changed where nothing but its digest differs.
_CHANGED: dict[str, Callable[[JobSpec], str]] = {
    "manifest_sha256": lambda spec: spec.manifest,
    "left_sha256": lambda spec: spec.rerank.left if spec.rerank else "",
    "right_sha256": lambda spec: spec.rerank.right if spec.rerank else "",
}


def prepare_job(request: JobRequest, *, progress: Callable[[int], None] | None = None) -> Job:
    """The job of `request`: the one that lies in its folder, or a new one, planned now.

    Raises SpecMismatch naming the difference when the folder holds another job.
    """
    store = open_store(canonical_location(request.out))
    card = resolve_model(request.model, allow_unpinned=request.allow_unpinned).card
    space = Space.of(card, recipe_for(card, request.wishes))
    spec = _spec(request, card)
    require_no_answer(store)
    found = find_job(store)
    if found is not None:
        return same_job(found, dataclasses.replace(spec, manifest_sha256=manifest_sha256(spec.manifest)), space)
    require_create_only(store)
    return _plan(store, spec, space, card, progress)


def resume(job: Job) -> None:
    """Take back a cancellation, and what stopped the job."""
    job.store.delete(layout.CANCELLED)
    job.store.delete(layout.STOPPED)


def _spec(request: JobRequest, card: ModelCard) -> JobSpec:
    manifest = canonical_location(request.manifest)
    opened = open_manifest(manifest)
    base = opened.base
    roots = tuple(map(canonical_location, request.media_roots)) or (base,)
    for root in roots:
        if "://" not in root and not Path(root).is_dir():
            raise Refused(f"--media-root {root} is no folder; name the one that the media lie in")
    takes = taken_modalities(card)
    keep = kept_columns(list(request.keep), opened)
    taken = own_columns(takes, recipe_for(card, request.wishes))
    for column in keep:
        if column.name in taken:
            raise Refused(f"--keep {column.name}: the output has a column of that name; rename it in the manifest")
    return JobSpec(
        manifest=manifest,
        manifest_sha256="",
        model=card.name,
        model_digest=card.digest,
        id_column=request.id_column,
        keep=keep,
        modalities=tuple(sorted(set(request.modalities))),
        strict=request.strict,
        media_base=base,
        media_roots=roots,
        size=chosen_size(card, request.wishes),
        takes=takes,
        allow_http=request.allow_http,
        allow_private=request.allow_private,
        max_pixels=request.max_pixels,
        max_file_bytes=request.max_file_bytes,
        max_media_s=request.max_media_s,
        fetch_s=request.fetch_s,
        decode_s=request.decode_s,
        shard_seconds=request.shard_seconds,
        content_hashes=True,
        reuse=tuple(map(canonical_location, request.reuse)),
    )


def same_job(found: Job, spec: JobSpec, space: Space) -> Job:
    """The job that was found, if it is what is asked for now; raises SpecMismatch naming the difference."""
    spec = dataclasses.replace(spec, content_hashes=found.record.spec.content_hashes)  # as embedmill was then
    differences = found.record.spec.differences(spec)
    mine, theirs = found.record.space.fields(), space.fields()
    differing = [name for name in found.record.space.differences(space) if name not in ("model_digest", "dim")]
    differences += [f"{name}: {mine.get(name)} / {theirs.get(name)}" for name in differing]
    changed = [_CHANGED[d.partition(":")[0]] for d in differences if d.partition(":")[0] in _CHANGED]
    if len(differences) == len(changed) == 1:
        raise SpecMismatch(
            f"{changed[0](spec)} has changed since the job in {found.store.url} was planned ({differences[0]}); "
            "restore it, or give another --out"
        )
    if differences:
        raise SpecMismatch(
            f"{found.store.url} holds a job with other arguments ({'; '.join(differences)}); "
            "call it as before, or give another --out"
        )
    return found


def _plan(store: Store, spec: JobSpec, space: Space, card: ModelCard, progress: Callable[[int], None] | None) -> Job:
    earlier, manifest = earlier_contents(spec.reuse, space), open_manifest(spec.manifest)
    plan, digest = make_plan(store, manifest, spec, card, space.recipe, progress=progress, earlier=earlier)
    return create_job(store, new_record(store, dataclasses.replace(spec, manifest_sha256=digest), space, plan))


def new_record(store: Store, spec: JobSpec, space: Space, plan: PlanRecord) -> JobRecord:
    """What is pinned of a job in `store` that is planned now."""
    return JobRecord(
        id=new_job_id(posixpath.basename(store.url), secrets.token_bytes(16)),
        created_at=now(),
        spec=spec,
        space=space,
        plan=plan,
        versions={"embedmill": version("embedmill")},
    )
