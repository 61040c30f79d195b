"""A request for a join, as the user words it, and what comes of it: a spec that can be pinned, or a refusal."""

import math
import re
from dataclasses import dataclass

from schemas.columns import START
from schemas.errors import Refused
from schemas.join import Device, Integers, JoinSide, JoinSpec, Precision, Score, Stage
from schemas.space import incomparable
from similarity.engine import TILE_LEFT, TILE_RIGHT
from similarity.funnel import Funnel
from similarity.join import Effort, comparable
from similarity.scores import LEAST_BEYOND, random_pairs
from similarity.vectors import VectorSource, open_vectors

DEFAULT_TOP_K = 10
DEFAULT_OVERSAMPLE = 8
#: Scores that order the right rows of a left one as the cosine, or that of centered vectors, does.
_OF_FUNNELS = (Score.COSINE, Score.CENTERED, Score.ZSCORE)
_STAGES = list(Stage)
#: Bytes that a worker has for right rows, scores and pairs of a panel.
WORKER_MEMORY = 2**30
#: A panel of more left rows would take long to do again after a kill; of fewer, read the right side too often.
_MOST_PANEL_ROWS = 65_536
_LEAST_PANEL_ROWS = 256
#: A distributed panel: pairs that a core compares in a quarter of an hour, bytes that any worker has, so many of them
#: that none waits for the last one long, and no fewer rows than make reading the right side worth it.
_PANEL_PAIRS = 10**11
_PANEL_BYTES = 256 * 2**20
_PANELS_WANTED = 256
_LEAST_DISTRIBUTED_ROWS = 1024
_MOST_THRESHOLD = 3.4e38  # float32, as scores are
_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRequest:
    """One side, as the user names it."""

    location: str
    modality: str | None = None
    column: str = "embedding"
    id_column: str = "id"
    keep: tuple[str, ...] = ()
    integers: Integers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """What the user asked for."""

    left: SideRequest
    right: SideRequest
    score: Score = Score.COSINE
    top_k: int | None = None
    threshold: float | None = None
    fpr: float | None = None
    mutual: bool = False
    not_self: bool = False
    after_self: bool = False
    force: bool = False
    memory: int = 2**30  # bytes
    threads: int = 1
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    distributed: bool = False
    funnel: tuple[str, ...] = ()
    oversample: int = DEFAULT_OVERSAMPLE


@dataclass(frozen=True, slots=True)
class PlannedJoin:
    """A spec and the two sides it is of."""

    spec: JoinSpec
    left: VectorSource
    right: VectorSource
    block_rows: int
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO

    def effort(self, threads: int, max_pairs: int) -> Effort:
        return Effort(
            threads=threads,
            block_rows=self.block_rows,
            max_pairs=max_pairs,
            device=self.device,
            precision=self.precision,
        )


def plan_join(request: JoinRequest) -> PlannedJoin:
    """Look at both sides and make the spec; raises Refused, with the reason, for what would give wrong answers."""
    left, right = (_opened(side) for side in (request.left, request.right))
    differing = incomparable(left.space_fields, right.space_fields) if left.space and right.space else []
    forced = comparable(left, right, differing, force=request.force)
    _refuse_what_misleads(request, left, right)
    top_k = request.top_k
    if top_k is None and (request.mutual or (request.threshold is None and request.fpr is None)):
        top_k = DEFAULT_TOP_K
    funnel = _funnel(request, top_k)
    kept = Funnel.of(funnel, top_k or 0, request.oversample, right.rows).keep[0] if funnel else 0
    block_rows = block_rows_for(request.memory, left.dim)
    spec = JoinSpec(
        left=_side(left, request.left),
        right=_side(right, request.right),
        score=request.score,
        top_k=top_k,
        threshold=request.threshold,
        fpr=request.fpr,
        mutual=request.mutual,
        not_self=request.not_self,
        after_self=request.after_self,
        forced=forced,
        funnel=funnel,
        oversample=request.oversample if funnel else 0,
        panel_rows=(
            _distributed_panel_rows(left, right, (top_k or 0) + kept)
            if request.distributed
            else _panel_rows(request.memory, left.dim, (top_k or 0) + kept, request.threads, block_rows)
        ),
    )
    return PlannedJoin(spec, left, right, block_rows, request.device, request.precision)


