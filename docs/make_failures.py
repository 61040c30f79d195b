"""Writes docs/failures.md from the codes and what to do about each; `--check` only says whether it is current."""

import ast
import inspect
import sys
from pathlib import Path

from schemas import failures
from schemas.failures import RETRYABLE, FailureCode, RejectCode

PAGE = Path(__file__).parent / "failures.md"

_HEAD = """# Failure codes

Made from `schemas/failures.py` by `make docs`; do not edit.

A row without a vector is a failure: one line of `failures/*.parquet`, with a code of this list, the stage at which it failed, and a message that holds nothing of the row's content. It costs that row and no other.

`embedmill status OUT` counts them by code, `embedmill failures OUT` lists them (in Python `open_job(OUT).failures()`), `embedmill retry OUT --code CODE` does them again. `retry` reads files anew and works for every code; "yes" below says that the cause may be gone by itself. A row that must be mended makes another manifest, and so another job: `--reuse OUT` takes over what has a vector.

| code | what it means | retryable | what to do |
| --- | --- | --- | --- |
"""

_REJECTS = """
## Rejects

A line of the manifest that is no row: listed by `embedmill failures --rejects` with its line number, never in `failures/`. The other lines are embedded; `--strict` refuses the manifest instead.

| code | what it means | what to do |
| --- | --- | --- |
"""

_LATER = "`embedmill retry OUT --code {code}`"

#: What to do, by code; a code without an entry is a failure of the tests.
TO_DO = {
    FailureCode.TEXT_EMPTY: "Leave the row out, or give it a text.",
    FailureCode.TEXT_NUL: "Take the NUL characters out of the text.",
    FailureCode.TEXT_SURROGATE: "Write the text as valid Unicode; it was cut in the middle of a character.",
    FailureCode.TEXT_TOO_LONG: "Cut the text into rows: a model sees its first few hundred or thousand tokens only.",
    FailureCode.URI_EMPTY: "Leave the row out, or give it a uri.",
    FailureCode.URI_INVALID: "Correct the uri: a path, `https://`, `s3://`, `gs://`, `az://` or `archive.tar::member`.",
    FailureCode.URI_SCHEME: "Use https; `--allow-http` takes plain http too. Other schemes are not read.",
    FailureCode.OUTSIDE_ROOT: "Plan again, in another `--out`, with `--media-root` naming the folder of the media.",
    FailureCode.NOT_FOUND: f"Put the file there, then {_LATER}.",
    FailureCode.NOT_A_FILE: "Name a file; folders, pipes and devices are not read.",
    FailureCode.FILE_EMPTY: f"Put the whole file there, then {_LATER}.",
    FailureCode.FILE_TOO_LARGE: f"Put a smaller file there, then {_LATER}; or plan again, in another `--out`, with a higher `--max-file-mb`.",
    FailureCode.ACCESS_DENIED: f"Give the workers the right to read it, then {_LATER}.",
    FailureCode.ADDRESS_FORBIDDEN: "The host is in a private network: plan again with `--allow-private-hosts`, if you trust the manifest; workers must be started with it too.",
    FailureCode.TOO_MANY_REDIRECTS: "Name the last address of the chain in the manifest.",
    FailureCode.FETCH_TIMEOUT: f"{_LATER} when the host is faster; or plan again with a higher `--fetch-seconds`.",
    FailureCode.HOST_UNAVAILABLE: f"Five failures in a row, so the host was left alone. When it is up: {_LATER}.",
    FailureCode.FETCH_FAILED: f"The message names the host's answer. Then {_LATER}.",
    FailureCode.FORMAT_UNSUPPORTED: "Convert it: PNG, JPEG, WebP, GIF, BMP, TIFF; WAV, FLAC, MP3, Ogg, Opus, M4A; MP4, WebM, Matroska, AVI. The content counts, not the name.",
    FailureCode.TOO_MANY_PIXELS: f"Scale it down, then {_LATER}; or plan again, in another `--out`, with a higher `--max-pixels`.",
    FailureCode.TOO_LONG: "Cut it, plan again with a higher `--max-media-seconds`, or with fewer `--frames`.",
    FailureCode.NO_STREAM: "The file is a container without a sound, or without a picture: correct the row's modality.",
    FailureCode.MEDIA_EMPTY: f"Its stream has not one sample or frame: export it again, then {_LATER}.",
    FailureCode.DECODE_FAILED: f"The file is cut off or damaged: put a whole one there, then {_LATER}.",
    FailureCode.DECODE_TIMEOUT: f"{_LATER} on a machine with less to do, or plan again with a higher `--decode-seconds`.",
    FailureCode.DECODE_MEMORY: f"Raise `EMBEDMILL_DECODE_MEMORY_MB` for the workers, then {_LATER}.",
    FailureCode.DECODE_CRASHED: f"The decoder died of this file. Once more with {_LATER}; then convert the file.",
    FailureCode.MODALITY_UNSUPPORTED: "Take a model that has this input (`embedmill models list`), or leave such rows out with `--modality`.",
    FailureCode.PREPROCESS_FAILED: "The message names the model's complaint: mend the row.",
    FailureCode.FORWARD_FAILED: f"{_LATER}; when it fails again, the model cannot take this row.",
    FailureCode.PROCESS_CRASHED: f"The row killed three processes, the last two all by itself. {_LATER} with another version or machine; else mend the row.",
    FailureCode.PROCESS_TIMEOUT: f"Raise `EMBEDMILL_STEP_LIMIT_S` for the workers, then {_LATER}.",
    FailureCode.PROCESS_MEMORY: f"Raise `EMBEDMILL_PROCESS_MEMORY_MB` or take a larger machine, then {_LATER}.",
    FailureCode.TOO_LARGE: f"Start a worker on a larger device, then {_LATER}.",
    FailureCode.VECTOR_NOT_FINITE: "The model gives NaN or infinity: try `--dtype float32`, in another `--out`.",
    FailureCode.VECTOR_ZERO: "The model gives nothing but zeros for this row: mend the row, or take another model.",
    FailureCode.VECTOR_SHAPE: "The model's card and its files differ in dimension: `embedmill models inspect MODEL`.",
    FailureCode.ID_UNKNOWN: "Correct the pair's id, or add the row to the manifest that `--left` or `--right` names.",
    FailureCode.SCORE_NOT_FINITE: "The reranker gives NaN or infinity: try `--dtype float32`, in another `--out`.",
}

