"""How busy a device is kept: a stand-in of 200 ms a batch beside a decode of equal cost: `python -m bench.overlap`.

Both only wait, so neither takes a core from the other: what is seen is what waits for what. The device's intervals are
recorded, from the start of the second batch to the end of the last, within shards and across their borders.
"""

import argparse
import itertools
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from schemas.rows import ManifestRow, Modality
from storage.model_files import resolve_model
from storage.store import LocalStore
from tests.inline import InlineMill
from tests.jobs import planned_job
from workers.encoder import Encoder, Length
from workers.loading import IsKnown, Loaded, ScriptedLoader, Segments, nothing_known

_BATCH, _BATCH_S = 32, 0.2


class Decoding(ScriptedLoader):
    """Takes as long for a batch's pictures, with all of its threads, as the device takes for the batch.

    A sleep that was too long is made up for, by a tenth of a second at most: the rate is that of the device.
    """

    def __init__(self, media: Mapping[str, Loaded]) -> None:
        super().__init__(media)
        self._lock, self._due = threading.Lock(), 0.0

    def load(self, row: ManifestRow, is_known: IsKnown = nothing_known) -> Segments:
        with self._lock:
            self._due = max(self._due, time.monotonic() - 0.1) + _BATCH_S / _BATCH
        time.sleep(max(0.0, self._due - time.monotonic()))
        loaded = super().load(row, is_known)
        assert isinstance(loaded, tuple)
        return loaded


class Device:
    """Takes 200 ms a batch of any size, and notes when."""

    def __init__(self, inner: Encoder) -> None:
        self._inner, self.dim, self.intervals = inner, inner.dim, list[tuple[float, float]]()

    def lengths(self, items: Sequence[Loaded]) -> list[Length]:
        return [Length(2048 // _BATCH) for _ in items]  # so that a batch of the usual budget is 32 pictures

    def preprocess(self, items: Sequence[Loaded]) -> object:
        return self._inner.preprocess(items)

    def forward(self, features: object) -> np.ndarray:
        begun = time.monotonic()
        vectors = self._inner.forward(features)
        time.sleep(max(0.0, begun + _BATCH_S - time.monotonic()))
        self.intervals.append((begun, time.monotonic()))
        return vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batches", type=int, default=20, help="in each shard")
    parser.add_argument("--shards", type=int, default=3)
    asked = parser.parse_args()
    shards = [_rows(n * asked.batches * _BATCH, asked.batches * _BATCH) for n in range(asked.shards)]
    picture = Loaded(image=Image.new("RGB", (4, 4)))
    loader = Decoding({row.id: picture for rows in shards for row in rows})
    with tempfile.TemporaryDirectory(prefix="embedmill-bench-") as folder:
        job = planned_job(LocalStore(Path(folder)), shards, model_digest=resolve_model("hash").card.digest)
        mill = InlineMill(job, loader=loader)
        device = Device(mill.encoder)
        mill.use(device)
        starts = [0]
        for shard in range(asked.shards):
            assert mill.work(mill.message(shard)) == "published"
            starts.append(len(device.intervals))
    of_each = [device.intervals[a + 1 : b] for a, b in itertools.pairwise(starts)]
    borders = [after[0][0] - before[-1][1] for before, after in itertools.pairwise(of_each)]
    print("busy within each shard, from its second batch:", ", ".join(f"{_busy(some):.1%}" for some in of_each))
    print(f"busy across the borders of shards: {_busy(device.intervals[1:]):.1%}")
    print("seconds from a shard's last batch to the next one's second:", ", ".join(f"{s:.2f}" for s in borders))


def _rows(first: int, count: int) -> list[ManifestRow]:
    numbers = range(first, first + count)
    image = Modality.IMAGE
    return [ManifestRow(id=f"p{n:06d}", line=n + 1, modality=image, uri=f"{n}.jpg", kept=("",)) for n in numbers]


def _busy(intervals: list[tuple[float, float]]) -> float:
    return sum(end - begun for begun, end in intervals) / (intervals[-1][1] - intervals[0][0])


if __name__ == "__main__":
    main()
