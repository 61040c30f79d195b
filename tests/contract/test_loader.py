"""What every loader does: held by the real one and by its memory twin."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from schemas.failures import DEFECT_MESSAGES, Failure, FailureCode, Stage
from schemas.rows import ManifestRow, Modality
from tests.bad_images import encoded, photo
from workers.fetch import Fetcher
from workers.loading import Loaded, Loader, MediaLoader, ScriptedLoader

#: Makes a loader that finds the given pictures by their rows' ids, "<id>.png" being their uris.
MakeLoader = Callable[[dict[str, Image.Image]], Loader]


@pytest.fixture(params=["media", "scripted"])
def make_loader(request: pytest.FixtureRequest, tmp_path: Path) -> MakeLoader:
    def media(pictures: dict[str, Image.Image]) -> Loader:
        for name, picture in pictures.items():
            (tmp_path / f"{name}.png").write_bytes(encoded(picture, "PNG"))
        return MediaLoader(Fetcher(str(tmp_path), (str(tmp_path),), 2**20), max_pixels=10**6)

    def scripted(pictures: dict[str, Image.Image]) -> Loader:
        return ScriptedLoader({name: Loaded(image=picture) for name, picture in pictures.items()})

    return media if request.param == "media" else scripted


def row(name: str, modality: Modality = Modality.IMAGE, **fields: object) -> ManifestRow:
    uri = None if modality is Modality.TEXT else f"{name}.png"
    return ManifestRow(**{"id": name, "line": 1, "modality": modality, "uri": uri} | fields)  # type: ignore[arg-type]


def test_a_text_is_loaded_as_it_is(make_loader: MakeLoader) -> None:
    """White space, control characters and what looks like a location are kept."""
    text = "  a\r\nb\t./a.png "

    assert make_loader({}).load(row("1", Modality.TEXT, text=text)) == Loaded(text=text)


def test_an_image_is_loaded_as_rgb(make_loader: MakeLoader) -> None:
    """An image row has an image, pixel by pixel, and no text."""
    outcome = make_loader({"1": photo()}).load(row("1"))

    assert isinstance(outcome, Loaded)
    assert outcome.text is None
    assert outcome.image is not None
    assert outcome.image.mode == "RGB"
    assert outcome.image.tobytes() == photo().tobytes()


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


@pytest.mark.parametrize("modality", [Modality.AUDIO, Modality.VIDEO, Modality.MIXED])
def test_another_modality_is_a_failure(make_loader: MakeLoader, modality: Modality) -> None:
    """What no loader can load yet is told by its code."""
    outcome = make_loader({"1": photo()}).load(row("1", modality))

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
        assert isinstance(outcome, Loaded)
        assert outcome.image is not None
        assert outcome.image.tobytes() == picture.tobytes()