def bytes_of(text: str) -> int:
    """`512MB`, `4G` or `800MiB` in bytes, by powers of 1024; raises Refused for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise Refused(f"{text!r} is no amount of memory; say for example 512MB or 4GB")
    return int(float(match[1]) * _BYTES[match[2].upper()])


def _opened(side: SideRequest) -> VectorSource:
    source = open_vectors(
        side.location,
        modality=side.modality,
        id_column=side.id_column,
        column=side.column,
        integers=side.integers,
    )
    unknown = [name for name in side.keep if name not in source.types]
    if unknown:
        there = ", ".join(sorted(source.types)) or "none"
        raise Refused(f"{source.location} has no column {unknown[0]} of one plain type to keep; it has {there}")
    return source


def _side(source: VectorSource, asked: SideRequest) -> JoinSide:
    return JoinSide(
        location=source.location,
        digest=source.digest,
        rows=source.rows,
        dim=source.dim,
        column=source.column,
        id_column=source.id_column,
        modality=source.modality,
        space=source.space,
        model=source.model,
        integers=asked.integers,
        keep=_kept(source, asked.keep),
    )


def _kept(source: VectorSource, asked: tuple[str, ...]) -> tuple[str, ...]:
    """What is copied: what was asked for, once, and where a segment begins, without which its id names several rows."""
    return tuple(dict.fromkeys([*asked, *([START] if source.is_cut else [])]))


def _refuse_what_misleads(request: JoinRequest, left: VectorSource, right: VectorSource) -> None:
    crosses = bool(left.modality and right.modality and left.modality != right.modality)
    if crosses and request.threshold is not None and request.score in (Score.COSINE, Score.DOT):
        raise Refused(
            f"--threshold {request.threshold:g} on the raw {request.score} of {left.modality} and {right.modality} "
            "says nothing: each modality lies in a region of its own (the modality gap), so no number fits both; use "
            "--top-k, --score csls or centered, or --fpr 0.001, which takes the threshold from random pairs"
        )
    if request.threshold is not None and not abs(request.threshold) <= _MOST_THRESHOLD:
        raise Refused(f"--threshold {request.threshold:g} is no number that a score can reach; give a finite one")
    if request.mutual and request.score is Score.ZSCORE:
        raise Refused("--mutual needs a score that is the same from both sides; --score zscore is not, csls is")
    if request.threshold is not None and not math.isfinite(request.threshold):
        raise Refused(f"--threshold {request.threshold:g} is no score; give a number")
    if request.fpr is not None and request.threshold is not None:
        raise Refused("--fpr and --threshold both name a threshold; give one")
    if request.fpr is not None and not 0 < request.fpr < 1:
        raise Refused(f"--fpr {request.fpr:g} is no share of random pairs; give one between 0 and 1, such as 0.001")
    if request.fpr is not None and request.fpr * random_pairs(left, right) < LEAST_BEYOND:
        raise Refused(
            f"--fpr {request.fpr:g} of the {random_pairs(left, right):,} random pairs that there are is less than "
            f"{LEAST_BEYOND}: too few to name a threshold; give a larger share"
        )
    if (request.not_self or request.after_self) and left.digest != right.digest:
        raise Refused("--no-self is for a set that is joined with itself; these are two")


def _funnel(request: JoinRequest, top_k: int | None) -> tuple[Stage, ...]:
    """The stages asked for; raises Refused for a funnel that would not mean what it says."""
    if not request.funnel:
        return ()
    known = [stage for stage in _STAGES if stage in request.funnel]
    if len(request.funnel) < 2 or list(request.funnel) != known or known[-1] is not Stage.FLOAT32:
        raise Refused(
            f"--funnel {','.join(request.funnel)}: stages go from coarse to fine and end with float32: "
            "binary,int8,float32 or binary,float32 or int8,float32"
        )
    if top_k is None:
        raise Refused("--funnel finds the best of each row: it needs --top-k; a threshold alone is for an exact join")
    if request.score not in _OF_FUNNELS:
        raise Refused(
            f"--funnel with --score {request.score}: it ranks by more than the angle, which is all that a coarse scan "
            f"sees; use {', '.join(_OF_FUNNELS)}, or leave --funnel out"
        )
    if request.mutual or request.after_self:
        raise Refused("--funnel with --mutual would leave out pairs for want of others; leave one of them out")
    if request.oversample < 1:
        raise Refused(f"--oversample {request.oversample} keeps nothing; give 1 or more")
    return tuple(known)


def block_rows_for(memory: int, dim: int) -> int:
    """Right rows in memory at a time: as read, and in float64 and float32 while they are made ready."""
    return int(max(TILE_RIGHT, min(4 * TILE_RIGHT, memory // 8 // (24 * dim)) // TILE_RIGHT * TILE_RIGHT))


def _panel_rows(memory: int, dim: int, top_k: int, threads: int, block_rows: int) -> int:
    """Left rows whose vectors, as read and as scanned, and whose best pairs the memory holds."""
    taken = _taken(dim, threads, block_rows)
    rows = (memory - taken) // _bytes_a_row(dim, top_k)
    if rows < _LEAST_PANEL_ROWS:
        need = taken + _LEAST_PANEL_ROWS * _bytes_a_row(dim, top_k)
        raise Refused(
            f"--memory is too little for {threads} threads: {-(-need // 2**20)}MB are needed, or fewer --threads"
        )
    return int(min(rows, _MOST_PANEL_ROWS))


def require_room(side: JoinSide, panel_rows: int, *, top_k: int = 0, memory: int, threads: int) -> None:
    """Raise Refused where panels that were cut when there was more memory do not fit into what there is now."""
    rows = min(panel_rows, side.rows)
    need = _taken(side.dim, threads, block_rows_for(memory, side.dim)) + rows * _bytes_a_row(side.dim, top_k)
    if need > memory and rows > _LEAST_PANEL_ROWS:
        raise Refused(
            f"it was begun with more memory, in panels of {panel_rows:,} rows; give --memory {-(-need // 2**20)}MB to "
            "go on, or another --out"
        )


def _taken(dim: int, threads: int, block_rows: int) -> int:
    """Bytes beside the left rows: scores, the pairs that are scored again, and the right rows."""
    return threads * (TILE_LEFT * TILE_RIGHT * 4 + 5 * 2**20 * 8) + block_rows * dim * 24


def _distributed_panel_rows(left: VectorSource, right: VectorSource, top_k: int) -> int:
    """Left rows of a panel that workers compute: the same wherever and by whomever the join is cut."""
    fits = min(_MOST_PANEL_ROWS, _PANEL_BYTES // _bytes_a_row(left.dim, top_k), _PANEL_PAIRS // max(right.rows, 1))
    return int(max(_LEAST_PANEL_ROWS, min(fits, max(_LEAST_DISTRIBUTED_ROWS, left.rows // _PANELS_WANTED))))


def _bytes_a_row(dim: int, top_k: int) -> int:
    """A left row's vector, as read, in float32 and as scanned, and its best pairs."""
    return 12 * dim + 32 * top_k + 96
