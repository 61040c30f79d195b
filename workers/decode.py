"""Decoding: the bytes of an image become RGB pixels, within limits of our own."""

import io
import re

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from schemas.failures import Failure, FailureCode, Stage
from workers.shrinking import Shrink

# Pillow's readers are called directly, not through Image.open: that one asks every reader it knows, and judges
# the size by Image.MAX_IMAGE_PIXELS, which is one number for the whole process.
_READERS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
    (re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), BmpImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
)

#: What turns the pixels of each EXIF orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: Factors that bring PNG's transparent colour, told in the file's own depth, to the 8 bits of decoded pixels.
_SAMPLE_SCALE = {"L;2": 85.0, "L;4": 17.0, "RGB;16B": 1 / 256}


def decode_image(data: bytes, *, max_pixels: int, shrink: Shrink | None = None) -> Image.Image | Failure:
    """The first frame of `data`, upright, on white, as RGB that owns its pixels; or why there is none.

    `shrink` brings a larger one to the size that its model sees.
    The content alone decides the format: PNG, JPEG, WEBP, GIF, BMP or TIFF.
    """
    reader = next((reader for magic, reader in _READERS if magic.match(data)), None)
    if reader is None:
        return _failure(FailureCode.FORMAT_UNSUPPORTED, "the content is no PNG, JPEG, WEBP, GIF, BMP or TIFF")
    try:
        with reader(io.BytesIO(data)) as file:
            if file.width * file.height > max_pixels:
                return _too_many(f"{file.width} x {file.height}", max_pixels)
            image = _pixels(file)
            return image if shrink is None else shrink.apply(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # WEBP, GIF and TIFF: canvas and tiles
        return _too_many("more than the reader takes", max_pixels)
    except MemoryError:  # says nothing of the bytes: they may be good, and the limit low
        raise
    except Exception as err:  # noqa: BLE001  # hostile bytes make a reader raise anything; the row is told, and goes
        problem = f"the {reader.format} is truncated or corrupt ({type(err).__name__})"
        return _failure(FailureCode.DECODE_FAILED, problem)


def _pixels(file: ImageFile.ImageFile) -> Image.Image:
    _scale_transparent_colour(file)
    file.load()
    image = _as_rgb(_upright(file))
    image.info = {}  # EXIF may tell where a photo was taken
    return image


def _scale_transparent_colour(file: ImageFile.ImageFile) -> None:
    """Bring a PNG's transparent colour to 8 bits, as its pixels will be; Pillow leaves it as it is in the file."""
    colour, layout = file.info.get("transparency"), file.tile[0].args if file.tile else None
    if isinstance(layout, str) and layout in _SAMPLE_SCALE and colour is not None:
        scale = _SAMPLE_SCALE[layout]
        scaled = [int(sample * scale) for sample in np.atleast_1d(colour)]
        file.info["transparency"] = scaled[0] if len(scaled) == 1 else tuple(scaled)


def _upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF says; unlike ImageOps.exif_transpose it never writes the EXIF anew, which may fail."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  # broken EXIF says nothing, and the pixels are good
        turn = None
    return image if turn is None else image.transpose(turn)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGB", image.size, "white")
    image = image.convert("RGBA")
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of deep samples with its white brought to 255; Pillow's own conversion clips."""
    samples = np.asarray(image)
    if samples.dtype.kind == "f":
        samples = np.nan_to_num(samples, posinf=0.0, neginf=0.0)
    white = _white(image.mode, float(samples.max()))
    if samples.dtype.itemsize == 2 and samples.dtype.kind == "u":
        grey = np.round(np.arange(65536) / 257).astype(np.uint8)[samples]
    else:
        grey = np.round(np.clip(samples, 0, white) * (255 / white)).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        grey[samples == image.info["transparency"]] = 255  # transparent, on white
    return Image.fromarray(grey)


def _white(mode: str, brightest: float) -> float:
    """The least of the usual whites of `mode` that is as bright as the brightest sample."""
    usual = (1.0, 255.0, 65535.0) if mode == "F" else (65535.0, 2.0**31 - 1)
    return next((white for white in usual if white >= brightest), brightest)


def _too_many(size: str, max_pixels: int) -> Failure:
    return _failure(FailureCode.TOO_MANY_PIXELS, f"{size} pixels, over the limit of {max_pixels} in all")


def _failure(code: FailureCode, message: str) -> Failure:
    return Failure(code=code, stage=Stage.DECODE, message=message)
