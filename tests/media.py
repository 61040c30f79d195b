"""Sounds and films for tests, small and the same each time; a film's frames have their numbers drawn on them."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

#: Columns and rows of the blocks that a frame's number is drawn with, a bit each.
_COLUMNS, _ROWS = 5, 2


def tone(rate: int, seconds: float = 0.5, *, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """float32 (n,), a sine."""
    return (level * np.sin(np.arange(round(rate * seconds)) * 2 * np.pi * hertz / rate)).astype(np.float32)


def sound(samples: np.ndarray, rate: int, form: str = "WAV", subtype: str | None = None, **more: Any) -> bytes:
    """A file of `samples`, (n,) or (n, channels): WAV, FLAC, OGG (VORBIS, OPUS), MP3, AIFF, WAVEX, RF64, W64."""
    sink = io.BytesIO()
    soundfile.write(sink, samples, rate, format=form, subtype=subtype, **more)
    return sink.getvalue()


def m4a(samples: np.ndarray, rate: int, form: str = "ipod", codec: str = "aac") -> bytes:
    """AAC in MP4 (or `form`): float32 (n,), whose end is padded by the encoder."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        for frame in _sound_frames(samples, rate):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return sink.getvalue()


def numbered(number: int, width: int = 80, height: int = 48) -> np.ndarray:
    """uint8 (height, width, 3): `number` in blocks that every codec keeps; `number_of` reads it."""
    bits = [(number >> bit & 1) * 200 + 28 for bit in range(_COLUMNS * _ROWS)]
    small = np.array(bits, np.uint8).reshape(_ROWS, _COLUMNS)
    grey = small[np.arange(height) * _ROWS // height][:, np.arange(width) * _COLUMNS // width]
    return np.repeat(grey[..., None], 3, axis=2)


def number_of(frame: np.ndarray) -> int:
    """The number that is drawn on a frame, whatever its size."""
    height, width = frame.shape[:2]
    rows = (np.arange(_ROWS) * 2 + 1) * height // (2 * _ROWS)
    columns = (np.arange(_COLUMNS) * 2 + 1) * width // (2 * _COLUMNS)
    return sum(1 << bit for bit, value in enumerate(frame[rows][:, columns].mean(axis=2).ravel()) if value > 128)


def film(
    frames: int,
    *,
    form: str = "mp4",
    codec: str = "mpeg4",
    rate: int = 10,
    size: tuple[int, int] = (80, 48),
    key_every: int = 12,
    b_frames: int = 0,
    sound_rate: int = 0,
    turned: int = 0,
    stamps: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A film whose n-th frame shows n, with the sound of a tone where `sound_rate` is given.

    `turned`: quarter turns clockwise that a player makes; the frames are stored turned back. `stamps`: when each frame
    is shown, in units of 1/rate.
    """
    sink = io.BytesIO()
    with av.open(sink, "w", format=form, options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size if turned % 2 == 0 else size[::-1]
        stream.pix_fmt = {"mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        stream.gop_size, stream.max_b_frames = key_every, b_frames
        stream.codec_context.thread_count = 1
        stream.codec_context.options = _quick(codec, key_every, b_frames)
        track: Any = (
            container.add_stream("aac" if form == "mp4" else "pcm_s16le", rate=sound_rate) if sound_rate else None
        )
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(numbered(n, *size), turned)))
            frame.pts, frame.time_base = (stamps[n] if stamps else n), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if track is not None:
            for part in _sound_frames(tone(sound_rate, frames / rate), sound_rate):
                container.mux(track.encode(part))
            container.mux(track.encode())
    return _turned(sink.getvalue(), turned) if turned else sink.getvalue()


def gif(frames: int, *, ms: int = 100, size: tuple[int, int] = (80, 48)) -> bytes:
    """An animation, whose n-th frame shows n."""
    first, *rest = [Image.fromarray(numbered(n, *size)) for n in range(frames)]
    sink = io.BytesIO()
    first.save(sink, "GIF", save_all=True, append_images=rest, duration=ms, loop=0)
    return sink.getvalue()


def _quick(codec: str, key_every: int, b_frames: int) -> dict[str, str]:
    """What makes an encoder fast, and the same each time."""
    if codec == "libx264":
        keys = f"keyint={key_every}:min-keyint={key_every}:scenecut=0:bframes={b_frames}:b-adapt=0:threads=1"
        return {"preset": "ultrafast", "crf": "20", "x264-params": keys}
    if codec.startswith("libvpx"):
        return {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "b": "500k"}
    return {"qscale": "3"}


def _sound_frames(samples: np.ndarray, rate: int) -> Iterator[av.AudioFrame]:
    for start in range(0, len(samples), 1024):
        part = samples[None, start : start + 1024]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part, np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield frame


def _turned(mp4: bytes, quarters: int) -> bytes:
    """An MP4 whose track header says that a player must turn it clockwise."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters % 4]
    return _with_matrix(mp4, cos, sin, -sin, cos)


def mirrored(mp4: bytes) -> bytes:
    """An MP4 whose track header says that a player must show it as in a mirror: left is right."""
    return _with_matrix(mp4, -1, 0, 0, 1)


def _with_matrix(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    one = 0x10000
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 0x40000000)
    at = mp4.index(b"tkhd") + 44
    return mp4[:at] + matrix + mp4[at + len(matrix) :]