#: The same for rejects.
REJECTS_TO_DO = {
    RejectCode.BROKEN_LINE: ("not JSON, not the header's number of fields, or not UTF-8", "Correct the line."),
    RejectCode.MISSING_ID: ("no id", "Give it one; another column is named with `--id-column`."),
    RejectCode.BAD_ID: (
        "an id over 512 bytes, with control characters, or neither text nor integer",
        "Correct the id.",
    ),
    RejectCode.DUPLICATE_ID: ("an id that an earlier line has", "Give it its own id; the first line keeps it."),
    RejectCode.DUPLICATE_PAIR: ("a pair that an earlier line has", "Leave it out."),
    RejectCode.UNKNOWN_MODALITY: ("a modality that does not exist", "Write text, image, audio, video or mixed."),
    RejectCode.NO_CONTENT: ("neither text nor uri nor parts", "Give it one of them."),
    RejectCode.BAD_VALUE: (
        "a kept column's value is not of the column's type",
        "Correct it, or keep the column as another type: `--keep name:string`.",
    ),
    RejectCode.LINE_TOO_LONG: ("a line over 1 MiB", "Put media into files and name them by uri."),
}


def page() -> str:
    """The whole page."""
    meanings = comments_of(FailureCode)
    rows = [
        f"| `{code}` | {meanings.get(code) or _words(code)} | {'yes' if code in RETRYABLE else ''} "
        f"| {TO_DO[code].format(code=code)} |"
        for code in FailureCode
    ]
    rejects = [f"| `{code}` | {meaning} | {to_do} |" for code, (meaning, to_do) in REJECTS_TO_DO.items()]
    return _HEAD + "\n".join(rows) + "\n" + _REJECTS + "\n".join(rejects) + "\n"


def comments_of(enum: type[FailureCode]) -> dict[str, str]:
    """What the comment behind each member says, by the member's value."""
    lines = Path(inspect.getfile(failures)).read_text("utf-8").splitlines()
    source = "\n".join(lines)
    found = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == enum.__name__)
    members = [node for node in found.body if isinstance(node, ast.Assign)]
    return {ast.literal_eval(node.value): lines[node.lineno - 1].partition("#")[2].strip() for node in members}


def _words(code: FailureCode) -> str:
    return code.value.replace("_", " ")


def main() -> None:
    """Write the page, or exit 1 where it is stale."""
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit("docs/failures.md is not what schemas/failures.py says; run `make docs`")


if __name__ == "__main__":
    main()
