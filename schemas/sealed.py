"""Seals: a file that carries the sha256 of its own content proves itself wherever it lies."""

import hashlib
import json
from typing import Any

from schemas.parsed_json import parsed_json

SEAL = "sha256"
_BLANK = "0" * 64


def sealed(content: dict[str, Any]) -> bytes:
    """`content` as JSON whose last field is the sha256 of the JSON without it."""
    return _written(content | {SEAL: hashlib.sha256(_written(content)).hexdigest()})


def is_sealed(data: bytes, content: dict[str, Any]) -> bool:
    """Whether `data`, which was parsed as `content`, is byte for byte what `sealed` wrote."""
    return data == sealed({name: value for name, value in content.items() if name != SEAL})


def unsealed(data: bytes) -> dict[str, Any]:
    """What was sealed, without its seal; raises ValueError where one bit of `data` is not what was written."""
    content = parsed_json(data)
    if not isinstance(content, dict) or not is_sealed(data, content):
        raise ValueError("its bytes are not those that embedmill wrote")
    del content[SEAL]
    return content


def seal_note(job: str) -> str:
    """The last words of a file that `sealed_at_end` seals."""
    return f"job {job}; sha256 of all that is before: {_BLANK}"


def sealed_at_end(data: bytes) -> bytes:
    """`data`, which ends in a seal_note, with its seal."""
    before = data[: -len(_BLANK)]
    return before + hashlib.sha256(before).hexdigest().encode()


def is_sealed_at_end(data: bytes, job: str) -> bool:
    """Whether `data` is byte for byte what was sealed for that job."""
    note = seal_note(job)[: -len(_BLANK)].encode()
    return data[: -len(_BLANK)].endswith(note) and sealed_at_end(data) == data


def _written(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()
