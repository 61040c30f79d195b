"""A worker's presence: what a live worker says of itself, every few seconds."""

import json
from dataclasses import asdict, dataclass, fields

from schemas.parsed_json import parsed_json

#: A presence that is not renewed for so long is gone.
TTL_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPresence:
    """One worker process that has its queues open."""

    name: str
    host: str
    pid: int
    device: str
    queues: tuple[str, ...]
    size: str = "cpu"
    models: tuple[str, ...] = ()  # digests of the models in memory, the one used last at the end
    loads: int = 0  # models loaded since it started

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, data: str | bytes) -> "WorkerPresence":
        """Parse a presence; raises ValueError, TypeError or LookupError for what is none."""
        raw = parsed_json(data)
        known = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}  # a newer worker may say more
        lists = {name: tuple(map(str, raw.get(name, ()))) for name in ("queues", "models")}
        return cls(**known | lists | {"name": str(raw["name"])})
