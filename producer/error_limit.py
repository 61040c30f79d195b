"""The error limit: how many rows of a job may fail before it stops, for a person to look."""

import json
from dataclasses import asdict, dataclass

from schemas.counted import counted
from schemas.parsed_json import parsed_json

#: Rows that have an outcome before their share of failures says anything.
_ENOUGH_ROWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorLimit:
    """Failures of the manifest's rows that are borne; those of a retry are always."""

    rows: int = 0  # 0: any number
    rate: float = 0.5  # of the rows that have an outcome; 1: any

    def exceeded(self, failed: int, done: int) -> str:
        """Why a job with so many failures among the rows that are done stops; "" where it goes on."""
        if self.rows and failed > self.rows:
            return f"{counted(failed, 'row')} failed, more than the {self.rows:,} of --max-errors"
        if done >= _ENOUGH_ROWS and failed > self.rate * done:
            share = f"{100 * failed / done:.1f} %"
            return (
                f"{failed:,} of {counted(done, 'row')} failed, {share}: more than the {self.rate:g} of --max-error-rate"
            )
        return ""

    def to_json(self, **others: object) -> bytes:
        """With `others` beside it: what else is told of a submitted job."""
        return json.dumps({"error_limit": asdict(self), **others}).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "ErrorLimit":
        """What `to_json` wrote; the default for what an older version wrote, or somebody else."""
        try:
            told = parsed_json(data)["error_limit"]
            return cls(rows=int(told["rows"]), rate=float(told["rate"]))
        except (ValueError, TypeError, LookupError, OverflowError):
            return cls()
