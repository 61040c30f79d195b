"""Loading: order, bounds and endings of `load_all`, and what MediaLoader makes of rows."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from schemas.failures import Failure, FailureCode, Stage
from schemas.rows import ManifestRow, Modality
from tests.bad_images import bad_images, good_images, write_images
from tests.media_loader import media_loader
from workers.loading import IsKnown, Loaded, ScriptedLoader, Segment, Segments, load_all, nothing_known


def image_row(number: int, uri: str = "x.png") -> ManifestRow:
    return ManifestRow(id=f"row-{number}", line=number + 1, modality=Modality.IMAGE, uri=uri)


def text_row(number: int) -> ManifestRow:
    return ManifestRow(id=f"row-{number}", line=number + 1, modality=Modality.TEXT, text=f"text {number}")


def scripted(count: int) -> ScriptedLoader:
    return ScriptedLoader({f"row-{i}": Loaded(image=Image.new("RGB", (i + 1, 1))) for i in range(count)})


class Counting:
    """A loader that counts what it is asked for, and can be held up."""

    def __init__(self, inner: ScriptedLoader) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self.started = self.ended = 0
        self.gate = threading.Event()
        self.gate.set()

    def close(self) -> None: ...

    def load(self, row: ManifestRow, is_known: IsKnown = nothing_known) -> Segments | Failure:
        with self._lock:
            self.started += 1
        self.gate.wait(timeout=60)
        try:
            return self._inner.load(row, is_known)
        finally:
            with self._lock:
                self.ended += 1


def test_every_row_of_the_corpus_has_the_outcome_that_it_must_have(tmp_path: Path) -> None:
    """Bad images are failures with their codes and good ones images, side by side, in order."""
    folder = tmp_path / "media"
    folder.mkdir()
    samples = [sample for pair in zip(bad_images(), good_images(), strict=False) for sample in pair]
    write_images(folder, samples)
    rows = [image_row(i, sample.name) for i, sample in enumerate(samples)]

    with media_loader(folder) as loader:
        outcomes = [outcome for _, outcome in load_all(loader, rows, 2)]

    codes = [outcome.code if isinstance(outcome, Failure) else None for outcome in outcomes]
    assert codes == [sample.code for sample in samples]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_outcomes_come_in_the_order_of_the_rows(threads: int) -> None:
    """Whichever thread is first, row n is the n-th, also among texts."""
    rows = [text_row(i) if i % 3 == 0 else image_row(i) for i in range(50)]

    outcomes = list(load_all(scripted(50), rows, threads))

    assert [i for i, _ in outcomes] == list(range(50))
    for i, outcome in outcomes:
        assert not isinstance(outcome, Failure)
        [item] = outcome[0].inputs
        assert (item.text == f"text {i}") if i % 3 == 0 else (item.image and item.image.width == i + 1)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5])
def test_short_shards_end(count: int) -> None:
    """Fewer rows than are loaded ahead are no special case."""
    assert len(list(load_all(scripted(count), [image_row(i) for i in range(count)], 2))) == count


def test_loading_stays_a_bounded_number_of_rows_ahead() -> None:
    """However slow the consumer, at most 2 * threads rows are loaded that it has not taken."""
    loader = Counting(scripted(40))

    for i, _ in load_all(loader, [image_row(n) for n in range(40)], 3):
        taken = i + 1
        assert loader.started - taken <= 6

    assert loader.ended == 40


def test_rows_are_read_as_they_are_needed() -> None:
    """A shard's rows may be a stream: it is read no further than the look-ahead."""
    read: list[int] = []

    def stream() -> Iterator[ManifestRow]:
        for i in range(1000):
            read.append(i)
            yield image_row(i)

    outcomes = load_all(scripted(1000), stream(), 2)
    next(outcomes)
    outcomes.close()

    assert len(read) <= 5


def test_closing_early_leaves_no_thread_and_loads_no_further() -> None:
    """A consumer that stops, stops the loading."""
    loader = Counting(scripted(100))
    outcomes = load_all(loader, [image_row(i) for i in range(100)], 2)
    next(outcomes)

    del outcomes

    assert loader.started == loader.ended <= 5
    assert not [t for t in threading.enumerate() if t.name.startswith("load")]


def test_images_are_loaded_beside_the_consumer() -> None:
    """While the consumer holds one row, the threads work on the next."""
    loader = Counting(scripted(4))
    outcomes = load_all(loader, [image_row(i) for i in range(4)], 2)

    next(outcomes)

    assert loader.started >= 2
    assert len(list(outcomes)) == 3


def test_what_a_loader_raises_is_raised_in_its_rows_turn() -> None:
    """A broken promise is not swallowed, and not told before the rows in front of it."""

    class Broken:
        def close(self) -> None: ...

        def load(self, row: ManifestRow, is_known: IsKnown = nothing_known) -> Segments | Failure:
            if row.id == "row-2":
                raise MemoryError("no more")
            return (Segment(inputs=(Loaded(text=row.id),)),)

    outcomes = load_all(Broken(), [image_row(i) for i in range(5)], 2)

    assert [next(outcomes)[0], next(outcomes)[0]] == [0, 1]
    with pytest.raises(MemoryError, match="no more"):
        next(outcomes)
    assert not [t for t in threading.enumerate() if t.name.startswith("load")]


def test_a_text_that_is_a_path_stays_a_text(tmp_path: Path) -> None:
    """No text is ever taken for a location, even of a file that exists."""
    (tmp_path / "a.png").write_bytes(b"never read")
    for text in ("a.png", str(tmp_path / "a.png"), "https://example.org/a.png"):
        row = ManifestRow(id="1", line=1, modality=Modality.TEXT, text=text)

        with media_loader(tmp_path) as loader:
            assert loader.load(row) == (Segment(inputs=(Loaded(text=text),)),)


def test_an_image_without_a_uri_is_a_failure(tmp_path: Path) -> None:
    """A media row without a location fails by itself."""
    with media_loader(tmp_path) as loader:
        outcome = loader.load(ManifestRow(id="1", line=1, modality=Modality.IMAGE))

    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.stage) == (FailureCode.URI_EMPTY, Stage.FETCH)
