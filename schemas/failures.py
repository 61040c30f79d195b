"""Failures: rows that have no vector, each with a code of a closed list."""

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """Where on its way a row failed."""

    PARSE = "parse"
    FETCH = "fetch"
    DECODE = "decode"
    PREPROCESS = "preprocess"
    FORWARD = "forward"
    CHECK = "check"


class FailureCode(StrEnum):
    """Why a row has no vector; the value is what users see and `retry --code` takes."""

    TEXT_EMPTY = "text_empty"  # nothing but white space
    TEXT_NUL = "text_nul"  # holds a NUL character
    TEXT_SURROGATE = "text_surrogate"  # holds a lone surrogate: not valid Unicode
    TEXT_TOO_LONG = "text_too_long"  # over the limit of characters
    URI_EMPTY = "uri_empty"  # a media row without a location
    URI_INVALID = "uri_invalid"  # control characters, or no usable path
    URI_SCHEME = "uri_scheme"  # a scheme that is not allowed
    OUTSIDE_ROOT = "outside_root"  # leads out of the allowed media roots
    NOT_FOUND = "not_found"  # no such file or object
    NOT_A_FILE = "not_a_file"  # a folder, a pipe, a device
    FILE_EMPTY = "file_empty"  # zero bytes
    FILE_TOO_LARGE = "file_too_large"  # over the limit of bytes
    ACCESS_DENIED = "access_denied"  # the source wants rights that this job does not have
    ADDRESS_FORBIDDEN = "address_forbidden"  # a host with an address that is not public
    TOO_MANY_REDIRECTS = "too_many_redirects"
    FETCH_TIMEOUT = "fetch_timeout"  # the source was too slow
    HOST_UNAVAILABLE = "host_unavailable"  # the host failed so often that it is left alone
    FETCH_FAILED = "fetch_failed"  # the source failed, and failed again
    FORMAT_UNSUPPORTED = "format_unsupported"  # not one of the accepted formats, by its content
    TOO_MANY_PIXELS = "too_many_pixels"  # over the limit of pixels
    TOO_LONG = "too_long"  # over the limit of seconds, or of decoded bytes
    NO_STREAM = "no_stream"  # the file holds no sound, or no picture
    MEDIA_EMPTY = "media_empty"  # a stream without a single sample or frame
    DECODE_FAILED = "decode_failed"  # truncated or corrupt
    DECODE_TIMEOUT = "decode_timeout"  # the decoder hung, and was killed
    DECODE_MEMORY = "decode_memory"  # the decoder needed more memory than it may have
    DECODE_CRASHED = "decode_crashed"  # the decoder died of this row
    MODALITY_UNSUPPORTED = "modality_unsupported"  # the model has no input for it
    PREPROCESS_FAILED = "preprocess_failed"  # the model's own preprocessing refused it
    FORWARD_FAILED = "forward_failed"  # the forward pass failed for this row alone
    PROCESS_CRASHED = "process_crashed"  # the process dies of this row, alone too
    PROCESS_TIMEOUT = "process_timeout"  # the model hangs on this row, alone too
    PROCESS_MEMORY = "process_memory"  # the process needs more memory than it may have for this row, alone too
    TOO_LARGE = "too_large"  # too large for every device at hand, even alone
    VECTOR_NOT_FINITE = "vector_not_finite"  # NaN or infinity, even alone
    VECTOR_ZERO = "vector_zero"  # all zeros, even alone
    VECTOR_SHAPE = "vector_shape"  # not the dimension of the space
    ID_UNKNOWN = "id_unknown"  # of a pair: no row of its manifest has this id
    SCORE_NOT_FINITE = "score_not_finite"  # NaN or infinity, even alone


class RejectCode(StrEnum):
    """Why a line of the manifest is no row."""

    BROKEN_LINE = "broken_line"  # not JSON, not the header's number of fields, not UTF-8
    MISSING_ID = "missing_id"
    BAD_ID = "bad_id"  # too long, control characters, or neither text nor integer
    DUPLICATE_ID = "duplicate_id"
    DUPLICATE_PAIR = "duplicate_pair"
    UNKNOWN_MODALITY = "unknown_modality"
    NO_CONTENT = "no_content"  # neither text nor uri
    BAD_VALUE = "bad_value"  # a kept column's value is not of the column's type
    LINE_TOO_LONG = "line_too_long"


#: Codes whose cause may be gone next time; `retry` works for every code.
RETRYABLE = frozenset(
    {
        FailureCode.NOT_FOUND,
        FailureCode.FETCH_FAILED,
        FailureCode.ACCESS_DENIED,
        FailureCode.FETCH_TIMEOUT,
        FailureCode.HOST_UNAVAILABLE,
        FailureCode.TOO_LARGE,
        FailureCode.DECODE_TIMEOUT,
        FailureCode.DECODE_MEMORY,
        FailureCode.DECODE_CRASHED,
        FailureCode.FORWARD_FAILED,
        FailureCode.PROCESS_CRASHED,
        FailureCode.PROCESS_TIMEOUT,
        FailureCode.PROCESS_MEMORY,
    }
)

#: Characters that a failure message keeps.
MESSAGE_LIMIT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One row without a vector."""

    code: FailureCode
    stage: Stage
    message: str  # one line, without content of the row, at most MESSAGE_LIMIT characters

    @property
    def retryable(self) -> bool:
        return self.code in RETRYABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """One line of the manifest that is no row."""

    line: int
    id: str | None  # where it could be read
    code: RejectCode
    message: str


def one_line(text: str) -> str:
    """`text` made safe to store and print: control characters escaped, at most MESSAGE_LIMIT long."""
    safe = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text.encode("utf-8", "replace").decode())
    return safe if len(safe) <= MESSAGE_LIMIT else safe[: MESSAGE_LIMIT - 1] + "…"


DEFECT_MESSAGES: dict[FailureCode, str] = {
    FailureCode.TEXT_EMPTY: "the text is empty or white space only",
    FailureCode.TEXT_NUL: "the text holds a NUL character",
    FailureCode.TEXT_SURROGATE: "the text holds a lone surrogate; write it as valid Unicode",
    FailureCode.TEXT_TOO_LONG: "the text is over the limit of characters",
    FailureCode.URI_EMPTY: "the uri is empty; every media row needs one",
    FailureCode.URI_INVALID: "the uri holds control characters or is no path",
    FailureCode.MODALITY_UNSUPPORTED: "the model has no input for this modality",
    FailureCode.ID_UNKNOWN: "no row of the manifest has this id",
}
