"""Decoding of sounds: bytes become mono samples at the model's rate. Runs in a decoder process."""

import contextlib
import io
from typing import Any

import av
import numpy as np
import soundfile
import soxr

from schemas.failures import Failure, FailureCode
from workers.containers import Undecodable, check_whole, opened, require_known
from workers.content import Sound
from workers.media_formats import MediaFormat, media_format

_BLOCK = 65_536  # samples of one read, over all channels
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
        check_whole(data, form)
        samples, seconds = _samples(data, form, _Limits(max_seconds, max_bytes), rate)
    except Undecodable as err:
        return err.failure
    return Sound(samples=samples, rate=rate, seconds_in=seconds)


class _Limits:
    """How long a sound may be, whatever a file says of itself."""

    def __init__(self, max_seconds: float, max_bytes: int) -> None:
        self._max_seconds, self._max_bytes = max_seconds, max_bytes

    def check(self, frames: int, given: int, wanted: int) -> None:
        """Raise Undecodable where `frames` at `given` Hz are too long, as they are or at `wanted` Hz."""
        seconds = frames / given
        if seconds > self._max_seconds:
            raise Undecodable(FailureCode.TOO_LONG, f"over the limit of {self._max_seconds:g} seconds")
        if seconds * wanted * 4 > self._max_bytes:
            raise Undecodable(FailureCode.TOO_LONG, f"decodes to more than {self._max_bytes} bytes")


class _Mono:
    """The samples at the wanted rate, which grow as blocks come in; nothing else of a sound is held."""

    def __init__(self, given: int, wanted: int, limits: _Limits) -> None:
        if given not in _RATES:
            raise Undecodable(FailureCode.DECODE_FAILED, f"a rate of {given} Hz is none")
        self._given, self._wanted, self._limits = given, wanted, limits
        self._stream = None if given == wanted else soxr.ResampleStream(given, wanted, 1, dtype="float32", quality="HQ")
        self._samples = np.empty(_BLOCK, np.float32)
        self._count = 0
        self.frames_in = 0

    def take(self, block: np.ndarray) -> None:
        """Add float32 (channels, frames)."""
        self.frames_in += block.shape[1]
        self._limits.check(self.frames_in, self._given, self._wanted)
        with np.errstate(all="ignore"):  # what is not finite is found below
            mono = block.mean(axis=0, dtype=np.float32)
        self._add(mono if self._stream is None else self._stream.resample_chunk(mono))

    def ended(self) -> tuple[np.ndarray, float]:
        """The samples, and their length in seconds as it was given."""
        if not self.frames_in:
            raise Undecodable(FailureCode.MEDIA_EMPTY, "the sound has no samples")
        if self._stream is not None:
            self._add(self._stream.resample_chunk(np.empty(0, np.float32), last=True))
        if not self._count:
            raise Undecodable(FailureCode.MEDIA_EMPTY, "the sound is shorter than a sample of the model")
        self._samples.resize(self._count, refcheck=False)
        return self._samples, round(self.frames_in / self._given, 6)

    def _add(self, samples: np.ndarray) -> None:
        if not np.isfinite(samples).all():
            raise Undecodable(FailureCode.DECODE_FAILED, "the sound holds NaN or infinity")
        end = self._count + len(samples)
        if end > len(self._samples):
            self._samples.resize(end + end // 4, refcheck=False)  # realloc: no second copy beside the first
        self._samples[self._count : end] = samples
        self._count = end


def _samples(data: bytes, form: MediaFormat, limits: _Limits, rate: int) -> tuple[np.ndarray, float]:
    """float32 (n,) mono samples at `rate` Hz, and the seconds that they are."""
    if form.sounds_by_sndfile and (form.demuxer != "mp3" or _tells_length(data)):
        with contextlib.suppress(soundfile.SoundFileError):  # FFmpeg may know this variant, or say that it is broken
            file = soundfile.SoundFile(io.BytesIO(data))
            with file:
                return _by_sndfile(file, limits, rate)
    return _by_ffmpeg(data, form, limits, rate)


def _tells_length(mp3: bytes) -> bool:
    """Whether an MP3 says how many frames it has; else libsndfile guesses, and reads no more than that."""
    start = 0
    if mp3.startswith(b"ID3") and len(mp3) > 10:
        start = 10 + sum((mp3[6 + n] & 0x7F) << 7 * (3 - n) for n in range(4))
    return any(mp3.find(name, start, start + 256) >= 0 for name in (b"Xing", b"Info", b"VBRI"))


def _by_sndfile(file: Any, limits: _Limits, rate: int) -> tuple[np.ndarray, float]:  # Any: soundfile is not typed
    told = file.frames if 0 < file.frames < 2**60 else 0  # 2**63 - 1: not known
    mono = _Mono(file.samplerate, rate, limits)
    limits.check(told, file.samplerate, rate)
    block = max(1, _BLOCK // file.channels)
    try:
        while len(found := file.read(block, dtype="float32", always_2d=True)):
            mono.take(found.T)
    except soundfile.SoundFileError as err:
        problem = f"the {file.format} is truncated or corrupt ({type(err).__name__})"
        raise Undecodable(FailureCode.DECODE_FAILED, problem) from err
    if mono.frames_in < told:
        raise Undecodable(FailureCode.DECODE_FAILED, f"the {file.format} ends early: it is truncated")
    return mono.ended()


def _by_ffmpeg(data: bytes, form: MediaFormat, limits: _Limits, rate: int) -> tuple[np.ndarray, float]:
    with opened(data, form) as container:
        if not container.streams.audio:
            raise Undecodable(FailureCode.NO_STREAM, "the file has no sound")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise Undecodable(FailureCode.FORMAT_UNSUPPORTED, "the sound's codec is not known here")
        require_known(stream.codec_context.name)
        stream.codec_context.thread_count = 1
        given = int(stream.codec_context.sample_rate or 0)
        mono = _Mono(given, rate, limits)
        if stream.duration and stream.time_base:
            limits.check(int(stream.duration * stream.time_base * given), given, rate)
        resampler: Any = av.AudioResampler(format="fltp", rate=given)
        for frame in container.decode(stream):
            for part in resampler.resample(frame):
                mono.take(part.to_ndarray())
        return mono.ended()


def _failure(code: FailureCode, message: str) -> Failure:
    return Undecodable(code, message).failure
