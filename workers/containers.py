"""Containers: FFmpeg's demuxers, opened on bytes in memory, that can open nothing else."""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av

from schemas.failures import Failure, FailureCode, Stage
from workers.media_formats import MediaFormat
from workers.wholeness import is_cut_short

#: Streams beyond these are no film that a person made.
_MOST_STREAMS = 64

#: FFmpeg's decoders that may run: what cameras, phones, browsers and studios write. Of its hundreds, the rest is old
#: games' and nobody's, and has had the holes.
_CODECS = (
    *("h264", "hevc", "av1", "libdav1d", "vp8", "libvpx", "vp9", "libvpx-vp9", "mpeg4", "msmpeg4v2", "msmpeg4", "h263"),
    *("mpeg1video", "mpeg2video", "mjpeg", "prores", "dvvideo", "theora", "gif", "png", "ffv1", "rawvideo", "wmv2"),
    *("aac", "aac_latm", "mp3float", "mp3", "mp2float", "mp2", "opus", "libopus", "vorbis", "libvorbis", "flac"),
    *("alac", "ac3", "eac3", "amrnb", "amrwb", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "pcm_s8", "pcm_u8"),
    *("pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be"),
    *("pcm_f64le", "pcm_f64be", "pcm_alaw", "pcm_mulaw"),
)


class Undecodable(Exception):  # says more than an error: the row's own
    """The medium cannot be decoded, for a reason that is the row's."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(code=code, stage=Stage.DECODE, message=message)


def check_whole(data: bytes, form: MediaFormat) -> None:
    """Raise Undecodable where `data` was cut off."""
    if is_cut_short(data, form.demuxer):
        raise Undecodable(FailureCode.DECODE_FAILED, f"the {form.demuxer} file ends early: it is truncated")


def require_known(codec: str | None) -> None:
    """Raise Undecodable for a stream whose decoder is not among those that may run."""
    if codec not in _CODECS:
        raise Undecodable(FailureCode.FORMAT_UNSUPPORTED, f"the codec {codec or 'of the stream'} is not decoded here")


@contextmanager
def opened(data: bytes, form: MediaFormat) -> Iterator[Any]:  # Any: PyAV's container is typed in part
    """The container in `data`; raises Undecodable for one that is broken, also for what is met inside the `with`."""
    try:
        # A film may name other files (data references, segments): whoever asks for one is refused.
        with av.open(
            io.BytesIO(data),
            mode="r",
            format=form.demuxer,
            options=_options(form),
            io_open=_refuse,
            metadata_errors="replace",  # a title may be in any encoding, and nobody reads it
        ) as container:
            if len(container.streams) > _MOST_STREAMS:
                raise Undecodable(FailureCode.DECODE_FAILED, f"{len(container.streams)} streams are too many")
            yield container
    except av.FFmpegError as err:
        if err.errno in (errno.ENOMEM, errno.EAGAIN):  # EAGAIN: none for a thread's stack
            raise MemoryError from err
        raise _broken(form, err) from err
    except (ValueError, OverflowError, IndexError, EOFError, OSError) as err:
        raise _broken(form, err) from err


def _broken(form: MediaFormat, err: Exception) -> Undecodable:
    problem = f"the {form.demuxer} file is truncated or corrupt ({type(err).__name__})"
    return Undecodable(FailureCode.DECODE_FAILED, problem)


def _options(form: MediaFormat) -> dict[str, str]:
    # No protocol at all: also a demuxer that does not ask `io_open` opens nothing. Codecs: for the probing of streams.
    options = {"protocol_whitelist": "none", "codec_whitelist": ",".join(_CODECS)}
    return options | ({"enable_drefs": "0", "use_absolute_path": "0"} if form.demuxer == "mov" else {})


def _refuse(*_: object, **__: object) -> Any:
    raise PermissionError("a medium may open no other file")
