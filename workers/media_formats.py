"""Media formats: what a sound or a film is, by its content; names and endings are never believed.

Playlists and scripts (m3u8, ffconcat, DASH, SDP) are texts that name other files: none of them is on the list.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """A container, and who reads it."""

    demuxer: str  # FFmpeg's name
    sounds_by_sndfile: bool = False


_FORMATS: tuple[tuple[re.Pattern[bytes], MediaFormat], ...] = (
    (re.compile(rb"(RIFF|RF64|RIFX)....WAVE", re.DOTALL), MediaFormat("wav", True)),
    (re.compile(rb"fLaC"), MediaFormat("flac", True)),
    (re.compile(rb"OggS"), MediaFormat("ogg", True)),
    (re.compile(rb"FORM....AIF[FC]", re.DOTALL), MediaFormat("aiff", True)),
    (re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), MediaFormat("aac")),
    # Layers II and III. Layer I is as dead as UTF-16, which begins like it, is alive.
    (re.compile(rb"ID3|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]"), MediaFormat("mp3", True)),
    (re.compile(rb"....(ftyp|moov|mdat|wide|free|skip)", re.DOTALL), MediaFormat("mov")),
    (re.compile(rb"\x1a\x45\xdf\xa3"), MediaFormat("matroska")),
    (re.compile(rb"RIFF....AVI ", re.DOTALL), MediaFormat("avi")),
    (re.compile(rb"GIF8[79]a"), MediaFormat("gif")),
)


def media_format(data: bytes) -> MediaFormat | None:
    """The format of a sound or a film, or None for what is neither."""
    return next((form for magic, form in _FORMATS if magic.match(data)), None)
