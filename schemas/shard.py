"""A shard: its entry in the plan, the footer of its file, and the report of its worker."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from schemas.parsed_json import parsed_json
from schemas.rows import Modality
from schemas.spent import Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One shard in the plan's index."""

    shard: int
    modality: Modality
    rows: int
    cost: float  # estimated tokens
    file: int  # index into PlanRecord.files
    row_group: int
    digest: str  # sha256 over the shard's planned rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What a published file says of itself; stored under FOOTER_KEY in its Parquet metadata."""

    job: str
    plan: str
    shard: int
    attempt: str
    space: str
    modality: str
    model: str
    rows_planned: int
    rows_ok: int
    vectors: int  # as rows_ok, but for segments: a row may have several
    failures: dict[str, int]  # rows by failure code
    content_sha256: str  # over ids and vectors, in row order
    worker: str
    versions: dict[str, str]
    space_fields: dict[str, Any] = field(default_factory=dict)
    device: str = ""  # that computed the vectors
    moved: str = ""  # why a device of another size did it than was planned
    int8_ranges: str = ""  # sha256 of the ranges that int8 vectors were quantised with
    notes: tuple[str, ...] = ()  # what a reader should know of how the vectors came about
    equal: int = 0  # of rows_ok: those whose vectors were computed for another row of the shard, of the same content
    reused: int = 0  # of rows_ok: those whose vectors are an earlier job's
    spent: Spent = field(default_factory=Spent)  # what the worker measured since the shard that it published before

    @property
    def rows_failed(self) -> int:
        return sum(self.failures.values())

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Footer":
        raw = parsed_json(data)
        return cls(**raw | {"notes": tuple(raw["notes"]), "spent": Spent.from_dict(raw.get("spent", {}))})


FOOTER_KEY = b"embedmill"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What a worker tells the coordinator of one attempt: a hint, never the truth."""

    shard: int
    plan: str
    outcome: (
        str  # published | lost | skipped | busy | cancelled | passed | too_large | unfit | store_failed | stopped |
    )
    # error
    worker: str
    size: str = ""  # of the worker's device
    rows_ok: int = 0
    rows_failed: int = 0
    file_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    error: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, data: str | bytes) -> "ShardReport":
        """Parse a report; raises ValueError, TypeError or LookupError for what is none."""
        raw = parsed_json(data)
        known = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}  # a newer worker may say more
        report = cls(**known)
        if not (type(report.shard) is int and isinstance(report.outcome, str) and type(report.rows_failed) is int):
            raise TypeError("a report with a shard, an outcome or a count of another type")
        return report
