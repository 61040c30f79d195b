"""A worker's presence: what a live worker says of itself, every few seconds."""

import json
from dataclasses import asdict, dataclass

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
    model: str = ""  # the model in memory, once there is one

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, data: str | bytes) -> "WorkerPresence":
        raw = json.loads(data)
        return cls(**raw | {"queues": tuple(raw["queues"])})
