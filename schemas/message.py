"""The message: a doorbell that names a shard, and carries nothing else but a seal, where there is a key."""

import hashlib
import hmac
import re
from dataclasses import asdict, dataclass
from typing import Any

from schemas.errors import Refused
from schemas.job import JOB_ID

VERSION = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMessage:
    """Which shard of which plan of which job; cheap to repeat, harmless to lose."""

    job: str
    shard: int
    plan: str  # the plan's digest

    def to_kwargs(self, key: str = "") -> dict[str, Any]:
        """The task's keyword arguments; with a `key` they are signed."""
        told = {"v": VERSION, **asdict(self)}
        return told | {"mac": self._mac(key)} if key else told

    @classmethod
    def from_kwargs(cls, raw: dict[str, Any], key: str = "") -> "ShardMessage":
        """Parse a task's keyword arguments.

        Raises Refused for anything but a well-formed message, and with a `key` for one that it does not sign.
        """
        message = cls._parsed({name: value for name, value in raw.items() if name != "mac"})
        if key and not hmac.compare_digest(_bytes(raw.get("mac")), message._mac(key).encode()):
            raise Refused("a message on the queue is not signed with this worker's EMBEDMILL_MESSAGE_KEY; dropped")
        return message

    def _mac(self, key: str) -> str:
        """HMAC-SHA256 (RFC 2104) over all that the message says."""
        told = f"embedmill {VERSION} {self.job} {self.shard} {self.plan}"
        return hmac.new(key.encode(), told.encode(), hashlib.sha256).hexdigest()

    @classmethod
    def _parsed(cls, raw: dict[str, Any]) -> "ShardMessage":
        job, shard, plan = raw.get("job"), raw.get("shard"), raw.get("plan")
        well_formed = (
            set(raw) == {"v", "job", "shard", "plan"}
            and raw["v"] == VERSION
            and isinstance(job, str)
            and JOB_ID.fullmatch(job)
            and type(shard) is int
            and 0 <= shard < 10**9
            and isinstance(plan, str)
            and _DIGEST.fullmatch(plan)
        )
        if not well_formed:
            raise Refused("a message on the queue is none of this version's; it was dropped")
        assert isinstance(job, str) and isinstance(shard, int) and isinstance(plan, str)
        return cls(job=job, shard=shard, plan=plan)


def _bytes(mac: object) -> bytes:
    """What is told as a seal; half a letter, which JSON can hold and UTF-8 cannot, is compared like any other."""
    return str(mac).encode(errors="surrogatepass")
