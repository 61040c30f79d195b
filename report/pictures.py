"""Pictures: small ones of a job's media, fetched and decoded as its workers do it, within the job's own limits."""

import base64
import io
import time
from types import TracebackType

import numpy as np
from PIL import Image

from report.asked import Asked
from schemas.errors import EmbedmillError
from schemas.failures import Failure
from schemas.job import JobSpec
from schemas.rows import ManifestRow, Modality
from storage.store import canonical_location, require_within
from workers.decoders import DecodeLimits, Decoders
from workers.fetch import Fetcher, FetchRules
from workers.shrinking import Shrink

#: Seconds of one decode, and pixels of a film's frame.
_DECODE_S, _FRAME_PIXELS = 5.0, 65_536
_QUALITY = 62
_SOUND_HZ, _PEAKS = 8000, 48


class Pictures:
    """Draws until its seconds or bytes are used up; use it as a context manager. Nothing that it meets is raised."""

    def __init__(
        self, spec: JobSpec, *, seconds: float, most_bytes: int, web: bool = False, within: tuple[str, ...] = ()
    ) -> None:
        """`web`: media of http(s) are fetched anew; else only files and objects are read.

        `within`: the only places that media may be read from, whatever the job says; (): the job is trusted.
        """
        self._base, self._web, self._seconds, self._left = spec.media_base, web, seconds, most_bytes
        roots = tuple(root for root in spec.media_roots if (web or not _is_web(root)) and _is_within(root, within))
        self._rules = FetchRules(
            base="" if _is_web(spec.media_base) and not web else spec.media_base,
            roots=roots,
            max_bytes=spec.max_file_bytes,
            max_seconds=_DECODE_S,
            allow_http=spec.allow_http,
            allow_private=spec.allow_private,
        )
        self._limits = DecodeLimits(max_pixels=spec.max_pixels, max_seconds=spec.max_media_s, timeout_s=_DECODE_S)
        self._fetcher: Fetcher | None = None
        self._decoders: Decoders | None = None
        self._made: dict[tuple[str, int], str] = {}
        self.drawn = self.missing = 0

    @classmethod
    def asked(cls, spec: JobSpec, asked: Asked, *, share: int = 1) -> "Pictures":
        """As the report was asked for, with so much of its seconds and bytes: 1 all, 2 half."""
        return cls(
            spec,
            seconds=asked.picture_s / share,
            most_bytes=asked.picture_bytes // share,
            web=asked.web,
            within=asked.roots,
        )

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._decoders is not None:
            self._decoders.close()
        if self._fetcher is not None:
            self._fetcher.close()

    def of(self, row: ManifestRow | None, edge: int) -> str:
        """A data URI of the row's first medium, at most `edge` pixels wide and high; "" where there is none."""
        if row is None or row.defect is not None:
            return ""
        media = [(part.modality, part.uri) for part in row.parts if part.uri]
        modality, uri = media[0] if media else (row.modality, row.uri or "")
        if not uri or modality is Modality.TEXT or (_is_web(uri) and not self._web):
            return ""
        if (uri, edge) not in self._made:
            if self._seconds <= 0 or self._left <= 0:
                return ""
            self._made[uri, edge] = self._timed(modality, uri, edge)
        return self._made[uri, edge]

    def _timed(self, modality: Modality, uri: str, edge: int) -> str:
        began = time.monotonic()
        try:
            made = self._drawn(modality, uri, edge)
        except (EmbedmillError, OSError, ValueError):  # a look at a row must not cost the report
            made = ""
        self._seconds -= time.monotonic() - began
        self._left -= len(made)
        self.drawn, self.missing = self.drawn + bool(made), self.missing + (not made)
        return made

    def _drawn(self, modality: Modality, uri: str, edge: int) -> str:
        if self._fetcher is None or self._decoders is None:
            self._fetcher, self._decoders = Fetcher(self._rules), Decoders(count=1, limits=self._limits)
        data = self._fetcher.fetch(uri)
        if isinstance(data, Failure):
            return ""
        if modality is Modality.AUDIO:
            sound = self._decoders.sound(data, rate=_SOUND_HZ)
            return "" if isinstance(sound, Failure) else _waveform(sound.samples, edge)
        if modality is Modality.VIDEO:
            films = self._decoders.film(data, frames=1, fps=None, segment_s=None, frame_pixels=_FRAME_PIXELS)
            return "" if isinstance(films, Failure) else _small(Image.fromarray(films[0].frames[0]), edge)
        image = self._decoders.image(data, shrink=Shrink(shortest_edge=edge))
        return "" if isinstance(image, Failure) else _small(image, edge)


def _is_within(root: str, places: tuple[str, ...]) -> bool:
    if not places:
        return True
    try:
        require_within(canonical_location(root), places, what="media")
    except EmbedmillError:
        return False
    return True


def _is_web(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))


def _small(image: Image.Image, edge: int) -> str:
    image.thumbnail((edge, edge))
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=_QUALITY)
    return _uri("image/webp", sink.getvalue())


def _waveform(samples: np.ndarray, edge: int) -> str:
    """The loudest sample of each stretch as a bar, up and down."""
    parts = [float(np.abs(part).max()) if len(part) else 0.0 for part in np.array_split(samples, _PEAKS)]
    top, middle, step = max([*parts, 1e-6]), edge / 2, edge / _PEAKS
    bars = "".join(
        f"M{n * step + step / 2:.1f} {middle - peak / top * edge * 0.45:.1f}V{middle + peak / top * edge * 0.45:.1f}"
        for n, peak in enumerate(parts)
    )
    drawn = f'<path d="{bars}" stroke="#5b7fb5" stroke-width="{step * 0.7:.2f}" stroke-linecap="round"/>'
    size = f'width="{edge}" height="{edge}" viewBox="0 0 {edge} {edge}"'
    return _uri("image/svg+xml", f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{drawn}</svg>'.encode())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
