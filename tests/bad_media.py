"""Sounds and films that go wrong: cut off, lying, disguised, or made to eat memory and time."""

import io
import struct
from typing import Any

import av
import numpy as np

from schemas.failures import FailureCode
from tests.bad_images import Sample, encoded, photo
from tests.media import film, gif, m4a, numbered, sound, tone

_BROKEN, _UNSUPPORTED = FailureCode.DECODE_FAILED, FailureCode.FORMAT_UNSUPPORTED


def bad_sounds() -> list[Sample]:
    """Each kind of bad sound, every one with the code that it must fail with."""
    samples = tone(16_000, 2.0)
    whole = {
        "wav": sound(samples, 16_000),
        "aiff": sound(samples, 16_000, "AIFF"),
        "flac": sound(samples, 16_000, "FLAC"),
        "mp3": sound(samples, 16_000, "MP3"),
        "ogg": sound(samples, 16_000, "OGG", "VORBIS"),
        "opus": sound(tone(48_000, 2.0), 48_000, "OGG", "OPUS"),
        "m4a": m4a(samples, 16_000),
        "webm": film(20, form="matroska", sound_rate=16_000),
    }
    holed = samples.copy()
    holed[1_000] = np.nan
    loud = samples.copy()
    loud[1_000] = np.inf
    return [
        *(Sample(f"truncated.{name}", data[: len(data) * 3 // 5], _BROKEN) for name, data in whole.items()),
        Sample("liar.wav", wav_header(data_bytes=64_000) + bytes(32_000), _BROKEN),
        Sample("nan.wav", sound(holed, 16_000, subtype="FLOAT"), _BROKEN),
        Sample("infinite.wav", sound(loud, 16_000, subtype="FLOAT"), _BROKEN),
        Sample("no_rate.wav", wav_header(rate=0, data_bytes=3_200) + bytes(3_200), _BROKEN),
        Sample("too_fast.wav", wav_header(rate=4_000_000_000, data_bytes=3_200) + bytes(3_200), _BROKEN),
        Sample("channels.wav", wav_header(channels=60_000, data_bytes=240_000) + bytes(240_000), _BROKEN),
        Sample("header_only.wav", whole["wav"][:20], _BROKEN),
        Sample("noise.mp3", b"\xff\xfb\x90\x00" + bytes(range(256)) * 40, _BROKEN),
        Sample("no_samples.wav", sound(samples[:0], 16_000), FailureCode.MEDIA_EMPTY),
        Sample("silent_film.mp4", film(5), FailureCode.NO_STREAM),
        Sample("animation.gif", gif(3), FailureCode.NO_STREAM),
        Sample("text.wav", b"This is no sound, whatever its name says.\n" * 20, _UNSUPPORTED),
        Sample("text16.mp3", "\ufeffThis is no sound either.".encode("utf-16-le"), _UNSUPPORTED),
        Sample("nul.flac", bytes(4_096), _UNSUPPORTED),
        Sample("midi.mp3", b"MThd\0\0\0\x06\0\0\0\x01\0\x60MTrk" + bytes(64), _UNSUPPORTED),
    ]


def bad_films() -> list[Sample]:
    """Each kind of bad film, every one with the code that it must fail with."""
    whole = {
        "mp4": film(30),
        "h264.mp4": film(30, codec="libx264"),
        "webm": film(30, form="webm", codec="libvpx"),
        "avi": film(30, form="avi"),
    }
    return [
        *(Sample(f"truncated.{name}", data[: len(data) * 3 // 5], _BROKEN) for name, data in whole.items()),
        Sample("header_only.mp4", whole["mp4"][:32], _BROKEN),
        Sample("corrupt.mp4", whole["mp4"][:40] + bytes(len(whole["mp4"]) - 40), _BROKEN),
        Sample("sound.mp4", m4a(tone(16_000), 16_000), FailureCode.NO_STREAM),
        Sample("sound.wav", sound(tone(16_000), 16_000), FailureCode.NO_STREAM),
        Sample("cover.mp3", covered(), FailureCode.NO_STREAM),
        Sample("no_frames.avi", without_frames(), FailureCode.MEDIA_EMPTY),
        Sample("wide.gif", wide_gif(60_000, 60_000), FailureCode.TOO_MANY_PIXELS),
        Sample("wide.avi", wide_avi(10_000, 10_000), FailureCode.TOO_MANY_PIXELS),
        Sample("wider.avi", wide_avi(60_000, 60_000), _BROKEN),  # FFmpeg does not even tell such a size
        Sample("photo.mp4", b"\xff\xd8\xff\xe0" + bytes(64), _UNSUPPORTED),
        Sample("text.mp4", b"This is no film, whatever its name says.\n" * 20, _UNSUPPORTED),
        *playlists("/etc/hostname"),
    ]


def playlists(target: str) -> list[Sample]:
    """Texts that name `target`, a path or a URL, in the languages that FFmpeg would follow."""
    mpd = "urn:mpeg:dash:schema:mpd:2011"
    texts = {
        "m3u8.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "ffconcat.mp4": f"ffconcat version 1.0\nfile '{target}'\nduration 1\n",
        "dash.mp4": f'<?xml version="1.0"?><MPD xmlns="{mpd}"><BaseURL>{target}</BaseURL></MPD>',
        "sdp.mp4": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\na=control:{target}\nm=video 9 RTP/AVP 96\n",
        "asx.mp4": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
        "pls.mp4": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
    }
    return [Sample(name, text.encode(), _UNSUPPORTED) for name, text in texts.items()]


def containers_that_name(target: str) -> dict[str, bytes]:
    """Real containers whose metadata name `target`, a path or a URL, as where more is to be found."""
    return {
        "dref.mov": with_data_reference(film(5, form="mov"), target),
        "linked.mkv": linked_matroska(target),
        "attached.mkv": with_attachment(target),
        "subtitle.avi": avi_with_subtitle(f"#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n".encode()),
    }


def wav_header(*, rate: int = 16_000, channels: int = 1, bits: int = 16, data_bytes: int = 0, tag: int = 1) -> bytes:
    """The 44 bytes before a WAV's samples."""
    frame = channels * bits // 8 & 0xFFFF
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * frame & 0xFFFFFFFF, frame, bits)
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", data_bytes)
    return b"RIFF" + struct.pack("<I", min(len(head) + data_bytes, 0xFFFFFFFF)) + head


def long_silence(seconds: float, rate: int = 8_000) -> bytes:
    """A FLAC of a few bytes a second."""
    return sound(np.zeros(round(seconds * rate), np.int16), rate, "FLAC")


def covered() -> bytes:
    """An MP3 with a cover picture, which FFmpeg shows as a stream of pictures."""
    picture = b"\0image/png\0\x03\0" + encoded(photo(), "PNG")
    frame = b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    size = bytes(len(frame) >> 7 * n & 0x7F for n in (3, 2, 1, 0))
    return b"ID3\x03\0\0" + size + frame + sound(tone(16_000), 16_000, "MP3")


def without_frames() -> bytes:
    """An AVI with a stream of pictures, and none in it."""
    data = film(1, form="avi", codec="mjpeg")
    return data.replace(b"00dc", b"JUNK")


def wide_gif(width: int, height: int, frames: int = 1) -> bytes:
    """An animation on a canvas of that size; each frame is one pixel."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff\xff\xff"
    pixel = b"\x21\xf9\x04\x04\x01\0\0\0" + b"\x2c\0\0\0\0\x01\0\x01\0\0" + b"\x02\x02\x44\x01\0"
    return head + pixel * frames + b"\x3b"


def wide_avi(width: int, height: int) -> bytes:
    """A film whose header and frames claim that size."""
    data = bytearray(film(2, form="avi", codec="mjpeg"))
    struct.pack_into("<ii", data, data.index(b"strf") + 12, width, height)
    at = 0
    while (at := data.find(b"\xff\xc0\0\x11", at + 1)) >= 0:  # where a JPEG tells its size
        struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def with_data_reference(mov: bytes, target: str) -> bytes:
    """`mov` with its samples said to lie in the file `target`: an alias of old Macintoshes, which FFmpeg can follow."""
    path = target.encode() + b"\0" * (len(target) % 2)
    alias = bytes(10) + bytes([4]) + b"disk".ljust(27, b"\0") + bytes(12) + bytes([1]) + b"x".ljust(63, b"\0")
    alias += bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
    alias += struct.pack(">HH", 2, len(target)) + path + struct.pack(">HH", 0, 0) + b"\xff\xff\0\0"
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    at = mov.index(b"dref") + 12
    (old,) = struct.unpack_from(">I", mov, at)
    data = bytearray(mov[:at] + entry + mov[at + old :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = mov.rindex(name, 0, at) - 4
        (size,) = struct.unpack_from(">I", mov, start)
        struct.pack_into(">I", data, start, size + len(entry) - old)
    return bytes(data)


def linked_matroska(target: str) -> bytes:
    """A Matroska file without tracks, that goes on in `target` and has a playlist attached."""
    name = target.encode()
    info = _ebml(0x1549A966, _ebml(0x3E83BB, name) + _ebml(0x3C83AB, name) + _ebml(0x3EB923, bytes(16)))
    attached = _ebml(0x466E, name) + _ebml(0x4660, b"application/x-mpegurl") + _ebml(0x465C, b"#EXTM3U\n" + name)
    attachments = _ebml(0x1941A469, _ebml(0x61A7, attached + _ebml(0x46AE, b"\x01")))
    return _ebml(0x1A45DFA3, _ebml(0x4282, b"matroska")) + _ebml(0x18538067, info + attachments)


def with_attachment(target: str) -> bytes:
    """A film with a playlist that is attached to it under the name of a file."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        container.add_attachment(target, "application/x-mpegurl", f"#EXTM3U\n#EXTINF:1,\n{target}\n".encode())
        for n in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(n))))
        container.mux(stream.encode())
    return sink.getvalue()


def avi_with_subtitle(text: bytes) -> bytes:
    """A film with `text` as a subtitle file of its own within (GAB2), whose format FFmpeg guesses."""
    gab2 = b"GAB2\0" + struct.pack("<HI", 2, 2) + b"x\0" + struct.pack("<HI", 4, len(text)) + text
    stream = struct.pack("<4s4sIHHIIIIIIIi8s", b"txts", b"\0\0\0\0", 0, 0, 0, 0, 1, 10, 0, 1, len(gab2), 0, 0, bytes(8))
    strl = _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", b""))
    data = film(5, form="avi")
    hdrl = data.index(b"LIST") + 8
    movi = data.index(b"movi") - 8
    (header_size,) = struct.unpack_from("<I", data, hdrl - 4)
    header = bytearray(data[hdrl + 4 : hdrl + header_size])
    struct.pack_into("<I", header, 8 + 24, 2)  # streams
    (movi_size,) = struct.unpack_from("<I", data, movi + 4)
    chunks = data[movi + 12 : movi + 8 + movi_size]
    body = _list(b"hdrl", bytes(header) + strl) + _list(b"movi", _chunk(b"01tx", gab2) + chunks)
    return _chunk(b"RIFF", b"AVI " + body)


def _list(name: bytes, content: bytes) -> bytes:
    return _chunk(b"LIST", name + content)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _ebml(name: int, content: bytes) -> bytes:
    """An element: its name, an eight-byte size, its content."""
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (1 << 56 | len(content)).to_bytes(8, "big") + content
