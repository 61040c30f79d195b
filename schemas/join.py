"""A join: its spec, and the record that pins it."""

import json
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from schemas.errors import SpecMismatch
from schemas.parsed_json import parsed_json
from schemas.sealed import sealed, unsealed

FORMAT = 1


class Score(StrEnum):
    """How a pair is scored; docs/joins.md has the formulas."""

    COSINE = "cosine"
    DOT = "dot"
    CENTERED = "centered"
    CSLS = "csls"
    MARGIN = "margin"
    ZSCORE = "zscore"


class Device(StrEnum):
    """What a join computes on."""

    AUTO = "auto"  # a GPU if there is one
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """In how many bits a join looks for pairs; what it finds is scored again in float64, so no answer depends on it."""

    AUTO = "auto"  # int8 where the processor is fast at it, else fp32
    FP32 = "fp32"
    TF32 = "tf32"  # 10 bits of mantissa: tensor cores of GPUs; elsewhere as slow as fp32
    BF16 = "bf16"
    INT8 = "int8"  # processors with VNNI


class Integers(StrEnum):
    """What an int8 or uint8 column is that no job wrote, so that nothing says it."""

    NUMBERS = "numbers"
    BITS = "bits"  # eight signs a byte; int8: less 128, as sentence-transformers packs them


class Stage(StrEnum):
    """A stage of a funnel, from coarse to fine."""

    BINARY = "binary"  # signs
    INT8 = "int8"  # with a scale for each row
    FLOAT32 = "float32"  # exact


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSide:
    """One side of a join: where its vectors are, and what they are."""

    location: str
    digest: str  # sha256 over the files' content
    rows: int
    dim: int
    column: str
    id_column: str
    modality: str = ""
    space: str = ""
    model: str = ""
    integers: Integers | None = None  # as the user said
    keep: tuple[str, ...] = ()  # columns that are copied into the output


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSpec:
    """What the user asked for: everything that changes the bytes of the output."""

    left: JoinSide
    right: JoinSide
    score: Score = Score.COSINE
    top_k: int | None = None
    threshold: float | None = None
    fpr: float | None = None  # the share of random pairs that may reach the threshold, which follows from it
    mutual: bool = False
    not_self: bool = False  # a row is no neighbour of itself, by number
    after_self: bool = False  # each pair of a set with itself once
    forced: tuple[str, ...] = ()  # fields in which the spaces differ, and were compared all the same
    panel_rows: int = 16_384  # left rows of a published file
    funnel: tuple[Stage, ...] = ()  # none: exact
    oversample: int = 0  # how many times as many a stage of the funnel keeps as the next one

    @property
    def panels(self) -> int:
        return -(-self.left.rows // self.panel_rows)

    def differences(self, other: "JoinSpec") -> list[str]:
        """Lines "field: mine / theirs" for the fields that differ."""
        mine, theirs = _flat(self), _flat(other)
        return [f"{name}: {mine[name]} / {theirs[name]}" for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRecord:
    """join.json: created once and only once, never changed."""

    id: str
    created_at: str  # UTC, ISO 8601
    spec: JoinSpec
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return sealed({"v": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> "JoinRecord":
        """Parse join.json; raises SpecMismatch for a file that is none of ours, or was changed."""
        try:
            raw = unsealed(data)
            return cls(id=raw["id"], created_at=raw["created_at"], spec=_spec(raw["spec"]), versions=raw["versions"])
        except (KeyError, TypeError, ValueError, AttributeError) as err:  # another format has other fields
            raise SpecMismatch(f"join.json is not what embedmill wrote ({err}); restore it") from err


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelFooter:
    """What a published panel says of itself."""

    join: str
    panel: int
    first: int  # left row
    rows: int  # left rows
    pairs: int
    score: str
    threshold: float | None
    left_space: str
    right_space: str
    forced: tuple[str, ...]
    content_sha256: str  # over ids, scores and ranks, in order
    sampled: int = 0  # left rows of which a funnel's pairs were held against the exact ones
    recall_sum: float = 0.0  # over these, of the share of the exact pairs that was found

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "PanelFooter":
        """Parse a footer; raises ValueError or LookupError for what is none."""
        raw = parsed_json(data)
        try:
            return cls(**raw | {"forced": tuple(raw["forced"])})
        except TypeError as err:  # of a shard, or of a newer embedmill
            raise ValueError(f"its footer is none of a join: {err}") from err


def _flat(spec: JoinSpec) -> dict[str, Any]:
    told = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name not in ("left", "right")}
    for side in ("left", "right"):
        told |= {f"{side}.{name}": value for name, value in asdict(getattr(spec, side)).items()}
    return told


def _spec(raw: dict[str, Any]) -> JoinSpec:
    sides = {side: side_of(raw[side]) for side in ("left", "right")}
    funnel = tuple(map(Stage, raw.get("funnel", ())))
    return JoinSpec(**raw | sides | {"score": Score(raw["score"]), "forced": tuple(raw["forced"]), "funnel": funnel})


def side_of(raw: dict[str, Any]) -> JoinSide:
    """A side as a record has it."""
    integers = Integers(raw["integers"]) if raw.get("integers") else None
    return JoinSide(**raw | {"keep": tuple(raw["keep"]), "integers": integers})
