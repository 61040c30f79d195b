"""Decoding of sounds: every accepted format becomes mono at the model's rate, whole, and nothing else does."""

import struct
from collections.abc import Callable

import numpy as np
import pytest

from schemas.failures import Failure, FailureCode, Stage
from tests.bad_images import Sample
from tests.bad_media import bad_sounds, long_silence, wav_header
from tests.media import film, m4a, sound, tone
from workers.content import Sound
from workers.decode_audio import decode_sound


def decode(data: bytes, rate: int = 16_000, *, max_seconds: float = 60, max_bytes: int = 2**26) -> Sound | Failure:
    return decode_sound(data, rate=rate, max_seconds=max_seconds, max_bytes=max_bytes)


def decoded(data: bytes, rate: int = 16_000) -> Sound:
    outcome = decode(data, rate)
    assert isinstance(outcome, Sound), outcome
    return outcome


def code_of(data: bytes, **limits: float) -> FailureCode | None:
    outcome = decode(data, **limits)  # type: ignore[arg-type]  # the limits above
    return outcome.code if isinstance(outcome, Failure) else None


def pitch(found: Sound) -> float:
    """The loudest frequency, Hz."""
    spectrum = np.abs(np.fft.rfft(found.samples * np.hanning(len(found.samples))))
    return float(np.argmax(spectrum) * found.rate / len(found.samples))


FORMATS: dict[str, Callable[[np.ndarray, int], bytes]] = {
    "8 bit": lambda x, rate: sound(x, rate, subtype="PCM_U8"),
    "16 bit": lambda x, rate: sound(x, rate, subtype="PCM_16"),
    "24 bit": lambda x, rate: sound(x, rate, subtype="PCM_24"),
    "float": lambda x, rate: sound(x, rate, subtype="FLOAT"),
    "extensible": lambda x, rate: sound(x, rate, "WAVEX", "PCM_16"),
    "rf64": lambda x, rate: sound(x, rate, "RF64", "PCM_16"),
    "big endian": lambda x, rate: sound(x, rate, subtype="PCM_16", endian="BIG"),
    "adpcm": lambda x, rate: sound(x, rate, subtype="IMA_ADPCM"),
    "aiff": lambda x, rate: sound(x, rate, "AIFF", "PCM_16"),
    "flac": lambda x, rate: sound(x, rate, "FLAC"),
    "mp3": lambda x, rate: sound(x, rate, "MP3"),
    "vorbis": lambda x, rate: sound(x, rate, "OGG", "VORBIS"),
    "opus": lambda x, rate: sound(x, rate, "OGG", "OPUS"),
    "aac": m4a,
    "adts": lambda x, rate: m4a(x, rate, "adts"),
    "matroska": lambda x, rate: m4a(x, rate, "matroska", "libopus"),
}


@pytest.mark.parametrize("sample", bad_sounds(), ids=lambda s: s.name)
def test_a_bad_sound_is_a_failure_with_its_code(sample: Sample) -> None:
    """What is no sound, lies, or was cut off fails with its code, is never silently short, and raises nothing."""
    assert sample.data is not None

    outcome = decode(sample.data)

    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.stage) == (sample.code, Stage.DECODE)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_its_tone_and_its_length(name: str) -> None:
    """A second of 440 Hz stays a second of 440 Hz, give or take what a lossy encoder pads."""
    data = FORMATS[name](tone(48_000, 1.0), 48_000)

    found = decoded(data)

    assert found.samples.dtype == np.float32
    assert found.rate == 16_000
    assert pitch(found) == pytest.approx(440, abs=1.5)
    assert found.seconds_in == pytest.approx(1.0, abs=0.06)
    assert found.seconds == pytest.approx(found.seconds_in, abs=1 / 16_000)
    assert float(np.sqrt(np.mean(found.samples[2_000:-2_000] ** 2))) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("wanted", [16_000, 48_000])
@pytest.mark.parametrize("given", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000])
def test_resampling_keeps_length_and_pitch(given: int, wanted: int) -> None:
    """However many samples a second come in, the model's number of them goes out, and the tone is the same."""
    found = decoded(sound(tone(given, 1.0), given), wanted)

    assert abs(len(found.samples) - wanted) <= 1
    assert found.seconds_in == pytest.approx(1.0, abs=1e-4)
    assert pitch(found) == pytest.approx(440, abs=1.5)


def test_the_same_bytes_give_the_same_samples() -> None:
    """Two decodings of a sound that is resampled in several blocks are equal bit by bit."""
    data = sound(np.random.default_rng(0).uniform(-1, 1, 200_000).astype(np.float32), 44_100, "FLAC")

    assert np.array_equal(decoded(data).samples, decoded(data).samples)


