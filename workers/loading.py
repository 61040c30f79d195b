"""Loading: rows become texts and images in memory, in front of the model."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from schemas.failures import DEFECT_MESSAGES, Failure, FailureCode, Stage
from schemas.rows import ManifestRow, Modality
from workers.decode import decode_image
from workers.fetch import Fetcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a model is fed for one row; exactly one of them is set."""

    text: str | None = None
    image: Image.Image | None = None  # RGB, upright, without metadata


class Loader(Protocol):
    """Turns a row into what a model is fed; called from several threads at once."""

    def load(self, row: ManifestRow) -> Loaded | Failure:
        """The row's content, or why there is none."""


class MediaLoader:
    """The real loader: texts as they are, images fetched and decoded."""

    def __init__(self, fetcher: Fetcher, max_pixels: int) -> None:
        self._fetcher = fetcher
        self._max_pixels = max_pixels

    def load(self, row: ManifestRow) -> Loaded | Failure:
        defect = _defect(row)
        if defect is not None:
            return defect
        return Loaded(text=row.text) if row.modality is Modality.TEXT else self._image(row)

    def _image(self, row: ManifestRow) -> Loaded | Failure:
        data = self._fetcher.fetch(row.uri or "")
        if isinstance(data, Failure):
            return data
        image = decode_image(data, max_pixels=self._max_pixels)
        return image if isinstance(image, Failure) else Loaded(image=image)


class ScriptedLoader:
    """The memory twin: media are what `media` says of their row's id; held to MediaLoader by tests/contract."""

    def __init__(self, media: Mapping[str, Loaded | Failure]) -> None:
        self._media = media

    def load(self, row: ManifestRow) -> Loaded | Failure:
        defect = _defect(row)
        if defect is not None:
            return defect
        if row.modality is Modality.TEXT:
            return Loaded(text=row.text)
        missing = Failure(code=FailureCode.NOT_FOUND, stage=Stage.FETCH, message="the script has no such medium")
        return self._media.get(row.id, missing)


def load_all(
    loader: Loader, rows: Iterable[ManifestRow], threads: int
) -> Generator[tuple[int, Loaded | Failure], None, None]:
    """Each row's index and outcome, in the order of `rows`; media are loaded by `threads` threads.

    At most `2 * threads` rows are loaded ahead of the consumer, so memory is bounded whatever the shard.
    What the loader raises is raised here, in its row's turn. Closing the iterator waits for the loads under way.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="load")
    ahead: deque[Callable[[], Loaded | Failure]] = deque()
    done = 0
    try:
        for row in rows:
            ahead.append(_started(pool, loader, row))
            if len(ahead) >= 2 * threads:
                yield done, ahead.popleft()()
                done += 1
        while ahead:
            yield done, ahead.popleft()()
            done += 1
    finally:
        pool.shutdown(cancel_futures=True)


def _started(pool: ThreadPoolExecutor, loader: Loader, row: ManifestRow) -> Callable[[], Loaded | Failure]:
    if row.modality is Modality.TEXT:  # at hand: a thread would only cost time
        outcome = loader.load(row)
        return lambda: outcome
    return pool.submit(loader.load, row).result


def _defect(row: ManifestRow) -> Failure | None:
    """Why `row` cannot be loaded, as far as the row itself tells."""
    if row.defect is not None:
        return _parse_failure(row.defect)
    if row.modality not in (Modality.TEXT, Modality.IMAGE):
        return _parse_failure(FailureCode.MODALITY_UNSUPPORTED)
    if row.modality is Modality.TEXT and row.text is None:
        return _parse_failure(FailureCode.TEXT_EMPTY)
    return None


def _parse_failure(code: FailureCode) -> Failure:
    message = DEFECT_MESSAGES.get(code, "the row was found bad when the manifest was read")
    return Failure(code=code, stage=Stage.PARSE, message=message)
