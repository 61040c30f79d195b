"""What a real worker's device waits for at the border of two shards: `python -m bench.borders --shard-seconds 4`.

`embedmill run` with one Celery worker: a stand-in that takes 200 ms for a batch of 32 pictures, which a server on
loopback gives out at the same pace, so that neither takes a core from the other. Each shard's footer says what was
spent from the shard before to this one. The first shards of a plan are smaller, and left out, with the worker's start.
"""

import argparse
import io
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from producer.planner import RAMP
from schemas.spent import Spent, Step, total
from storage.model_files import resolve_model
from storage.shards import footer_of, published_shards
from storage.store import LocalStore, Store
from tests.http_server import HttpServer, Page, http_server
from tests.mill import embedmill, write_jsonl

_BATCH, _BATCH_S = 32, 0.2
#: What is done on the device's own thread between a shard's last batch and the next shard.
_BETWEEN = (Step.INPUT_WAIT, Step.QUEUE_WAIT, Step.READ, Step.CHECK, Step.WRITE)


class Pace:
    """Lets pictures go at the device's rate; a sleep that was too long is made up for, by a tenth of a second."""

    def __init__(self) -> None:
        self._lock, self._due = threading.Lock(), 0.0

    def page(self, body: bytes) -> Page:
        """An answer that comes when it is due."""
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()

        def raw(server: HttpServer) -> Iterator[bytes]:
            with self._lock:
                self._due = max(self._due, time.monotonic() - 0.1) + _BATCH_S / _BATCH
                due = self._due
            time.sleep(max(0.0, due - time.monotonic()))
            yield head + body

        return Page(raw=raw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--shard-seconds", type=float, default=4.0, help="of the device")
    asked = parser.parse_args()
    rows = round(asked.shard_seconds / _BATCH_S) * _BATCH
    manifest_rows = round(rows * (asked.shards + (RAMP - 1) / 2))  # the first shards of a plan are smaller
    with tempfile.TemporaryDirectory(prefix="embedmill-bench-") as folder, http_server() as server:
        pace = Pace()
        server.pages |= {f"/{n}.png": pace.page(_picture(n)) for n in range(manifest_rows)}
        _run(Path(folder), server.url, rows, manifest_rows)
        _tell([spent for spent in _spent(LocalStore(Path(folder) / "out")) if spent.items >= rows])


def _run(folder: Path, url: str, rows: int, all_rows: int) -> None:
    uris = ({"id": f"p{n:06d}", "uri": f"{url}/{n}.png"} for n in range(all_rows))
    manifest = write_jsonl(folder / "pictures.jsonl", uris)
    words = ("--model", "hash", "--out", folder / "out", "--workers", 1, "--shard-seconds", _cost(rows))
    told = {"EMBEDMILL_HASH_DELAY_MS": str(1000 * _BATCH_S / _BATCH), "EMBEDMILL_BATCH_ITEMS": str(_BATCH)}
    told |= {"EMBEDMILL_BATCH_TOKENS": "1000000"}  # so that it is the items that fill a batch
    done = embedmill("run", manifest, *words, "--allow-http", "--allow-private-hosts", env=told, timeout_s=3600)
    assert done.returncode == 0, done.stderr


def _cost(rows: int) -> float:
    """The seconds that the planner takes so many pictures for."""
    card = resolve_model("hash").card
    return rows * card.tokens_per_image / card.tokens_per_second


def _spent(store: Store) -> Iterator[Spent]:
    """What each shard spent, in the order in which they were published."""
    found = [footer_of(store, key).spent for _, key, _ in published_shards(store)]
    return iter(sorted(found, key=lambda spent: spent.began_at))


def _tell(spent: list[Spent]) -> None:
    later, shards = total(spent), len(spent)
    wall = later.of(Step.WALL)
    print(f"shards of full size: {shards}, of {wall / shards:.2f} s each")
    print(f"busy across the borders: {later.of(Step.DEVICE) / wall:.1%}")
    for step in _BETWEEN:
        print(f"  {step}: {later.of(step) / shards:.3f} s a shard, {later.of(step) / wall:.1%}")
    known = sum(later.of(step) for step in (Step.DEVICE, *_BETWEEN))
    print(f"  all else: {(wall - known) / shards:.3f} s a shard")


def _picture(n: int) -> bytes:
    """A PNG that differs for each `n`: equal ones would be computed once."""
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (n >> 16, n >> 8 & 255, n & 255)).save(out, "PNG")
    return out.getvalue()


if __name__ == "__main__":
    main()