def test_blocks_leave_no_seams() -> None:
    """A sound that is resampled block by block is what it is when it is resampled as a whole."""
    import soxr

    samples = np.random.default_rng(0).uniform(-1, 1, 300_000).astype(np.float32)

    found = decoded(sound(samples, 44_100, subtype="FLOAT"))

    assert np.allclose(found.samples, soxr.resample(samples, 44_100, 16_000, quality="HQ"), atol=1e-6)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_channels_are_averaged(form: str) -> None:
    """A tone on the left and silence on the right is half a tone; its opposite on the right is silence."""
    left = tone(16_000, 1.0)

    half = decoded(sound(np.stack([left, 0 * left], 1), 16_000, form))
    none = decoded(sound(np.stack([left, -left], 1), 16_000, form))

    assert np.abs(half.samples).max() == pytest.approx(0.25, abs=0.02)
    assert np.abs(none.samples).max() < 0.02


def test_channels_are_averaged_before_resampling() -> None:
    """What resampling makes of the mean is what comes out, to the last bit."""
    stereo = np.random.default_rng(0).uniform(-1, 1, (50_000, 2)).astype(np.float32)

    together = decoded(sound(stereo, 48_000, subtype="FLOAT"))
    before = decoded(sound(stereo.mean(axis=1, dtype=np.float32), 48_000, subtype="FLOAT"))

    assert np.array_equal(together.samples, before.samples)


def test_many_channels_are_a_sound() -> None:
    """A recording of 64 microphones is averaged, a thousand channels cost no more memory than one."""
    many = decoded(sound(np.tile(tone(8_000, 1.0)[:, None], 1_000), 8_000))

    assert np.allclose(many.samples, decoded(sound(tone(8_000, 1.0), 8_000)).samples, atol=1e-4)


def test_silence_is_a_sound() -> None:
    """No sound at all is a vector like any other."""
    found = decoded(sound(np.zeros(8_000, np.float32), 8_000))

    assert len(found.samples) == 16_000
    assert not found.samples.any()


def test_one_sample_is_a_sound() -> None:
    """The shortest sound that there is has a place in time."""
    assert decoded(sound(tone(16_000)[1:2], 16_000)).seconds_in == pytest.approx(1 / 16_000, abs=1e-6)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_that_tells_no_length_is_read_to_its_end(mode: str) -> None:
    """Without the frame that tells it, the length is not guessed: nothing is missing, and nothing is thought to be."""
    rng = np.random.default_rng(0)
    samples = np.concatenate([tone(44_100, 2.0), rng.uniform(-0.5, 0.5, 88_200).astype(np.float32)])
    data = sound(samples, 44_100, "MP3", bitrate_mode=mode, compression_level=0.5)
    untold = data[data.index(b"\xff\xfb", 4) :]

    found = decoded(untold)

    assert b"Xing" not in untold[:400]
    assert b"Info" not in untold[:400]
    assert found.seconds_in == pytest.approx(4.0, abs=0.1)


def test_tags_before_an_mp3_are_no_sound() -> None:
    """An ID3 header, however long, is passed over."""
    bare = sound(tone(16_000), 16_000, "MP3")
    tagged = b"ID3\x04\0\0\0\0\x10\0" + bytes(2_048) + bare

    assert np.array_equal(decoded(tagged).samples, decoded(bare).samples)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_that_was_written_to_a_pipe_is_whole(size: int) -> None:
    """Writers that cannot go back leave a size that stands for "not known"."""
    data = wav_header()[:-4] + struct.pack("<I", size) + bytes(32_000)

    found = decoded(data)

    assert found.seconds_in == 1.0


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi", "mov"])
def test_the_sound_of_a_film_is_a_sound(form: str) -> None:
    """The first sound stream of a film is decoded; the pictures are not."""
    data = film(10, form=form, sound_rate=16_000)

    found = decoded(data)

    assert found.seconds_in == pytest.approx(1.0, abs=0.1)
    assert pitch(found) == pytest.approx(440, abs=2)


def test_over_the_limit_of_seconds_is_too_long() -> None:
    """A sound that says how long it is fails before it is decoded; another as soon as it is longer."""
    told = long_silence(100)
    untold = wav_header(data_bytes=0xFFFFFFFF) + bytes(4 * 32_000)

    assert code_of(told, max_seconds=99.9) is FailureCode.TOO_LONG
    assert code_of(told, max_seconds=100.1, max_bytes=2**28) is None
    assert code_of(untold, max_seconds=3.0) is FailureCode.TOO_LONG


def test_over_the_limit_of_bytes_is_too_long() -> None:
    """What counts is what the samples take up at the model's rate."""
    data = sound(tone(8_000, 10.0), 8_000)

    assert code_of(data, max_bytes=10 * 16_000 * 4 - 1) is FailureCode.TOO_LONG
    assert code_of(data, max_bytes=10 * 16_000 * 4) is None
