"""Loading: rows become texts, images, sounds and films in memory, in front of the model."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from schemas.contents import media_content, mixed_content, text_content
from schemas.failures import DEFECT_MESSAGES, Failure, FailureCode, Stage
from schemas.recipe import Recipe
from schemas.rows import ManifestRow, Modality, Part
from schemas.spent import Step
from workers.content import Film, Sound
from workers.decoders import Decoders
from workers.fetch import Fetcher
from workers.meter import Meter
from workers.shrinking import Shrink
from workers.windows import cut_film, cut_sound


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One input of a model: at least one part, of each kind at most one."""

    text: str | None = None
    image: Image.Image | None = None  # RGB, upright, without metadata
    sound: Sound | None = None
    film: Film | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The parts that are there; inputs of one batch have the same."""
        return tuple(name for name in ("text", "image", "sound", "film") if getattr(self, name) is not None)

    @property
    def texts(self) -> tuple[str, ...]:
        """What no message may quote."""
        return () if self.text is None else (self.text,)

    @property
    def nbytes(self) -> int:
        """What its media take up in memory."""
        pixels = 0 if self.image is None else 3 * self.image.width * self.image.height
        samples = 0 if self.sound is None else self.sound.samples.nbytes
        return pixels + samples + (0 if self.film is None else self.film.frames.nbytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What one vector is made of: one input, or several whose vectors are averaged."""

    inputs: tuple[Loaded, ...]
    start_s: float | None = None
    end_s: float | None = None
    usage: Mapping[str, float] = field(default_factory=dict)  # seconds and frames, by the names of schemas.columns
    content: bytes = field(default=b"", compare=False)  # the content hash of its row


#: One segment, but for rows that are cut into several.
Segments = tuple[Segment, ...]


#: Asked for a row's id and content hash before anything is decoded: whether the vectors of that content are at hand.
IsKnown = Callable[[str, bytes], bool]


def nothing_known(id_: str, content: bytes) -> bool:
    """Each row is for itself."""
    return False


class Loader(Protocol):
    """Turns a row into what a model is fed; called from several threads at once."""

    def load(self, row: ManifestRow, is_known: IsKnown = nothing_known) -> Segments | Failure:
        """The row's content, or why there is none; a segment without inputs where the content is known."""

    def close(self) -> None:
        """End what the loader has started."""


#: A part and, of a medium, its bytes.
Fetched = tuple[Part, bytes]


class MediaLoader:
    """The real loader: texts as they are; media fetched, decoded, and cut as the recipe says."""

    def __init__(self, fetcher: Fetcher, decoders: Decoders, recipe: Recipe, meter: Meter | None = None) -> None:
        self._fetcher, self._decoders, self._recipe = fetcher, decoders, recipe
        self._meter = meter or Meter()
        self.shrink: Shrink | None = None  # what the model's processor would bring pictures to; set before rows are

    def load(self, row: ManifestRow, is_known: IsKnown = nothing_known) -> Segments | Failure:
        defect = _defect(row)
        if defect is not None:
            return defect
        if row.modality is Modality.TEXT:
            return _text_segments(row, is_known)
        fetched = self._fetched(row)
        if isinstance(fetched, Failure):
            return fetched
        content = _content_of(fetched)
        if is_known(row.id, content):
            return (Segment(inputs=(), content=content),)
        return self._made_of(fetched, content)

    def close(self) -> None:
        self._fetcher.close()

    def _fetched(self, row: ManifestRow) -> list[Fetched] | Failure:
        fetched: list[Fetched] = []
        for part in _parts_of(row):
            if part.modality is Modality.TEXT:
                fetched.append((part, b""))
                continue
            with self._meter.while_in(Step.FETCH):
                data = self._fetcher.fetch(part.uri or "")
            if isinstance(data, Failure):
                return data
            fetched.append((part, data))
        return fetched

    def _made_of(self, fetched: list[Fetched], content: bytes) -> Segments | Failure:
        segments: Segments = (Segment(inputs=(Loaded(),), content=content),)
        for part, data in fetched:
            found = self._segments(part, data)
            if isinstance(found, Failure):
                return found
            segments = _joined(segments, found)
        return segments

    def _segments(self, part: Part, data: bytes) -> Segments | Failure:
        if part.modality is Modality.TEXT:
            return (Segment(inputs=(Loaded(text=part.text),)),)
        with self._meter.while_in(Step.DECODE):
            return self._decoded(part, data)

    def _decoded(self, part: Part, data: bytes) -> Segments | Failure:
        if part.modality is Modality.IMAGE:
            image = self._decoders.image(data, shrink=self.shrink)
            return image if isinstance(image, Failure) else (Segment(inputs=(Loaded(image=image),)),)
        return self._sound(data) if part.modality is Modality.AUDIO else self._film(data)

    def _sound(self, data: bytes) -> Segments | Failure:
        sound = self._decoders.sound(data, rate=self._recipe.audio_rate)
        return sound if isinstance(sound, Failure) else tuple(_segment_of_sound(*cut) for cut in self._cuts(sound))

    def _cuts(self, sound: Sound) -> list[tuple[list[Sound], float | None, float | None]]:
        return cut_sound(sound, segment_s=self._recipe.segment_s, window_s=self._recipe.audio_window_s)

    def _film(self, data: bytes) -> Segments | Failure:
        recipe = self._recipe
        films = self._decoders.film(
            data,
            frames=recipe.frames,
            fps=recipe.fps or None,
            segment_s=recipe.segment_s or None,
            frame_pixels=recipe.frame_pixels,
        )
        if isinstance(films, Failure):
            return films
        return tuple(_segment_of_film(film, recipe) for film in films)


