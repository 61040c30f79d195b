"""Decoding of films: bytes become some of their frames, the same ones each time. Runs in a decoder process."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.failures import Failure, FailureCode
from workers.containers import Undecodable, check_whole, opened, require_known
from workers.content import Film
from workers.media_formats import media_format

#: Packets of a film: an hour at 500 frames a second.
_MOST_PACKETS = 1_800_000
_PADDING = 2**20
#: What rounding may take from a time.
_ROUNDING_S = 1e-6
#: A tail below this share of a segment is left out where there are others.
_SHORTEST_TAIL = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which frames are wanted."""

    frames: int  # of the film, or of each segment, at most
    fps: float | None = None  # so many a second instead, up to `frames`
    segment_s: float | None = None
    frame_pixels: int = 0  # larger frames are scaled down; 0: none are


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """Where the frames of a film are, from its packets: nothing is decoded for it."""

    times: np.ndarray  # float64 (n,), seconds from the first frame, rising
    stamps: np.ndarray  # int64 (n,), the same in the stream's own units
    keys: np.ndarray  # int64, the stamps of frames that decoding can start at, rising
    seconds: float
    counted: bool  # a frame's stamp is told by how many came before it, not by itself

    @property
    def fps(self) -> float:
        return len(self.times) / self.seconds


def decode_film(
    data: bytes, sampling: Sampling, *, max_pixels: int, max_seconds: float, max_bytes: int
) -> list[Film] | Failure:
    """Frames of `data`, one Film for each segment, or why there are none.

    MP4, QuickTime, Matroska, WebM, AVI, Ogg and GIF, by content. A segment's frames are those that are shown at the
    middles of equal intervals, each at most once; decoding starts at the key frame before, not at the beginning.
    """
    form = media_format(data)
    if form is None:
        code = FailureCode.FORMAT_UNSUPPORTED
        return Undecodable(code, "the content is no film: MP4, QuickTime, Matroska, WebM, AVI, Ogg, GIF").failure
    try:
        check_whole(data, form)
        if form.demuxer == "gif":  # FFmpeg tells no size that it finds too large
            width, height = struct.unpack_from("<HH", data.ljust(10, b"\0"), 6)
            _check_pixels(width, height, max_pixels)
        with opened(data, form) as container:
            stream = _stream_of(container, max_pixels)
            index = _index_of(container, stream, max_seconds)
        chosen = [_chosen(index, start, end, sampling) for start, end in _segments(index.seconds, sampling.segment_s)]
        wanted = sorted({at for _, _, frames in chosen for at in frames})
        with opened(data, form) as container:  # anew: GIF and others cannot be wound back
            stream = _stream_of(container, max_pixels)
            _check_bytes(stream, sum(len(frames) for _, _, frames in chosen), sampling.frame_pixels, max_bytes)
            reader = _Reader(container, stream, index)
            pictures = {}
            for at in wanted:
                frame = reader.frame_at(int(index.stamps[at]))
                _check_pixels(frame.width, frame.height, max_pixels)
                pictures[at] = _pixels(frame, sampling.frame_pixels)
    except Undecodable as err:
        return err.failure
    return [_film(index, pictures, start, end, frames) for start, end, frames in chosen]


def _stream_of(container: Any, max_pixels: int) -> Any:  # Any: PyAV is typed in part
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        raise Undecodable(FailureCode.NO_STREAM, "the file has no picture")
    stream = streams[0]
    context = stream.codec_context
    if context is None:
        raise Undecodable(FailureCode.FORMAT_UNSUPPORTED, "the film's codec is not known here")
    require_known(context.name)
    if not stream.time_base:
        raise Undecodable(FailureCode.DECODE_FAILED, "the film is corrupt: it has no unit of time")
    _check_pixels(context.width, context.height, max_pixels)
    context.thread_count = 1
    # FFmpeg counts with its own padding: this only bounds what a stream may grow to that is larger than it says.
    context.options = {"max_pixels": str(2 * max_pixels + _PADDING)}
    return stream


