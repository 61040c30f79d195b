"""What is made ahead of the device."""

import threading
from collections.abc import Generator, Sequence

import numpy as np
import pytest
from PIL import Image

from schemas.rows import ManifestRow, Modality
from storage.model_files import resolve_model
from storage.shards import read_shard
from storage.store import memory_store
from tests.inline import InlineMill
from tests.jobs import planned_job
from workers.ahead import ahead
from workers.encoder import Encoder, Length
from workers.loading import IsKnown, Loaded, ScriptedLoader, Segments, nothing_known

WAIT_S = 30.0
MODEL = resolve_model("hash")


class Noted(ScriptedLoader):
    """Says when the last row was loaded."""

    def __init__(self, last: str) -> None:
        super().__init__({f"p{n:04d}": Loaded(image=Image.new("RGB", (n % 7 + 1, 2))) for n in range(128)})
        self._last, self.came_to_the_last = last, threading.Event()

    def load(self, row: ManifestRow, is_known: IsKnown = nothing_known) -> Segments:
        loaded = super().load(row, is_known)
        if row.id == self._last:
            self.came_to_the_last.set()
        assert isinstance(loaded, tuple)
        return loaded


class Waiting:
    """An encoder whose first batch does not end before an event has come."""

    def __init__(self, inner: Encoder, event: threading.Event) -> None:
        self._inner, self._event, self.dim = inner, event, inner.dim
        self.in_time: list[bool] = []

    def lengths(self, items: Sequence[Loaded]) -> list[Length]:
        return self._inner.lengths(items)

    def preprocess(self, items: Sequence[Loaded]) -> object:
        return self._inner.preprocess(items)

    def forward(self, features: object) -> np.ndarray:
        self.in_time.append(self._event.wait(WAIT_S))
        return self._inner.forward(features)


def numbers(count: int, made: list[int], *, then: Exception | None = None) -> Generator[int, None, None]:
    for n in range(count):
        made.append(n)
        yield n
    if then is not None:
        raise then


def test_what_comes_ahead_comes_in_order_with_its_error_last() -> None:
    """An error is raised in its turn: all that came before it has been given."""
    taken = []

    with pytest.raises(KeyError):  # noqa: PT012  # what was taken before is what is asserted
        for n in ahead(numbers(20, [], then=KeyError("row")), 2):
            taken.append(n)  # noqa: PERF402

    assert taken == list(range(20))


def test_no_more_is_made_than_was_asked_for() -> None:
    """Closed at the first, no more than those ahead of it have been made, and the source is closed."""
    made: list[int] = []
    source = numbers(1000, made)
    coming = ahead(source, 2)

    first = next(coming)
    coming.close()

    assert first == 0
    assert len(made) <= 3
    assert list(source) == []


def test_pictures_are_loaded_while_the_device_is_at_those_before_them() -> None:
    """The last picture of the second stretch has been loaded before the first batch of the first one ends."""
    rows = [
        ManifestRow(id=f"p{n:04d}", line=n + 1, modality=Modality.IMAGE, uri=f"{n}.png", kept=("",)) for n in range(128)
    ]
    loader = Noted(rows[-1].id)
    mill = InlineMill(planned_job(memory_store(), [rows], model_digest=MODEL.card.digest), loader=loader)
    encoder = Waiting(mill.encoder, loader.came_to_the_last)
    mill.use(encoder)

    outcome = mill.work(mill.message(0))

    footer, *_ = read_shard(mill.job.store, "data/modality=image/part-000000.parquet")
    assert outcome == "published"
    assert footer.rows_ok == len(rows)
    assert encoder.in_time
    assert all(encoder.in_time)
