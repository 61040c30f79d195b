"""Decoding of films: the frames that are shown at the middles of equal intervals, upright, the same each time."""

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from schemas.failures import Failure, FailureCode, Stage
from tests.bad_images import Sample, encoded
from tests.bad_media import bad_films, containers_that_name, wide_gif
from tests.media import film, gif, mirrored, number_of, numbered
from workers.content import Film
from workers.decode_video import Sampling, decode_film

LIMITS: dict[str, Any] = {"max_pixels": 50_000_000, "max_seconds": 3600, "max_bytes": 2**29}


def decode(
    data: bytes, frames: int = 8, *, limits: dict[str, Any] | None = None, **sampling: Any
) -> list[Film] | Failure:
    return decode_film(data, Sampling(frames=frames, **sampling), **LIMITS | (limits or {}))


def films(data: bytes, frames: int = 8, **sampling: Any) -> list[Film]:
    outcome = decode(data, frames, **sampling)
    assert isinstance(outcome, list), outcome
    return outcome


def whole(data: bytes, frames: int = 8, **sampling: Any) -> Film:
    [only] = films(data, frames, **sampling)
    return only


def numbers(found: Film) -> list[int]:
    return [number_of(frame) for frame in found.frames]


def code_of(data: bytes, frames: int = 8, **more: Any) -> FailureCode | None:
    outcome = decode(data, frames, **more)
    return outcome.code if isinstance(outcome, Failure) else None


#: Sixty frames of six seconds, in each container, with every kind of order and distance of key frames.
SIXTY: dict[str, Callable[[], bytes]] = {
    "mp4": lambda: film(60),
    "mp4, B-frames": lambda: film(60, b_frames=2),
    "mp4 h264": lambda: film(60, codec="libx264"),
    "mp4 h264, B-frames": lambda: film(60, codec="libx264", b_frames=3),
    "mp4 h264, one key frame": lambda: film(60, codec="libx264", b_frames=3, key_every=250),
    "mp4 h264, many key frames": lambda: film(60, codec="libx264", b_frames=3, key_every=4),
    "mp4 in fragments": lambda: film(60, codec="libx264", options={"movflags": "frag_keyframe+empty_moov"}),
    "mp4 with sound": lambda: film(60, sound_rate=8_000),
    "mov": lambda: film(60, form="mov", b_frames=2),
    "webm vp8": lambda: film(60, form="webm", codec="libvpx"),
    "webm vp9": lambda: film(60, form="webm", codec="libvpx-vp9"),
    "matroska h264, B-frames": lambda: film(60, form="matroska", codec="libx264", b_frames=3),
    "avi": lambda: film(60, form="avi"),
    "avi, B-frames": lambda: film(60, form="avi", b_frames=2),
    "avi mjpeg": lambda: film(60, form="avi", codec="mjpeg"),
    "avi h264": lambda: film(60, form="avi", codec="libx264"),
    "avi h264, B-frames": lambda: film(60, form="avi", codec="libx264", b_frames=3),
    "gif": lambda: gif(60),
}


@pytest.mark.parametrize("sample", bad_films(), ids=lambda s: s.name)
def test_a_bad_film_is_a_failure_with_its_code(sample: Sample) -> None:
    """What is no film, claims too much, or was cut off fails with its code, and raises nothing."""
    assert sample.data is not None

    outcome = decode(sample.data)

    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.stage) == (sample.code, Stage.DECODE)


@pytest.mark.parametrize("name", SIXTY)
def test_frames_are_those_at_the_middles_of_equal_intervals(name: str) -> None:
    """Of sixty frames, seven are those that are shown at 1/14, 3/14 ... of the film, whatever the format."""
    data = SIXTY[name]()
    expected = [60 * (2 * n + 1) // 14 for n in range(7)]

    found = whole(data, 7)

    assert numbers(found) == expected
    assert found.times_s == pytest.approx([n / 10 for n in expected])
    assert found.frames_in == 60
    assert found.fps == pytest.approx(10)
    assert found.seconds_in == pytest.approx(6.0)


@pytest.mark.parametrize("name", SIXTY)
def test_seeking_changes_no_pixel(name: str) -> None:
    """A frame that is reached by way of a key frame is the one that decoding all of the film comes to."""
    data = SIXTY[name]()

    everything = whole(data, 60)

    assert numbers(everything) == list(range(60))
    for count in (1, 2, 5, 9):
        some = whole(data, count)
        assert np.array_equal(some.frames, everything.frames[numbers(some)])


def test_few_frames_are_taken_once_each() -> None:
    """A film of three frames has three, however many are wanted; one of one has one."""
    assert numbers(whole(film(3), 16)) == [0, 1, 2]
    assert numbers(whole(film(1), 16)) == [0]
    assert numbers(whole(gif(1), 16)) == [0]


def test_a_rate_of_frames_is_kept_up_to_the_number_of_frames() -> None:
    """Two a second of six seconds are twelve, unless fewer may be taken."""
    data = film(60)

    assert numbers(whole(data, 100, fps=2.0)) == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47, 52, 57]
    assert len(whole(data, 5, fps=2.0).frames) == 5
    assert len(whole(data, 100, fps=0.01).frames) == 1
    assert numbers(whole(data, 100, fps=50.0)) == list(range(60))


