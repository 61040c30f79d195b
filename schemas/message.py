"""The message: a doorbell that names a shard, and carries nothing else."""

from dataclasses import asdict, dataclass
from typing import Any

from schemas.errors import Refused
from schemas.job import JOB_ID

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMessage:
    """Which shard of which plan of which job; cheap to repeat, harmless to lose."""

    job: str
    shard: int
    plan: str  # the plan's digest

    def to_kwargs(self) -> dict[str, Any]:
        return {"v": VERSION, **asdict(self)}

    @classmethod
    def from_kwargs(cls, raw: dict[str, Any]) -> "ShardMessage":
        """Parse a task's keyword arguments; raises Refused for anything but a well-formed message."""
        job, shard, plan = raw.get("job"), raw.get("shard"), raw.get("plan")
        well_formed = (
            set(raw) == {"v", "job", "shard", "plan"}
            and raw["v"] == VERSION
            and isinstance(job, str)
            and JOB_ID.match(job)
            and type(shard) is int
            and 0 <= shard < 10**9
            and isinstance(plan, str)
            and len(plan) == 64
        )
        if not well_formed:
            raise Refused("a message on the queue is none of this version's; it was dropped")
        assert isinstance(job, str) and isinstance(shard, int) and isinstance(plan, str)
        return cls(job=job, shard=shard, plan=plan)
