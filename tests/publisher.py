"""A process that publishes one shard again and again, each time in a child that waits to be traced.

Started once, with everything imported: a child costs a fork, and its trace shows nothing but the publish path.
Run as `python -m tests.publisher`; it reads folders from stdin, one a line, and writes the child's pid when the child
has stopped itself, then how it ended. The child publishes when it is sent SIGCONT.
"""

import ctypes
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pyarrow as pa

from schemas.columns import USAGE
from schemas.errors import StoreError
from schemas.rows import Modality
from schemas.shard import Footer
from storage.shards import FAILURES_SCHEMA, Published, ShardOutput, content_sha256, publish
from storage.store import LocalStore
from workers.hash_encoder import expected_vector

SHARD, ROWS, DIM = 7, 20, 16
DIGEST = "0" * 64
#: How a child says what became of its attempt.
WON, LOST, STORE_ERROR, BUG = 0, 1, 2, 3

_PR_SET_PTRACER, _ANYONE = 0x59616D61, ctypes.c_ulong(-1)
_LIBC = ctypes.CDLL(None)


def expected_rows() -> dict[str, np.ndarray]:
    """The rows of the shard, with the vectors that must be in the file."""
    return {f"r{n:03d}": expected_vector(f"text {n}".encode(), DIGEST, DIM) for n in range(ROWS)}


def output_of(attempt: str, *, shard: int = SHARD) -> ShardOutput:
    """One attempt's result: twenty rows with vectors, and one that failed."""
    rows = expected_rows()
    ids, vectors = list(rows), {"embedding": np.stack(list(rows.values()))}
    return ShardOutput(
        footer=Footer(
            job="job-12345678",
            plan=DIGEST,
            shard=shard,
            attempt=attempt,
            space="0" * 16,
            modality=str(Modality.TEXT),
            model="hash",
            rows_planned=ROWS + 1,
            rows_ok=ROWS,
            vectors=ROWS,
            failures={"text_empty": 1},
            content_sha256=content_sha256(ids, vectors),
            worker="publisher",
            versions={},
        ),
        ids=ids,
        vectors=vectors,
        usage={name: [1] * ROWS for name in USAGE if name.startswith("tokens")},
        kept=pa.table({"label": ["kept"] * ROWS}),
        failures=_failures(attempt, shard),
    )


def _failures(attempt: str, shard: int) -> pa.Table:
    row = {
        "id": "bad",
        "line": 21,
        "modality": "text",
        "code": "text_empty",
        "stage": "parse",
        "message": "the text is empty",
        "retryable": False,
        "uri": None,
        "shard": shard,
        "attempt": attempt,
    }
    return pa.Table.from_pylist([row], FAILURES_SCHEMA)


def _child(store: LocalStore, output: ShardOutput) -> int:
    _LIBC.prctl(_PR_SET_PTRACER, _ANYONE)  # where only descendants may be traced, say that we do not mind
    os.kill(os.getpid(), signal.SIGSTOP)
    os.getppid()  # marks in the trace where the publish path begins
    try:
        outcome, _ = publish(store, output)
    except StoreError:
        result = STORE_ERROR
    except BaseException:
        traceback.print_exc()
        result = BUG
    else:
        result = WON if outcome is Published.WON else LOST
    os.getppid()  # and where it ends
    return result


def _serve(folder: Path, number: int) -> None:
    store, output = LocalStore(folder), output_of(f"{number:016x}")
    pid = os.fork()
    if pid == 0:
        os._exit(_child(store, output))
    os.waitpid(pid, os.WUNTRACED)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:  # once with both outcomes: what is imported late is there then
        for attempt in ("a", "b"):
            publish(LocalStore(Path(folder)), output_of(attempt))
    for number, line in enumerate(sys.stdin, start=1):
        _serve(Path(line.rstrip("\n")), number)


if __name__ == "__main__":
    main()
