"""Decoding: every accepted format becomes the same kind of image, and nothing else becomes one."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from schemas.failures import Failure, FailureCode, Stage
from tests.bad_images import Sample, bad_images, bomb, encoded, good_images, photo, png_chunk, png_file
from workers.decode import decode_image

MAX_PIXELS = 50_000_000


def decoded(data: bytes) -> Image.Image:
    outcome = decode_image(data, max_pixels=MAX_PIXELS)
    assert isinstance(outcome, Image.Image), outcome
    return outcome


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decoded(data))


@pytest.mark.parametrize("sample", [s for s in bad_images() if s.data], ids=lambda s: s.name)
def test_a_bad_image_is_a_failure_with_its_code(sample: Sample) -> None:
    """What is no image, or only half of one, fails with its code and without raising."""
    assert sample.data is not None
    outcome = decode_image(sample.data, max_pixels=MAX_PIXELS)

    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.stage) == (sample.code, Stage.DECODE)


@pytest.mark.parametrize("sample", good_images(), ids=lambda s: s.name)
def test_a_good_image_is_plain_rgb(sample: Sample) -> None:
    """Whatever the file held, the image is RGB, owns its pixels and tells nothing else."""
    assert sample.data is not None
    image = decoded(sample.data)

    assert type(image) is Image.Image
    assert image.mode == "RGB"
    assert image.info == {}
    assert not dict(image.getexif())
    assert np.array_equal(np.asarray(image), pixels(sample.data))


@pytest.mark.parametrize("name", ["plain.png", "plain.bmp", "plain.tif", "lzw.tif", "png_named.jpg", "animated.png"])
def test_a_lossless_picture_keeps_its_pixels(name: str) -> None:
    """No step of decoding changes what a lossless format kept; of several frames, it is the first."""
    data = {s.name: s.data for s in good_images()}[name]
    assert data is not None

    assert np.array_equal(pixels(data), np.asarray(photo()))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF"])
def test_the_first_frame_stands_for_an_animation(form: str) -> None:
    """An animated image is its first frame."""
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")

    data = encoded(red, form, save_all=True, append_images=[blue, blue])

    assert np.abs(pixels(data).astype(int) - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(form: str, orientation: int) -> None:
    """Each of the eight orientations gives what ImageOps.exif_transpose gives."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), form, exif=exif)

    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")

    assert np.array_equal(pixels(data), np.asarray(expected))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")  # outside of tests Pillow only says so
def test_broken_exif_does_not_cost_the_picture() -> None:
    """EXIF that cannot be read says nothing about the picture."""
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(9))

    assert np.array_equal(pixels(data), pixels(encoded(photo(), "JPEG")))


def test_transparency_is_composed_onto_white() -> None:
    """Clear is white, opaque is the colour, half is half way, in every way of writing transparency."""
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(200, 0, 0, 0), (200, 0, 0, 255), (200, 0, 0, 128)])

    for data in (encoded(rgba, "PNG"), encoded(rgba, "WEBP", lossless=True, exact=True), encoded(rgba, "TIFF")):
        assert np.abs(pixels(data)[0] - [[255, 255, 255], [200, 0, 0], [227, 127, 127]]).max() <= 1


def test_grey_with_alpha_is_composed_onto_white() -> None:
    """LA is treated like RGBA."""
    la = Image.new("LA", (2, 1))
    la.putdata([(10, 0), (10, 255)])

    assert pixels(encoded(la, "PNG"))[0, :, 0].tolist() == [255, 10]


def test_a_palette_with_transparency_is_composed_onto_white() -> None:
    """Palette entries may be clear: one of them (as in GIF), or each by degrees (as in PNG)."""
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 0, 0, 0, 0, 200])
    palette.putdata([0, 1])

    for data in (
        encoded(palette, "PNG", transparency=0),
        encoded(palette, "PNG", transparency=b"\0\xff"),
        encoded(palette, "GIF", transparency=0),
    ):
        assert pixels(data)[0].tolist() == [[255, 255, 255], [0, 0, 200]]


@pytest.mark.parametrize(
    ("depth", "colour", "row", "clear", "expected"),
    [
        (1, 0, b"\x40", (1,), [0, 255, 0]),
        (2, 0, b"\x18", (1,), [0, 255, 170]),
        (4, 0, b"\x15\xa0", (5,), [17, 255, 170]),
        (8, 0, b"\x01\x05\xaa", (5,), [1, 255, 170]),
        (16, 0, struct.pack(">3H", 257, 4660, 65535), (4660,), [1, 255, 255]),
        (8, 2, bytes([1, 1, 1, 5, 5, 5, 9, 9, 9]), (5, 5, 5), [1, 255, 9]),
        (16, 2, struct.pack(">9H", *[256] * 3, *[0x1234] * 3, *[0x9900] * 3), (0x1234,) * 3, [1, 255, 0x99]),
    ],
)
def test_the_transparent_colour_of_a_png_is_white_at_every_depth(
    depth: int, colour: int, row: bytes, clear: tuple[int, ...], expected: list[int]
) -> None:
    """PNG tells its clear colour in samples of the file's own depth."""
    chunk = png_chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))

    data = png_file(3, 1, zlib.compress(b"\0" + row), depth=depth, colour=colour, extra=chunk)

    assert pixels(data)[0, :, 0].tolist() == expected


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    """Black is 0, white is 255, and half is half, in PNG and TIFF of both byte orders."""
    samples = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    expected = [0, 0, 1, 128, 255]

    little, big = Image.fromarray(samples), Image.fromarray(samples.astype(">u2"))

    assert big.mode == "I;16B"
    for data in (encoded(little, "PNG"), encoded(little, "TIFF"), encoded(big, "TIFF")):
        assert pixels(data)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, 257, 65535], np.int32), [0, 1, 255]),
        (np.array([-5, 0, 2**31 - 1], np.int32), [0, 0, 255]),
        (np.array([0.0, 0.5, 1.0], np.float32), [0, 128, 255]),
        (np.array([0.0, 100.0, 255.0], np.float32), [0, 100, 255]),
        (np.array([0.0, 257.0, 65535.0], np.float32), [0, 1, 255]),
        (np.array([np.nan, -np.inf, 1.0], np.float32), [0, 0, 255]),
        (np.array([0.0, 2.5e5, 1e6], np.float32), [0, 64, 255]),
    ],
)
def test_deeper_grey_is_scaled_by_the_least_usual_white(samples: np.ndarray, expected: list[int]) -> None:
    """Integers end at 65535 or 2^31 - 1, floats at 1, 255, 65535 or their brightest."""
    data = encoded(Image.fromarray(samples.reshape(1, 3)), "TIFF")

    assert pixels(data)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["CMYK", "LAB"])
