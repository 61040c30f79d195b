"""A dedup: its spec, and the record that pins it."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from schemas.errors import SpecMismatch
from schemas.join import JoinSide, side_of
from schemas.sealed import sealed, unsealed

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupSpec:
    """What the user asked for: everything that changes the bytes of the output."""

    source: JoinSide
    threshold: float  # rows of at least this cosine are near copies
    keep_by: str = ""  # the column whose greatest value is kept; "": the first row is
    keep_least: bool = False  # its least value instead
    panel_rows: int  # rows that are compared with all that come after them at a time

    def differences(self, other: "DedupSpec") -> list[str]:
        """Lines "field: mine / theirs" for the fields that differ."""
        mine, theirs = _flat(self), _flat(other)
        return [f"{name}: {mine[name]} / {theirs[name]}" for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupRecord:
    """dedup.json: created once and only once, never changed."""

    id: str
    created_at: str  # UTC, ISO 8601
    spec: DedupSpec
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return sealed({"v": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> "DedupRecord":
        """Parse dedup.json; raises SpecMismatch for a file that is none of ours, or was changed."""
        try:
            raw = unsealed(data)
            source = side_of(raw["spec"]["source"])
            spec = DedupSpec(**raw["spec"] | {"source": source})
            return cls(id=raw["id"], created_at=raw["created_at"], spec=spec, versions=raw["versions"])
        except (KeyError, TypeError, ValueError, AttributeError) as err:  # another format has other fields
            raise SpecMismatch(f"dedup.json is not what embedmill wrote ({err}); restore it") from err


def _flat(spec: DedupSpec) -> dict[str, Any]:
    told = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name != "source"}
    return told | {f"source.{name}": value for name, value in asdict(spec.source).items()}