def test_segments_have_frames_of_their_own() -> None:
    """A film of six seconds in segments of two and a half: each has its times, and its frames from within them."""
    found = films(film(60), 2, segment_s=2.5)

    assert [(segment.start_s, segment.end_s) for segment in found] == [
        (0.0, 2.5),
        (2.5, 5.0),
        (5.0, pytest.approx(6.0)),
    ]
    assert [numbers(segment) for segment in found] == [[6, 18], [31, 43], [52, 57]]
    assert {segment.seconds_in for segment in found} == {found[0].seconds_in}


def test_a_tail_that_says_nothing_is_left_out() -> None:
    """What remains beyond the last whole segment is one from a tenth of it on; a short film is one in any case."""
    assert len(films(film(62), 1, segment_s=2.0)) == 4
    assert len(films(film(61), 1, segment_s=2.0)) == 3
    assert len(films(film(1), 1, segment_s=2.0)) == 1


def test_frames_of_uneven_length_are_judged_by_when_they_are_shown() -> None:
    """A picture that stands for most of the film is most of its frames' times, and is taken once."""
    stamps = [0, 1, 2, 3, 4, 5, 6, 7, 8, 90, 95]

    found = whole(film(11, form="matroska", rate=10, stamps=stamps), 10)

    assert numbers(found) == [4, 8, 9]
    assert found.times_s == (0.4, 0.8, 9.0)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_frames_are_turned_upright(quarters: int) -> None:
    """A film that was taken with the camera on its side is shown, and taken, upright."""
    found = whole(film(5, turned=quarters), 5)

    assert found.frames.shape == (5, 48, 80, 3)
    assert numbers(found) == [0, 1, 2, 3, 4]


def test_a_mirrored_film_is_shown_as_its_camera_meant_it() -> None:
    """Front cameras write what a mirror shows, and say so."""
    plain = whole(film(3), 3).frames

    assert np.array_equal(whole(mirrored(film(3)), 3).frames, plain[:, :, ::-1])


def test_a_codec_that_is_on_no_list_is_not_run() -> None:
    """FFmpeg has hundreds of decoders, most of them for formats that nobody writes any more."""
    assert code_of(film(3, form="matroska", codec="snow")) is FailureCode.FORMAT_UNSUPPORTED


@pytest.mark.parametrize("size", [(80, 48), (82, 50), (98, 34), (34, 98)])
def test_large_frames_are_scaled_and_keep_their_shape(size: tuple[int, int]) -> None:
    """At most about so many pixels, the same ratio of sides, the same picture; small ones are left alone."""
    data = film(4, codec="libx264", size=size)

    small, plain = whole(data, 4, frame_pixels=1_000), whole(data, 4, frame_pixels=10**6)

    _, height, width, _ = small.frames.shape
    assert 900 <= width * height <= 1_100
    assert width / height == pytest.approx(size[0] / size[1], rel=0.05)
    assert numbers(small) == [0, 1, 2, 3]
    assert plain.frames.shape == (4, size[1], size[0], 3)


def test_odd_sizes_are_kept() -> None:
    """A GIF may be 81 x 47."""
    assert whole(gif(3, size=(81, 47))).frames.shape == (3, 47, 81, 3)


def motion_jpeg(sizes: list[tuple[int, int]]) -> bytes:
    """A film of JPEGs of those sizes, which claims the first one's for all."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as container:
        width, height = sizes[0]
        stream: Any = container.add_mux_stream("mjpeg", rate=10, width=width, height=height)
        for n, size in enumerate(sizes):
            packet = av.Packet(encoded(Image.fromarray(numbered(n, *size)), "JPEG"))
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, n, n, Fraction(1, 10)
            packet.is_keyframe = True
            container.mux(packet)
    return sink.getvalue()


@pytest.mark.parametrize("form", ["mp4", "avi", "matroska"])
def test_a_title_in_another_encoding_harms_nobody(form: str) -> None:
    """Metadata that are no UTF-8 are common, and are none of a decoder's business."""
    data = film(4, form=form)

    found = whole(data.replace(b"Lavf", b"L\xe9vf"))

    assert b"Lavf" in data
    assert numbers(found) == [0, 1, 2, 3]