def _is_cover(stream: Any) -> bool:
    """A sound's cover picture is no film."""
    return bool(int(stream.disposition) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise Undecodable(
            FailureCode.TOO_MANY_PIXELS, f"frames of {width} x {height} pixels, over the limit of {max_pixels} in all"
        )


def _index_of(container: Any, stream: Any, max_seconds: float) -> _Index:
    """Read every packet's stamp: what a header says of length and frames may be a lie."""
    stamps: list[int] = []
    keys: list[int] = []
    last = 0
    base = float(stream.time_base)
    for packet in container.demux(stream):
        if packet.pts is None:
            continue  # the last one, which only flushes
        if packet.is_corrupt:
            raise Undecodable(FailureCode.DECODE_FAILED, "the film is truncated or corrupt")
        if packet.is_keyframe:
            keys.append(packet.pts)
        if packet.is_discard:
            continue  # cut away by the film's maker; only decoded for the frames that build on it
        stamps.append(packet.pts)
        last = max(last, packet.pts + (packet.duration or 0))
        if len(stamps) > _MOST_PACKETS or (last - stamps[0]) * base > max_seconds:
            raise Undecodable(FailureCode.TOO_LONG, f"over the limit of {max_seconds:g} seconds, or of frames")
    if not stamps:
        raise Undecodable(FailureCode.MEDIA_EMPTY, "the film has no frames")
    ordered = np.unique(np.array(stamps, np.int64))
    times = (ordered - ordered[0]) * base
    step = times[-1] / (len(times) - 1) if len(times) > 1 else float(1 / (stream.average_rate or 25))
    seconds = max((last - ordered[0]) * base, times[-1] + (0.0 if last > ordered[-1] else step))
    # AVI tells when frames are decoded; FFmpeg's parser finds out when they are shown for MPEG-4, but not for these.
    counted = container.format.name == "avi" and stream.codec_context.name in ("h264", "hevc")
    # A GIF cannot be wound forward: each frame builds on the one before.
    starts = [] if counted or container.format.name == "gif" else keys
    return _Index(
        times=times,
        stamps=ordered,
        keys=np.unique(np.array(starts, np.int64)),
        seconds=float(seconds) or step,
        counted=counted,
    )


def _segments(seconds: float, segment_s: float | None) -> list[tuple[float, float]]:
    if not segment_s:
        return [(0.0, seconds)]
    count = max(1, math.ceil(seconds / segment_s - 1e-9))
    if count > 1 and seconds - (count - 1) * segment_s < _SHORTEST_TAIL * segment_s:
        count -= 1
    return [(n * segment_s, min((n + 1) * segment_s, seconds)) for n in range(count)]


def _chosen(index: _Index, start: float, end: float, sampling: Sampling) -> tuple[float, float, list[int]]:
    """A segment and the frames that are taken of it, by their place in the index."""
    count = sampling.frames
    if sampling.fps:
        count = min(count, max(1, round((end - start) * sampling.fps)))
    middles = start + (np.arange(count) + 0.5) * (end - start) / count
    shown = np.searchsorted(index.times, middles + _ROUNDING_S, side="right") - 1
    return start, end, sorted({max(0, int(at)) for at in shown})


def _check_bytes(stream: Any, frames: int, frame_pixels: int, max_bytes: int) -> None:
    pixels = stream.codec_context.width * stream.codec_context.height
    if frames * min(pixels, frame_pixels or pixels) * 3 > max_bytes:
        raise Undecodable(
            FailureCode.TOO_LONG,
            f"{frames} frames decode to more than {max_bytes} bytes; take fewer, or longer segments",
        )


class _Reader:
    """Goes through a film from its beginning to its end, over what is not wanted by way of key frames."""

    def __init__(self, container: Any, stream: Any, index: _Index) -> None:
        self._container, self._stream, self._index = container, stream, index
        self._keys = index.keys
        self._key = 0  # the last one that decoding has begun at, or passed
        self._at: tuple[int, Any] | None = None  # the frame that was decoded last, and its stamp
        self._decoded = _frames(container, stream, index)

    def frame_at(self, stamp: int) -> Any:
        """The frame of that stamp, or the first one after it that is shown, or the last of all; stamps must rise."""
        key = int(np.searchsorted(self._keys, stamp, side="right")) - 1
        if key > self._key and (self._at is None or self._at[0] < self._keys[key]):
            self._begin_at(int(self._keys[key]))
            if self._advance(stamp) > stamp:  # some formats find no key frame exactly: then none is looked for
                self._keys = self._keys[:0]
                self._begin_at(int(self._index.stamps[0]))
        self._key = max(key, self._key)
        self._advance(stamp)
        if self._at is None:
            raise Undecodable(FailureCode.MEDIA_EMPTY, "the film has no frame that can be shown")
        return self._at[1]

    def _begin_at(self, stamp: int) -> None:
        self._container.seek(stamp, stream=self._stream, backward=True)
        self._decoded, self._at = _frames(self._container, self._stream, self._index), None

    def _advance(self, stamp: int) -> int:
        """Decode up to the frame of `stamp`; the stamp of the one that it has come to."""
        while self._at is None or self._at[0] < stamp:
            following = next(self._decoded, None)
            if following is None:
                break
            self._at = following
        return stamp if self._at is None else self._at[0]


def _frames(container: Any, stream: Any, index: _Index) -> Iterator[tuple[int, Any]]:
    """Frames in the order in which they are shown, and their stamps."""
    decoded = container.decode(stream)
    if index.counted:
        yield from zip(index.stamps.tolist(), decoded, strict=False)
    last = int(index.stamps[0])
    for frame in decoded:
        last = next((stamp for stamp in (frame.pts, frame.dts) if stamp is not None), last)
        yield last, frame


def _pixels(frame: Any, frame_pixels: int) -> np.ndarray:
    """uint8 (height, width, 3), upright, scaled down where it is larger."""
    scale = math.sqrt(min(1.0, frame_pixels / (frame.width * frame.height))) if frame_pixels else 1.0
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    shown = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
    return np.ascontiguousarray(_upright(shown, frame))


def _upright(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """`pixels` turned and mirrored as the film's display matrix says."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5].tolist()
    # The matrix sends (x, y) to (a x + c y, b x + d y); a camera's has only turns by right angles, and mirrors.
    if abs(a) < abs(b):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _film(index: _Index, pictures: dict[int, np.ndarray], start: float, end: float, frames: list[int]) -> Film:
    found = [pictures[at] for at in frames]
    shape = found[0].shape
    if any(picture.shape != shape for picture in found):  # a stream may change its size: all as the first
        found = [_resized(picture, shape) for picture in found]
    return Film(
        frames=np.stack(found),
        times_s=tuple(round(float(index.times[at]), 6) for at in frames),
        fps=round(index.fps, 6),
        start_s=start,
        end_s=end,
        frames_in=len(index.times),
        seconds_in=index.seconds,
    )


def _resized(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
