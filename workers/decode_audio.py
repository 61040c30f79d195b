"""Decoding of sounds: bytes become mono samples at the model's rate. Runs in a decoder process."""

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import soundfile
import soxr

from schemas.failures import Failure, FailureCode
from workers.containers import Undecodable, opened
from workers.content import Sound
from workers.media_formats import MediaFormat, media_format

_BLOCK = 65_536  # frames of one read
#: Rates that a sound may have, Hz: what microphones and players do.
_RATES = range(1_000, 768_001)


def decode_sound(data: bytes, *, rate: int, max_seconds: float, max_bytes: int) -> Sound | Failure:
    """The sound of `data`, mono float32 at `rate` Hz, or why there is none.

    WAV, FLAC, MP3, Ogg (Vorbis, Opus), AIFF, AAC, and the first sound stream of MP4, QuickTime, Matroska, WebM, AVI,
    by content. Channels are averaged, then resampled (soxr, HQ).
    """
    form = media_format(data)
    if form is None:
        return _failure(FailureCode.FORMAT_UNSUPPORTED, "the content is no sound: WAV, FLAC, MP3, Ogg, AAC, MP4, WebM…")
    try:
        samples, given = _samples(data, form, _Limits(max_seconds, max_bytes, rate))
    except Undecodable as err:
        return err.failure
    if not len(samples):
        return _failure(FailureCode.MEDIA_EMPTY, "the sound has no samples")
    if not np.isfinite(samples).all():
        return _failure(FailureCode.DECODE_FAILED, "the sound holds NaN or infinity")
    seconds = round(len(samples) / given, 6)
    resampled = samples if given == rate else soxr.resample(samples, given, rate, quality="HQ")
    if not len(resampled):
        return _failure(FailureCode.MEDIA_EMPTY, "the sound is shorter than a sample of the model")
    return Sound(samples=np.ascontiguousarray(resampled, np.float32), rate=rate, seconds_in=seconds)


class _Limits:
    """How many frames may be decoded, whatever a file says of itself."""

    def __init__(self, max_seconds: float, max_bytes: int, wanted: int) -> None:
        self._max_seconds, self._max_bytes, self._wanted = max_seconds, max_bytes, wanted

    def check(self, frames: int, rate: int) -> None:
        """Raise Undecodable where so many frames at `rate` are too long, or there is no such rate."""
        if rate not in _RATES:
            raise Undecodable(FailureCode.DECODE_FAILED, f"a rate of {rate} Hz is none")
        seconds = frames / rate
        if seconds > self._max_seconds:
            raise Undecodable(FailureCode.TOO_LONG, f"over the limit of {self._max_seconds:g} seconds")
        if seconds * max(rate, self._wanted) * 4 > self._max_bytes:
            raise Undecodable(FailureCode.TOO_LONG, f"decodes to more than {self._max_bytes} bytes")


def _samples(data: bytes, form: MediaFormat, limits: _Limits) -> tuple[np.ndarray, int]:
    """float32 (n,) mono samples and their rate."""
    if form.sounds_by_sndfile:
        try:
            return _by_sndfile(data, limits)
        except soundfile.SoundFileError:  # FFmpeg may know this variant, or say that it is broken
            return _by_ffmpeg(data, form, limits)
    return _by_ffmpeg(data, form, limits)


def _by_sndfile(data: bytes, limits: _Limits) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        limits.check(max(file.frames, 0) if file.frames < 2**60 else 0, file.samplerate)  # 2**63 - 1: not known
        found = _collected((block.mean(axis=1) for block in _blocks(file)), limits, file.samplerate)
        if file.frames < 2**60 and len(found) < file.frames:
            raise Undecodable(FailureCode.DECODE_FAILED, f"the {file.format} ends early: it is truncated")
        return found, file.samplerate


def _blocks(file: Any) -> Iterator[np.ndarray]:  # Any: soundfile is not typed
    """float32 (frames, channels), until there are no more, whatever the header says."""
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        yield block


def _by_ffmpeg(data: bytes, form: MediaFormat, limits: _Limits) -> tuple[np.ndarray, int]:
    with opened(data, form) as container:
        if not container.streams.audio:
            raise Undecodable(FailureCode.NO_STREAM, "the file has no sound")
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        rate = int(stream.codec_context.sample_rate or 0)
        if stream.duration and stream.time_base:
            limits.check(int(stream.duration * stream.time_base * rate), rate)
        resampler: Any = av.AudioResampler(format="fltp", rate=rate)
        frames = (part for frame in container.decode(stream) for part in resampler.resample(frame))
        means = (part.to_ndarray().mean(axis=0, dtype=np.float32) for part in frames)
        return _collected(means, limits, rate), rate


def _collected(blocks: Iterator[np.ndarray], limits: _Limits, rate: int) -> np.ndarray:
    parts: list[np.ndarray] = []
    frames = 0
    for block in blocks:
        frames += len(block)
        limits.check(frames, rate)
        parts.append(block)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _failure(code: FailureCode, message: str) -> Failure:
    return Undecodable(code, message).failure