def test_frames_of_several_sizes_become_as_large_as_the_first() -> None:
    """A stream may change its size on its way; its frames are one array all the same."""
    found = whole(motion_jpeg([(80, 48), (80, 48), (160, 96), (40, 24)]))

    assert found.frames.shape == (4, 48, 80, 3)
    assert numbers(found) == [0, 1, 2, 3]


def test_a_frame_that_grows_over_the_limit_is_too_many_pixels() -> None:
    """What a stream says of its size at its beginning does not hold for all of it."""
    data = motion_jpeg([(80, 48), (800, 480)])

    assert code_of(data, limits={"max_pixels": 100_000}) is FailureCode.TOO_MANY_PIXELS


def test_over_the_limit_of_seconds_is_too_long() -> None:
    """The packets tell how long a film is, whatever its header says."""
    data = film(60)

    assert code_of(data, limits={"max_seconds": 5.8}) is FailureCode.TOO_LONG
    assert code_of(data, limits={"max_seconds": 6.0}) is None


def test_a_header_that_lies_about_the_length_is_not_believed() -> None:
    """A minute that is claimed is not there; six seconds are."""
    data = bytearray(film(60))
    at = data.index(b"mvhd") + 16
    data[at + 4 : at + 8] = (60_000).to_bytes(4, "big")

    assert whole(bytes(data)).seconds_in == pytest.approx(6.0)


def test_over_the_limit_of_bytes_is_too_long() -> None:
    """Before anything is decoded, the frames of all segments together are counted."""
    data, frame = film(60), 80 * 48 * 3

    assert code_of(data, 8, limits={"max_bytes": 8 * frame - 1}) is FailureCode.TOO_LONG
    assert code_of(data, 8, limits={"max_bytes": 8 * frame}) is None
    assert code_of(data, 2, segment_s=1.0, limits={"max_bytes": 12 * frame - 1}) is FailureCode.TOO_LONG
    assert code_of(data, 2, segment_s=0.001, limits={"max_bytes": 100 * frame}) is FailureCode.TOO_LONG


def test_over_the_limit_of_pixels_is_too_many() -> None:
    """What counts is the frame as it is in the file, not what it is scaled to."""
    data = film(4)

    assert code_of(data, frame_pixels=100, limits={"max_pixels": 80 * 48 - 1}) is FailureCode.TOO_MANY_PIXELS
    assert code_of(data, frame_pixels=100, limits={"max_pixels": 80 * 48}) is None


def test_a_film_of_very_many_frames_is_bounded() -> None:
    """Fifty thousand frames of a pixel are a film; beyond the limit of seconds they are too long."""
    data = wide_gif(1, 1, frames=50_000)

    assert len(whole(data, 4).frames) == 4
    assert code_of(data, limits={"max_seconds": 400.0}) is FailureCode.TOO_LONG


@pytest.mark.parametrize("name", ["dref.mov", "linked.mkv", "attached.mkv", "subtitle.avi"])
def test_what_names_another_file_is_decoded_without_it(name: str) -> None:
    """A film that says where its samples, its subtitles or its next part lie is what it holds itself."""
    outcome = decode(containers_that_name("/etc/hostname")[name])

    if isinstance(outcome, Failure):
        assert outcome.code in (FailureCode.MEDIA_EMPTY, FailureCode.DECODE_FAILED)
    else:
        assert numbers(outcome[0]) == [0, 1, 2, 3, 4]


def test_the_example_of_a_data_reference_is_alive() -> None:
    """FFmpeg, left to itself, would open what the test's film names: the tests above prove something."""
    asked: list[str] = []

    def note(url: str, *_: object) -> Any:
        asked.append(url)
        raise PermissionError

    with pytest.raises(PermissionError):
        av.open(
            io.BytesIO(containers_that_name("/etc/hostname")["dref.mov"]), io_open=note, options={"enable_drefs": "1"}
        )

    assert asked == ["hostname"]


def test_numbers_survive_being_drawn() -> None:
    """The tests' own frames are told apart."""
    assert [number_of(numbered(n)) for n in range(1024)] == list(range(1024))
