"""A decoder process: reads media from stdin, writes pixels and samples to stdout, and can do nothing else.

`python -m workers.decode_child MEMORY_BYTES PARENT`. Both ways: four bytes of length, a JSON header, then its bytes.
It says {"ready": true, "jailed": ...} once it is locked in, and takes one request at a time from then on.
"""

import gc
import io
import json
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile
from PIL import Image

from schemas.failures import Failure, FailureCode
from workers.decode import decode_image
from workers.decode_audio import decode_sound
from workers.decode_video import Sampling, decode_film
from workers.decoder_process import NO_MEMORY
from workers.jail import die_with_parent, lock_in
from workers.shrinking import Shrink

_LENGTH = struct.Struct("<I")
_STRIP = 2**18  # bytes
_Parts = Sequence[np.ndarray | Image.Image]


def main() -> None:
    """Serve until stdin ends, or memory does."""
    memory_bytes, parent = map(int, sys.argv[1:])
    die_with_parent(parent)
    requests, replies = sys.stdin.buffer, _replies()
    warm_up()
    gc.freeze()  # what is there now stays: looking for garbage then costs next to nothing
    jailed = lock_in(memory_bytes)
    try:
        _reply(replies, {"ready": True, "jailed": jailed}, [])
        for header, data in _requests(requests):
            _reply(replies, *_answer(header, data))
            gc.collect()  # a frame that is in a circle keeps threads, whose stacks count
    except MemoryError:
        os._exit(NO_MEMORY)  # what it holds of this medium, it might never give back


def _replies() -> BinaryIO:
    """Where replies go: stdout as it was; what a library prints goes to stderr, and never between them."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


def _answer(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], _Parts]:
    try:
        return _decoded(header, data)
    except MemoryError:
        raise
    except Exception as err:  # noqa: BLE001  # hostile bytes make a library raise anything; the row is told
        message = f"the medium is truncated or corrupt ({type(err).__name__})"
        return {"failure": {"code": FailureCode.DECODE_FAILED, "message": message}}, []


def _requests(stream: BinaryIO) -> Iterator[tuple[dict[str, Any], bytes]]:
    while len(prefix := stream.read(_LENGTH.size)) == _LENGTH.size:
        header = json.loads(stream.read(*_LENGTH.unpack(prefix)))
        yield header, stream.read(header["bytes"])


def _reply(stream: BinaryIO, told: dict[str, Any], parts: _Parts) -> None:
    header = json.dumps(told | {"arrays": [_announced(part) for part in parts]}).encode()
    stream.write(_LENGTH.pack(len(header)) + header)
    for part in parts:
        for piece in _pieces(part):
            stream.write(piece)
    stream.flush()


def _announced(part: np.ndarray | Image.Image) -> dict[str, Any]:
    if isinstance(part, Image.Image):
        return {"shape": (part.height, part.width, 3), "dtype": "uint8"}
    return {"shape": part.shape, "dtype": str(part.dtype)}


def _pieces(part: np.ndarray | Image.Image) -> Iterator[Any]:
    """The bytes of a part; a picture's strip by strip: its parent takes one in while the next is packed."""
    if isinstance(part, Image.Image):
        rows = max(1, _STRIP // (3 * part.width))
        for top in range(0, part.height, rows):
            yield part.crop((0, top, part.width, min(top + rows, part.height))).tobytes()
    else:
        yield np.ascontiguousarray(part).reshape(-1).view(np.uint8).data


def _decoded(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], _Parts]:
    kind, limits = header["kind"], header["limits"]
    if kind == "image":
        shrink = Shrink(**header["shrink"]) if header["shrink"] else None
        image = decode_image(data, max_pixels=limits["max_pixels"], shrink=shrink)
        return _failed(image) if isinstance(image, Failure) else ({}, [image])
    if kind == "sound":
        del limits["max_pixels"]
        sound = decode_sound(data, rate=header["rate"], **limits)
        return _failed(sound) if isinstance(sound, Failure) else ({"seconds_in": sound.seconds_in}, [sound.samples])
    films = decode_film(data, Sampling(**header["sampling"]), **limits)
    if isinstance(films, Failure):
        return _failed(films)
    names = ("times_s", "fps", "start_s", "end_s", "frames_in", "seconds_in")
    told = [{name: getattr(film, name) for name in names} for film in films]
    return {"films": told}, [film.frames for film in films]


def _failed(failure: Failure) -> tuple[dict[str, Any], _Parts]:
    return {"failure": {"code": failure.code, "message": failure.message}}, []


def warm_up() -> None:
    """Decode one medium of each kind: what is imported and opened at first use is so now, and not in the jail."""
    av.logging.set_level(None)
    picture = Image.new("RGBA", (16, 16), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        sink = io.BytesIO()
        picture.convert("RGB").save(sink, form, exif=exif)
        decode_image(sink.getvalue(), max_pixels=10**6)
    tone = np.sin(np.arange(4_800, dtype=np.float32))
    for form, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)):
        sink = io.BytesIO()
        soundfile.write(sink, tone, 48_000, format=form, subtype=subtype)
        decode_sound(sink.getvalue(), rate=16_000, max_seconds=60, max_bytes=2**30)
    film = _tiny_film()
    decode_film(film, Sampling(frames=2, frame_pixels=100), max_pixels=10**6, max_seconds=60, max_bytes=2**30)
    decode_sound(film, rate=16_000, max_seconds=60, max_bytes=2**30)


def _tiny_film() -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        sound: Any = container.add_stream("pcm_s16le", rate=16_000)
        for n in range(4):
            pixels = np.full((32, 32, 3), 60 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1_600), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame))
        container.mux(stream.encode())
        container.mux(sound.encode())
    return sink.getvalue()


if __name__ == "__main__":
    main()
