"""The seal of a Parquet file: the sha256 of all its other bytes, in its own footer.

Parquet proves neither its page headers nor its statistics, and no reader looks at what no reader needs. With the seal
each file proves every bit of itself, from the moment it is created and wherever it is copied to, and damaged bytes
need never reach a parser.
"""

import hashlib

import pyarrow.parquet as pq

_KEY = "embedmill.sha256"
_BLANK = b"0" * 64
#: The key and the head of its value, as Thrift's compact protocol writes them in the footer.
_MARK = _KEY.encode() + b"\x18\x40"


def leave_room(writer: pq.ParquetWriter) -> None:
    """Write the place of the seal into the footer of a file that is about to be closed."""
    writer.add_key_value_metadata({_KEY: _BLANK.decode()})


def seal(data: bytes) -> bytes:
    """`data`, a file with room for it, with its seal."""
    at = data.rindex(_MARK) + len(_MARK)  # the last: rows may hold anything, the footer comes after them
    _, digest = _digests(data, at)
    return b"".join([data[:at], digest.encode(), data[at + len(_BLANK) :]])


def check_seal(data: bytes, key: str) -> tuple[str, str]:
    """The sha256 of the whole file, and what is wrong with it: "" where each bit is as it was written."""
    at = data.rfind(_MARK) + len(_MARK)
    whole, digest = _digests(data, max(at, len(_MARK)))
    if at < len(_MARK):
        return whole, f"{key} was cut off, changed, or not written by embedmill: it has no seal"
    if data[at : at + len(_BLANK)] != digest.encode():
        return whole, f"{key} was changed: its bytes are not those that were written"
    return whole, ""


def _digests(data: bytes, at: int) -> tuple[str, str]:
    """The sha256 of `data` as it is, and as if the seal at `at` were blank; in one pass."""
    view = memoryview(data)
    whole = hashlib.sha256(view[:at])
    blank = whole.copy()
    whole.update(view[at:])
    blank.update(_BLANK)
    blank.update(view[at + len(_BLANK) :])
    return whole.hexdigest(), blank.hexdigest()
