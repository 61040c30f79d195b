"""A fetch's failure: one redacted line that says what is wrong first, whatever the source."""

import errno
import re

from schemas.errors import WorkerUnfit
from schemas.failures import Failure, FailureCode, Stage, one_line
from schemas.redaction import redact

#: A code and its reason, where the uri is not at hand.
Problem = tuple[FailureCode, str]

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
#: What this process has run out of is no fault of the row.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def fetch_failure(code: FailureCode, reason: str, uri: str) -> Failure:
    """The failure of the row that names `uri`; user info, query and inline data of the uri are left out."""
    return Failure(code=code, stage=Stage.FETCH, message=one_line(f"{reason}: {shown_uri(uri)}"))


def size_problem(size: int, max_bytes: int) -> Problem | None:
    """What is wrong with a medium of `size` bytes."""
    if size == 0:
        return FailureCode.FILE_EMPTY, "zero bytes"
    if size > max_bytes:
        return FailureCode.FILE_TOO_LARGE, f"{size} bytes, over the limit of {max_bytes}"
    return None


def require_handles(err: OSError) -> None:
    """Raise WorkerUnfit where `err` says that this process is out of file handles or memory."""
    if err.errno in _EXHAUSTED:
        raise WorkerUnfit(f"this process cannot open files any more: {err.strerror}; raise its limits") from err


def shown_uri(uri: str) -> str:
    """`uri` without user info, query, fragment and inline data, whatever is wrong with it."""
    scheme = SCHEME.match(uri)
    if scheme is None:
        return redact(uri)
    if scheme.group().lower() == "data:":
        return "data:***"
    rest = re.sub(r"\s", "%20", uri[scheme.end() :])  # a space ends a URL for `redact`, and what follows would be told
    slashes = "//" if rest.startswith("//") else ""
    return scheme.group() + slashes + redact(f"x://{rest.removeprefix('//')}").removeprefix("x://")