class ScriptedLoader:
    """The memory twin: media are what `media` says of their row's id; held to MediaLoader by tests/contract."""

    def __init__(self, media: Mapping[str, Loaded | Failure]) -> None:
        self._media = media

    def load(self, row: ManifestRow, is_known: IsKnown = nothing_known) -> Segments | Failure:
        defect = _defect(row)
        if defect is not None:
            return defect
        if row.modality is Modality.TEXT:
            return _text_segments(row, is_known)
        missing = Failure(code=FailureCode.NOT_FOUND, stage=Stage.FETCH, message="the script has no such medium")
        found = self._media.get(row.id, missing)
        if isinstance(found, Failure):
            return found
        content = media_content(row.modality, row.id.encode())  # each script is another content
        return (Segment(inputs=() if is_known(row.id, content) else (found,), content=content),)

    def close(self) -> None: ...


def load_all(
    loader: Loader, rows: Iterable[ManifestRow], threads: int, is_known: IsKnown = nothing_known
) -> Generator[tuple[int, Segments | Failure], None, None]:
    """Each row's index and outcome, in the order of `rows`; media are loaded by `threads` threads.

    At most `2 * threads` rows are loaded ahead of the consumer, so memory is bounded whatever the shard.
    What the loader raises is raised here, in its row's turn. Closing the iterator waits for the loads under way.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="load")
    ahead: deque[Callable[[], Segments | Failure]] = deque()
    done = 0
    try:
        for row in rows:
            ahead.append(_started(pool, loader, row, is_known))
            if len(ahead) >= 2 * threads:
                yield done, ahead.popleft()()
                done += 1
        while ahead:
            yield done, ahead.popleft()()
            done += 1
    finally:
        pool.shutdown(cancel_futures=True)


def _started(
    pool: ThreadPoolExecutor, loader: Loader, row: ManifestRow, is_known: IsKnown
) -> Callable[[], Segments | Failure]:
    if row.modality is Modality.TEXT:  # at hand: a thread would only cost time
        outcome = loader.load(row, is_known)
        return lambda: outcome
    return pool.submit(loader.load, row, is_known).result


def _text_segments(row: ManifestRow, is_known: IsKnown) -> Segments:
    content = text_content(row.text or "")
    inputs = () if is_known(row.id, content) else (Loaded(text=row.text),)
    return (Segment(inputs=inputs, content=content),)


def _content_of(fetched: list[Fetched]) -> bytes:
    hashes = [
        text_content(part.text or "") if part.uri is None else media_content(part.modality, data)
        for part, data in fetched
    ]
    return hashes[0] if len(hashes) == 1 else mixed_content(hashes)


def _parts_of(row: ManifestRow) -> tuple[Part, ...]:
    return row.parts or (Part(modality=row.modality, text=row.text, uri=row.uri),)


def _joined(segments: Segments, more: Segments) -> Segments:
    """The parts of a mixed row together: what is cut into several meets each of the other part whole.

    Both cut: they are cut at the same times, and the shorter one's last goes with what the longer one has beyond it.
    """
    count = max(len(segments), len(more))
    return tuple(
        _both(segments[min(n, len(segments) - 1)], more[min(n, len(more) - 1)], longer=len(more) > len(segments))
        for n in range(count)
    )


def _both(one: Segment, other: Segment, *, longer: bool) -> Segment:
    inputs = tuple(_merged(a, b) for a in one.inputs for b in other.inputs)
    timed = other if longer or one.start_s is None else one
    usage = {**one.usage, **other.usage}
    content = one.content or other.content
    return Segment(inputs=inputs, start_s=timed.start_s, end_s=timed.end_s, usage=usage, content=content)


def _merged(one: Loaded, other: Loaded) -> Loaded:
    return Loaded(
        text=one.text if other.text is None else other.text,
        image=one.image if other.image is None else other.image,
        sound=one.sound if other.sound is None else other.sound,
        film=one.film if other.film is None else other.film,
    )


def _segment_of_sound(windows: list[Sound], start_s: float | None, end_s: float | None) -> Segment:
    used = sum(window.seconds for window in windows)
    return Segment(
        inputs=tuple(Loaded(sound=window) for window in windows),
        start_s=start_s,
        end_s=end_s,
        usage={"seconds_in": windows[0].seconds_in, "seconds_used": round(used, 6)},
    )


def _segment_of_film(film: Film, recipe: Recipe) -> Segment:
    if recipe.films_as_frames:
        inputs = tuple(Loaded(image=Image.fromarray(frame)) for frame in film.frames)
    else:
        inputs = (Loaded(film=cut_film(film, recipe.frames if recipe.exact_frames else 0)),)
    used = round(film.end_s - film.start_s, 6)
    seconds = {"seconds_in": round(film.seconds_in, 6), "seconds_used": used}
    return Segment(
        inputs=inputs,
        start_s=film.start_s if recipe.segment_s else None,
        end_s=film.end_s if recipe.segment_s else None,
        usage=seconds | {"frames_in": film.frames_in, "frames_used": len(film.frames)},
    )


def _defect(row: ManifestRow) -> Failure | None:
    """Why `row` cannot be loaded, as far as the row itself tells."""
    if row.defect is not None:
        return _parse_failure(row.defect)
    if row.modality is Modality.TEXT and row.text is None:
        return _parse_failure(FailureCode.TEXT_EMPTY)
    if row.modality is Modality.MIXED and not row.parts:
        return _parse_failure(FailureCode.MODALITY_UNSUPPORTED)
    return None


def _parse_failure(code: FailureCode) -> Failure:
    message = DEFECT_MESSAGES.get(code, "the row was found bad when the manifest was read")
    return Failure(code=code, stage=Stage.PARSE, message=message)