@pytest.mark.parametrize(("corner", "colour"), [(0, "white"), (1, "grey")])
def test_other_colour_spaces_are_converted(mode: str, corner: int, colour: str) -> None:
    """CMYK and LAB become the colours that they stand for."""
    values = {
        ("CMYK", 0): (0, 0, 0, 0),
        ("CMYK", 1): (0, 0, 0, 127),
        ("LAB", 0): (255, 128, 128),
        ("LAB", 1): (137, 128, 128),
    }
    data = encoded(Image.new(mode, (4, 4), values[mode, corner]), "TIFF")

    expected = (255, 255, 255) if colour == "white" else (128, 128, 128)

    assert np.abs(pixels(data).astype(int) - expected).max() <= 3


def test_a_cmyk_jpeg_is_not_a_negative() -> None:
    """JPEG keeps CMYK inverted, and it is turned back."""
    data = encoded(Image.new("RGB", (16, 16), "red").convert("CMYK"), "JPEG")

    assert np.abs(pixels(data).astype(int) - (255, 0, 0)).max() <= 3


def test_the_pixel_limit_is_read_from_the_header() -> None:
    """The limit itself is allowed, one pixel more is not."""
    data = encoded(Image.new("L", (10, 10)), "PNG")

    assert isinstance(decode_image(data, max_pixels=100), Image.Image)
    outcome = decode_image(data, max_pixels=99)
    assert isinstance(outcome, Failure)
    assert outcome.code is FailureCode.TOO_MANY_PIXELS
    assert outcome.message == "10 x 10 pixels, over the limit of 99 in all"


def test_the_limit_is_ours_and_not_pillows() -> None:
    """A picture over Pillow's process-wide limit is decoded when the job allows it."""
    data = encoded(Image.new("1", (10_000, 9_000)), "PNG")
    assert Image.MAX_IMAGE_PIXELS is not None
    assert Image.MAX_IMAGE_PIXELS < 90_000_000

    outcome = decode_image(data, max_pixels=90_000_000)

    assert isinstance(outcome, Image.Image)
    assert outcome.size == (10_000, 9_000)


def test_a_webp_canvas_beyond_its_reader_is_too_many_pixels() -> None:
    """Pillow refuses such a canvas before it tells the size; the code is the same."""
    size = b"".join((side - 1).to_bytes(3, "little") for side in (16_000, 16_000))
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size
    data = b"RIFF" + struct.pack("<I", len(canvas) + 4) + b"WEBP" + canvas

    outcome = decode_image(data, max_pixels=MAX_PIXELS)

    assert isinstance(outcome, Failure)
    assert outcome.code is FailureCode.TOO_MANY_PIXELS


def test_the_bomb_is_a_good_and_small_file() -> None:
    """The corpus' bomb fails for its size alone: it is small, and Pillow reads its header."""
    assert len(bomb()) < 300_000
    assert b"IHDR" + struct.pack(">II", 20_000, 20_000) in bomb()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_cut_or_flipped_byte_raises() -> None:
    """1,500 mutilated images (seed 7) are images or failures, twice the same."""
    rng = np.random.default_rng(7)
    originals = [s.data for s in good_images() if s.data and s.name != "lzw.tif"]  # libtiff talks on stderr
    for _ in range(1500):
        data = bytearray(originals[rng.integers(len(originals))])
        reach = min(len(data), int(rng.choice([40, 200, 100_000])))
        for _ in range(rng.integers(1, 12)):
            data[rng.integers(reach)] = rng.integers(256)
        cut = bytes(data[: rng.integers(1, 2 * len(data))])

        first, second = (decode_image(cut, max_pixels=1_000_000) for _ in range(2))

        assert summary(first) == summary(second)


def summary(outcome: Image.Image | Failure) -> object:
    return outcome if isinstance(outcome, Failure) else (outcome.size, outcome.tobytes())


def test_messages_hold_nothing_of_the_file() -> None:
    """A failure names the format and the kind of error, not what the file held."""
    data = encoded(photo(), "PNG").replace(b"IDAT", b"SECRET"[:4])

    outcome = decode_image(data, max_pixels=MAX_PIXELS)

    assert isinstance(outcome, Failure)
    assert outcome.message.startswith("the PNG is truncated or corrupt (")
    assert "SECR" not in outcome.message
