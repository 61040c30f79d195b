"""What every loader does: held by the real one and by its memory twin."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from schemas.failures import DEFECT_MESSAGES, Failure, FailureCode, Stage
from schemas.rows import ManifestRow, Modality
from tests.bad_images import encoded, photo
from tests.media_loader import media_loader
from workers.loading import Loaded, Loader, ScriptedLoader, Segment, Segments

#: Makes a loader that finds the given pictures by their rows' ids, "<id>.png" being their uris.
MakeLoader = Callable[[dict[str, Image.Image]], Loader]


@pytest.fixture(params=["media", "scripted"])
def make_loader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeLoader]:
    def media(pictures: dict[str, Image.Image]) -> Loader:
        for name, picture in pictures.items():
            (tmp_path / f"{name}.png").write_bytes(encoded(picture, "PNG"))
        return real

    def scripted(pictures: dict[str, Image.Image]) -> Loader:
        return ScriptedLoader({name: Loaded(image=picture) for name, picture in pictures.items()})

    with media_loader(tmp_path) as real:
        yield media if request.param == "media" else scripted


def row(name: str, modality: Modality = Modality.IMAGE, **fields: object) -> ManifestRow:
    uri = None if modality is Modality.TEXT else f"{name}.png"
    return ManifestRow(**{"id": name, "line": 1, "modality": modality, "uri": uri} | fields)  # type: ignore[arg-type]


def only_input(outcome: Segments | Failure) -> Loaded:
    """What a row is fed as that is one segment of one input."""
    assert not isinstance(outcome, Failure)
    [segment] = outcome
    [item] = segment.inputs
    return item


def test_a_text_is_loaded_as_it_is(make_loader: MakeLoader) -> None:
    """White space, control characters and what looks like a location are kept."""
    text = "  a\r\nb\t./a.png "

    assert make_loader({}).load(row("1", Modality.TEXT, text=text)) == (Segment(inputs=(Loaded(text=text),)),)


def test_an_image_is_loaded_as_rgb(make_loader: MakeLoader) -> None:
    """An image row has an image, pixel by pixel, and no text."""
    item = only_input(make_loader({"1": photo()}).load(row("1")))

    assert item.text is None
    assert item.image is not None
    assert item.image.mode == "RGB"
    assert item.image.tobytes() == photo().tobytes()


def test_a_missing_image_is_a_failure(make_loader: MakeLoader) -> None:
    """A medium that does not exist is a value, not an exception."""
    outcome = make_loader({}).load(row("1"))

    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.stage) == (FailureCode.NOT_FOUND, Stage.FETCH)


@pytest.mark.parametrize("code", DEFECT_MESSAGES)
def test_a_defect_is_a_failure_of_parsing(make_loader: MakeLoader, code: FailureCode) -> None:
    """What the manifest's parser found is told, and nothing is read."""
    outcome = make_loader({"1": photo()}).load(row("1", defect=code))

    assert outcome == Failure(code=code, stage=Stage.PARSE, message=DEFECT_MESSAGES[code])


def test_a_mixed_row_without_parts_is_a_failure(make_loader: MakeLoader) -> None:
    """Nothing is made up for it."""
    outcome = make_loader({"1": photo()}).load(row("1", Modality.MIXED))

    assert isinstance(outcome, Failure)
    assert outcome.code is FailureCode.MODALITY_UNSUPPORTED


def test_a_text_row_without_text_is_a_failure(make_loader: MakeLoader) -> None:
    """None is never embedded as if it were a text."""
    outcome = make_loader({}).load(row("1", Modality.TEXT))

    assert isinstance(outcome, Failure)
    assert outcome.code is FailureCode.TEXT_EMPTY


def test_many_threads_load_at_once(make_loader: MakeLoader) -> None:
    """Loads in several threads do not disturb each other."""
    pictures = {str(i): photo(seed=i) for i in range(32)}
    loader = make_loader(pictures)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(loader.load, [row(name) for name in pictures] * 4))

    for outcome, picture in zip(outcomes, list(pictures.values()) * 4, strict=True):
        image = only_input(outcome).image
        assert image is not None
        assert image.tobytes() == picture.tobytes()
