"""Images that go wrong, and odd ones that must not: what real image collections hold sooner or later."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from schemas.failures import FailureCode


class Sample(NamedTuple):
    """One row's medium and what must become of it."""

    name: str  # the row's uri, relative to the folder that `write_images` fills
    data: bytes | None  # the file's content; None: there is no such file
    code: FailureCode | None  # the failure that its row must have; None: a vector


def bad_images() -> list[Sample]:
    """Each kind of bad image, every one with the code that it must fail with."""
    jpeg, png, webp = (encoded(photo(), form) for form in ("JPEG", "PNG", "WEBP"))
    gif, tiff = encoded(photo(), "GIF"), encoded(photo(), "TIFF")
    unsupported, broken = FailureCode.FORMAT_UNSUPPORTED, FailureCode.DECODE_FAILED
    return [
        Sample("empty.png", b"", FailureCode.FILE_EMPTY),
        Sample("missing.png", None, FailureCode.NOT_FOUND),
        Sample("folder.png", None, FailureCode.NOT_A_FILE),
        Sample("../outside.png", None, FailureCode.OUTSIDE_ROOT),
        Sample("/etc/hostname", None, FailureCode.OUTSIDE_ROOT),
        Sample("http://127.0.0.1:9/photo.png", None, FailureCode.URI_SCHEME),
        Sample("data:image/png;base64,iVBORw0KGgo=", None, FailureCode.URI_SCHEME),
        Sample("text.png", b"This is no picture, whatever its name says.\n" * 20, unsupported),
        Sample("nul.png", bytes(4096), unsupported),
        Sample("page.jpg", b"<!doctype html><title>404 Not Found</title>", unsupported),
        Sample("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0h9"/></svg>', unsupported),
        Sample("print.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", unsupported),
        Sample("paper.png", b"%PDF-1.7\n%%EOF\n", unsupported),
        Sample("truncated.jpg", jpeg[: len(jpeg) // 2], broken),
        Sample("truncated.png", png[: len(png) // 2], broken),
        Sample("truncated.webp", webp[: len(webp) // 2], broken),
        Sample("truncated.gif", gif[: len(gif) // 2], broken),
        Sample("truncated.tif", tiff[: len(tiff) // 2], broken),
        Sample("signature_only.png", png[:8], broken),
        Sample("header_only.jpg", jpeg[:20], broken),
        Sample("corrupt.png", png[:60] + bytes(64) + png[124:], broken),
        Sample("no_pixels.png", png_file(0, 0, b""), broken),
        Sample("text_bomb.png", text_bomb(), broken),
        Sample("bomb.png", bomb(), FailureCode.TOO_MANY_PIXELS),
        Sample("bomb.bmp", b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24) + bytes(24),
               FailureCode.TOO_MANY_PIXELS),
    ]  # fmt: skip


def good_images() -> list[Sample]:
    """Odd images that every one must get a vector."""
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = photo()
    clear = picture.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(picture.size))
    palette = picture.quantize(16)
    frames = [picture, picture.rotate(90)]
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16))
    encodings: dict[str, Callable[[], bytes]] = {
        "plain.png": lambda: encoded(picture, "PNG"),
        "plain.jpg": lambda: encoded(picture, "JPEG"),
        "plain.webp": lambda: encoded(picture, "WEBP"),
        "plain.bmp": lambda: encoded(picture, "BMP"),
        "plain.tif": lambda: encoded(picture, "TIFF"),
        "lzw.tif": lambda: encoded(picture, "TIFF", compression="tiff_lzw"),
        "png_named.jpg": lambda: encoded(picture, "PNG"),
        "turned.jpg": lambda: encoded(picture, "JPEG", exif=turned),
        "progressive.jpg": lambda: encoded(picture, "JPEG", progressive=True),
        "cmyk.jpg": lambda: encoded(picture.convert("CMYK"), "JPEG"),
        "grey.jpg": lambda: encoded(picture.convert("L"), "JPEG"),
        "black_and_white.png": lambda: encoded(picture.convert("1"), "PNG"),
        "deep.png": lambda: encoded(deep, "PNG"),
        "deep.tif": lambda: encoded(deep, "TIFF"),
        "float.tif": lambda: encoded(Image.fromarray(np.asarray(deep, np.float32) / 65535), "TIFF"),
        "palette.png": lambda: encoded(palette, "PNG"),
        "palette_clear.png": lambda: encoded(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "rgba.png": lambda: encoded(clear, "PNG"),
        "rgba.webp": lambda: encoded(clear, "WEBP", lossless=True),
        "la.png": lambda: encoded(clear.convert("LA"), "PNG"),
        "animated.gif": lambda: encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": lambda: encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "animated.png": lambda: encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "pages.tif": lambda: encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "one_pixel.png": lambda: encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
        "line.png": lambda: encoded(Image.new("RGB", (900, 1), "red"), "PNG"),
        "100%25 plain.png": lambda: encoded(picture, "PNG"),
        "ünïcode/größe 図.png": lambda: encoded(picture, "PNG"),
    }
    return [Sample(name, encode(), None) for name, encode in encodings.items()]


def write_images(folder: Path, samples: Iterable[Sample]) -> None:
    """Write `samples` below `folder`, so that each uri meets what it says."""
    for sample in samples:
        path = folder / sample.name
        if sample.code is FailureCode.NOT_A_FILE:
            path.mkdir(parents=True)
        if sample.data is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.data)


def photo(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """A picture with an up, a left and some grain, so that every turn and every cut of it shows."""
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(seed).integers(0, 32, (height, width))
    samples = np.stack([x * 220 // width + grain, y * 220 // height + grain, (x + y) % 7 * 30 + grain], axis=-1)
    return Image.fromarray(samples.astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """`image` as a file of the format `form`."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A good PNG of 400 million pixels in some 200 kB."""
    rows = zlib.compressobj(1)
    data = b"".join([rows.compress(bytes(2501 * 1000)) for _ in range(20)] + [rows.flush()])
    return png_file(20_000, 20_000, data, depth=1)


def text_bomb() -> bytes:
    """A good picture whose PNG text unpacks to 80 MB."""
    text = b"Comment\0\0" + zlib.compress(bytes(80 * 2**20), 1)
    return png_file(1, 1, zlib.compress(bytes(2)), extra=png_chunk(b"zTXt", text))


def png_file(width: int, height: int, data: bytes, *, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG written chunk by chunk: what no library would write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), extra, png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
