"""Wholeness: whether a container's bytes are all there, by the lengths that it gives itself.

Libraries are content with what there is of a WAV, an Ogg or an MP4 that was cut off: its row would be silently short.
"""

import struct
from collections.abc import Iterator

#: Sizes from here on stand for "not known when the header was written"; so does 0.
_NOT_KNOWN = 0x7FFFF000
#: The boxes whose loss matters; others at a file's end may be anything that a camera appends.
_BOXES = (b"moov", b"moof", b"mdat")
_EBML_SEGMENT = b"\x18\x53\x80\x67"


def is_cut_short(data: bytes, demuxer: str) -> bool:
    """Whether a container of FFmpeg's name `demuxer` speaks of more bytes than there are, as far as it tells."""
    ends = {
        "wav": _riff_ends,
        "aiff": _riff_ends,
        "avi": _avi_ends,
        "mov": _box_ends,
        "ogg": _page_ends,
        "matroska": _segment_ends,
    }
    return demuxer in ends and any(end > len(data) for end in ends[demuxer](data))


def _riff_ends(data: bytes) -> Iterator[int]:
    """Ends of the chunks up to the samples."""
    order = "<I" if data[:4] in (b"RIFF", b"RF64") else ">I"
    at = 12
    while at + 8 <= len(data):
        name, (size,) = data[at : at + 4], struct.unpack_from(order, data, at + 4)
        samples = name in (b"data", b"SSND")
        if samples and (size == 0 or size >= _NOT_KNOWN):
            return
        yield at + 8 + size
        if samples:
            return
        at += 8 + size + size % 2


def _avi_ends(data: bytes) -> Iterator[int]:
    (size,) = struct.unpack_from("<I", data, 4)
    if 0 < size < _NOT_KNOWN:
        yield 8 + size


def _box_ends(data: bytes) -> Iterator[int]:
    at = 0
    while at + 16 <= len(data):
        size, name, long_size = struct.unpack_from(">I4sQ", data, at)
        size = long_size if size == 1 else size
        if size < 8:  # 0: to the end of the file
            return
        if name in _BOXES:
            yield at + size
        at += size


def _page_ends(data: bytes) -> Iterator[int]:
    at = 0
    while data.startswith(b"OggS", at) and at + 27 <= len(data):
        segments = data[at + 26]
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
        yield at


def _segment_ends(data: bytes) -> Iterator[int]:
    """Ends of the EBML header and the segment that follows it."""
    header_size, at = _ebml_size(data, 4)
    yield at + header_size
    at += header_size
    if data.startswith(_EBML_SEGMENT, at):
        size, start = _ebml_size(data, at + 4)
        yield start + size


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """An element's size, 0 where it is not known, and where its content begins."""
    if at >= len(data) or not data[at]:
        return 0, at
    width = 9 - data[at].bit_length()
    size = int.from_bytes(data[at : at + width], "big") & (1 << 7 * width) - 1
    return (0 if size == (1 << 7 * width) - 1 else size), at + width
