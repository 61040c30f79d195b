"""From what the user asked to have scored to a job: planned once, or found as it was left."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from producer.manifest import Manifest
from producer.pair_manifest import open_pairs, pair_columns
from producer.pair_planner import make_pair_plan
from producer.pair_sides import Side, open_side
from producer.parsing import kept_columns, require_columns
from producer.prepare import new_record, same_job
from producer.recipes import Wishes, chosen_size, recipe_for_pairs
from schemas.errors import Refused
from schemas.job import JobSpec, KeptColumn
from schemas.model_cards import ModelCard
from schemas.rerank import JOIN_RANK, JOIN_SCORE, RerankSpec, Scoring
from schemas.rows import Modality
from schemas.space import Space
from storage.answers import require_no_answer
from storage.jobs import Job, create_job, find_job
from storage.model_files import resolve_model
from storage.scores import ITEM, QUERY, RANK, SCORE
from storage.store import canonical_location, open_store, require_create_only

_OURS = (QUERY, ITEM, SCORE, RANK, "modality")


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """The words of the command line, parsed."""

    pairs: str
    left: str
    right: str
    model: str
    out: str
    query_column: str = ""
    item_column: str = ""
    id_column: str = "id"
    keep: tuple[str, ...] = ()
    strict: bool = False
    media_roots: tuple[str, ...] = ()
    allow_unpinned: bool = False
    allow_http: bool = False
    allow_private: bool = False
    shard_seconds: float = 30.0
    max_pixels: int = 50_000_000
    band: tuple[float, float] | None = None  # of join scores
    scoring: Scoring = field(default_factory=Scoring)
    wishes: Wishes = field(default_factory=Wishes)


def prepare_rerank(request: RerankRequest, *, progress: Callable[[int], None] | None = None) -> Job:
    """The job of `request`: the one that lies in its folder, or a new one, planned now.

    Raises SpecMismatch naming the difference when the folder holds another job.
    """
    store = open_store(canonical_location(request.out))
    card = resolve_model(request.model, allow_unpinned=request.allow_unpinned).card
    recipe = recipe_for_pairs(card, request.wishes)
    space = Space.of(card, recipe, request.scoring)
    takes = tuple(sorted(card.modalities))
    sides = (_side(request.left, request, takes), _side(request.right, request, takes))
    spec = _spec(request, card, sides, takes)
    require_no_answer(store)
    found = find_job(store)
    if found is not None:
        digest = open_pairs(spec.manifest).digest()
        return same_job(found, dataclasses.replace(spec, manifest_sha256=digest), space)
    require_create_only(store)
    plan, digest = make_pair_plan(store, open_pairs(spec.manifest), sides, spec, card, recipe, progress=progress)
    return create_job(store, new_record(store, dataclasses.replace(spec, manifest_sha256=digest), space, plan))


def _side(location: str, request: RerankRequest, takes: tuple[Modality, ...]) -> Side:
    return open_side(location, id_column=request.id_column, takes=takes)


def _spec(request: RerankRequest, card: ModelCard, sides: tuple[Side, Side], takes: tuple[Modality, ...]) -> JobSpec:
    location = canonical_location(request.pairs)
    pairs = open_pairs(location)
    query_column, item_column = pair_columns(pairs, request.query_column, request.item_column)
    left, right = sides
    return JobSpec(
        manifest=location,
        manifest_sha256="",
        model=card.name,
        model_digest=card.digest,
        id_column=request.id_column,
        keep=_kept(request, pairs),
        strict=request.strict,
        media_base=left.roots[0] if left.roots else "",
        media_roots=_roots(request, sides),
        size=chosen_size(card, request.wishes),
        takes=takes,
        allow_http=request.allow_http,
        allow_private=request.allow_private,
        max_pixels=request.max_pixels,
        shard_seconds=request.shard_seconds,
        rerank=RerankSpec(
            left=left.location,
            left_sha256=left.digest(),
            right=right.location,
            right_sha256=right.digest(),
            query_column=query_column,
            item_column=item_column,
            band=request.band,
        ),
    )


def _kept(request: RerankRequest, pairs: Manifest) -> tuple[KeptColumn, ...]:
    """The columns to keep; those of a join that the output has its own of are kept by other names."""
    for name in request.keep:
        if name.partition(":")[0] in _OURS:
            instead = {SCORE: f"say {JOIN_SCORE}", RANK: f"say {JOIN_RANK}"}.get(name, "rename it in the pairs")
            raise Refused(f"--keep {name}: the output has a column of that name; {instead}")
    of_join = {JOIN_SCORE: (SCORE, "float64"), JOIN_RANK: (RANK, "int64")}
    wanted = dict.fromkeys([*request.keep, *([JOIN_SCORE] if request.band else [])])
    if request.band and not request.band[0] <= request.band[1]:
        raise Refused(f"--selective {request.band[0]:g} {request.band[1]:g}: the first is to be the lower score")
    require_columns(pairs, [of_join[name][0] for name in wanted if name in of_join], "the pairs of a join")
    plain = iter(kept_columns([name for name in wanted if name not in of_join], pairs))
    return tuple(KeptColumn(name=name, type=of_join[name][1]) if name in of_join else next(plain) for name in wanted)


def _roots(request: RerankRequest, sides: tuple[Side, Side]) -> tuple[str, ...]:
    """Where media may be read from: what was said, else where each side's lie."""
    roots = tuple(map(canonical_location, request.media_roots))
    for root in roots:
        if "://" not in root and not Path(root).is_dir():
            raise Refused(f"--media-root {root} is no folder; name the one that the media lie in")
    return roots or tuple(dict.fromkeys(root for side in sides for root in side.roots))
