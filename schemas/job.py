"""A job: its spec, its plan, and the record that pins both."""

import hashlib
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from schemas.errors import SpecMismatch
from schemas.model_cards import Kind
from schemas.parsed_json import parsed_json
from schemas.recipe import OutputType, Recipe, Role
from schemas.rerank import Activation, RerankSpec, Scoring
from schemas.rows import Modality
from schemas.sealed import SEAL, is_sealed, sealed
from schemas.sizes import CPU
from schemas.space import Space

FORMAT = 5
#: Of jobs whose rows have no content hashes; they are read as ever.
OLD_FORMAT = 3
#: Of jobs that score pairs: those who know jobs of vectors alone must not take them up.
RERANK_FORMAT = 4
_KNOWN_FORMATS = (OLD_FORMAT, RERANK_FORMAT, FORMAT)
JOB_ID = re.compile(r"^[a-z0-9][a-z0-9-]{7,63}$")

#: Arrow type names that `--keep name:type` takes.
KEEP_TYPES = ("string", "int64", "float64", "bool")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptColumn:
    """A manifest column that is copied into the output."""

    name: str
    type: str = "string"  # one of KEEP_TYPES

    def __str__(self) -> str:
        return f"{self.name}:{self.type}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What the user asked for: everything that changes the bytes of the output."""

    manifest: str  # absolute path or URL
    manifest_sha256: str
    model: str
    model_digest: str
    id_column: str = "id"
    keep: tuple[KeptColumn, ...] = ()
    modalities: tuple[Modality, ...] = ()  # rows of other modalities are skipped; empty: none are
    strict: bool = False
    media_base: str = ""  # what relative uris are relative to
    media_roots: tuple[str, ...] = ()  # the only places that media are read from
    size: str = CPU  # the class of device that the job's queues are for
    takes: tuple[Modality, ...] = (Modality.TEXT, Modality.IMAGE)  # rows that the model has an input for
    allow_http: bool = False  # media over http:// too, not https:// alone
    allow_private: bool = False  # media from hosts with private addresses
    max_pixels: int = 50_000_000
    max_file_bytes: int = 64 * 2**20
    max_media_s: float = 3600.0  # longer sounds and films are failures
    fetch_s: float = 60.0  # wall time of one download
    decode_s: float = 60.0  # wall time of one decode
    shard_seconds: float = 30.0  # estimated seconds of one CPU core a shard
    content_hashes: bool = False  # the output has a column of them; jobs of old have none
    reuse: tuple[str, ...] = ()  # where earlier jobs lie whose vectors are taken
    rerank: RerankSpec | None = None  # of a job that scores pairs

    @property
    def kind(self) -> Kind:
        """What the job makes of its rows."""
        return Kind.EMBED if self.rerank is None else Kind.RERANK

    def differences(self, other: "JobSpec") -> list[str]:
        """Lines "field: mine / theirs" for the fields that differ."""
        mine, theirs = self._shown(), other._shown()
        return [
            f"{name}: {_show(mine.get(name, ''))} / {_show(theirs.get(name, ''))}"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        ]

    def _shown(self) -> dict[str, Any]:
        """The fields by name, those of the pairs among them."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rerank"}
        return own if self.rerank is None else own | asdict(self.rerank)


def _show(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}…"
    if isinstance(value, tuple):
        return ", ".join(str(v) for v in value) or "(none)"
    return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """One cut of rows into shards: the job's first, or that of a retry."""

    digest: str  # sha256 over every shard's rows
    round: int = 0  # 0: the manifest; n: the n-th retry
    first_shard: int
    shards: int
    rows: int
    rejects: int = 0
    skipped: int = 0  # rows of modalities that the spec leaves out
    files: tuple[str, ...]  # plan/rows-*.parquet
    index: str  # plan/shards-*.parquet
    index_sha256: str
    rejects_file: str | None = None
    left_out: int = 0  # files of a folder, or members of a tar, whose endings are of no medium
    sample: str | None = None  # plan/sample-*.parquet: rows that int8 ranges are taken from
    reuse: str | None = None  # plan/reuse-*.parquet: the contents that earlier jobs have vectors of
    reused: int = 0  # rows of texts among them
    reuse_saves_s: float = 0.0  # estimated seconds of one CPU core that these save
    retry_codes: tuple[str, ...] = ()  # the failure codes that a retry does again; empty: all

    @property
    def last_shard(self) -> int:
        return self.first_shard + self.shards - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """job.json: created once and only once, never changed."""

    id: str
    created_at: str  # UTC, ISO 8601
    spec: JobSpec
    space: Space
    plan: PlanRecord
    versions: dict[str, str]

    def to_json(self) -> bytes:
        """Jobs of vectors are written as ever: what they do not have is left out."""
        content = asdict(self)
        if self.spec.kind is Kind.EMBED:
            del content["spec"]["rerank"], content["space"]["scoring"]
            return sealed({"v": FORMAT, **content})
        del content["spec"]["content_hashes"], content["spec"]["reuse"]
        return sealed({"v": RERANK_FORMAT, **content})

    @classmethod
    def from_json(cls, data: bytes) -> "JobRecord":
        """Parse job.json.

        Raises SpecMismatch for another format, a file that is none of ours, or one that was changed.
        """
        raw = _loaded(data, "job.json")
        try:
            return cls(
                id=raw["id"],
                created_at=raw["created_at"],
                spec=_spec(raw["spec"]),
                space=_space(raw["space"]),
                plan=_plan(raw["plan"]),
                versions=raw["versions"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise SpecMismatch(f"job.json is not what embedmill wrote ({err}); restore it") from err


def plan_to_json(plan: PlanRecord) -> bytes:
    """The content of plan/retry-*.json."""
    return sealed({"v": FORMAT, **asdict(plan)})


def plan_from_json(data: bytes) -> PlanRecord:
    """Parse plan/retry-*.json; raises SpecMismatch like JobRecord.from_json."""
    raw = _loaded(data, "a plan's record")
    try:
        return _plan({name: value for name, value in raw.items() if name not in ("v", SEAL)})
    except (KeyError, TypeError, ValueError) as err:
        raise SpecMismatch(f"a plan's record is not what embedmill wrote ({err}); restore it") from err


def retried(plan: PlanRecord, *, codes: tuple[str, ...], round_: int) -> PlanRecord:
    """`plan` marked as the retry number `round_` of the rows that failed with `codes`."""
    return replace(plan, round=round_, retry_codes=codes)


def new_job_id(name: str, nonce: bytes) -> str:
    """A job id that a person recognises: the folder's name and 8 hex digits of `nonce`."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "job"
    return f"{slug}-{hashlib.sha256(nonce).hexdigest()[:8]}"


def _loaded(data: bytes, what: str) -> dict[str, Any]:
    try:
        raw = parsed_json(data)
    except ValueError as err:
        raise SpecMismatch(f"{what} is not JSON; is this folder the output of embedmill?") from err
    if not isinstance(raw, dict) or raw.get("v") not in _KNOWN_FORMATS:
        version, known = raw.get("v") if isinstance(raw, dict) else None, ", ".join(map(str, _KNOWN_FORMATS))
        raise SpecMismatch(f"{what} has format {version}, this embedmill reads {known}; use the version that wrote it")
    if not is_sealed(data, raw):
        raise SpecMismatch(f"{what} is not what embedmill wrote: its sha256 is another; restore it")
    return raw


def _spec(raw: dict[str, Any]) -> JobSpec:
    rerank = raw.get("rerank")
    return JobSpec(
        **raw
        | {
            "keep": tuple(KeptColumn(**k) for k in raw["keep"]),
            "modalities": tuple(Modality(m) for m in raw["modalities"]),
            "media_roots": tuple(raw["media_roots"]),
            "reuse": tuple(raw.get("reuse", ())),
            "takes": tuple(Modality(m) for m in raw["takes"]),
            "rerank": None if rerank is None else _rerank(rerank),
        }
    )


def _rerank(raw: dict[str, Any]) -> RerankSpec:
    return RerankSpec(**raw | {"band": None if raw["band"] is None else tuple(raw["band"])})


def _space(raw: dict[str, Any]) -> Space:
    recipe = raw["recipe"]
    outputs = tuple(OutputType(name) for name in recipe["outputs"])
    scoring = raw.get("scoring")
    if scoring is not None:
        scoring = Scoring(**scoring | {"activation": Activation(scoring["activation"])})
    told = Recipe(**recipe | {"outputs": outputs, "role": Role(recipe["role"])})
    return Space(**raw | {"recipe": told, "scoring": scoring})


def _plan(raw: dict[str, Any]) -> PlanRecord:
    return PlanRecord(**raw | {"files": tuple(raw["files"]), "retry_codes": tuple(raw["retry_codes"])})
