"""The truth: a manifest of good and of corrupt rows, and what must become of each."""

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

_WORDS = (
    "a",
    "cat",
    "sleeps",
    "on",
    "the",
    "sofa",
    "while",
    "rockets",
    "launch",
    "over",
    "berlin",
    "and",
    "people",
    "sing",
)
#: Of a hundred rows so many have no vector, and so many lines more are no rows at all.
_BAD_SHARE = 0.02
_LONGEST = 60  # words
_IMAGES = 16


@dataclass(slots=True, kw_only=True)
class Truth:
    """What must become of a manifest's lines."""

    manifest: Path
    canary: str  # a word of every text: no log may hold it
    contents: dict[str, bytes] = field(default_factory=dict)  # id -> canonical bytes, of rows with a vector
    labels: dict[str, str] = field(default_factory=dict)  # id -> the kept column's value
    failures: dict[str, str] = field(default_factory=dict)  # id -> code, of rows without a vector
    rejects: Counter[str] = field(default_factory=Counter)  # lines that are no rows, by code

    @property
    def rows(self) -> int:
        return len(self.contents) + len(self.failures)


def write_truth(folder: Path, *, rows: int, seed: int, images: bool = True) -> Truth:
    """Make a manifest of about `rows` rows in `folder`, its media beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)  # noqa: S311  # the same seed makes the same manifest
    truth = Truth(manifest=folder / "rows.jsonl", canary=f"canary{rng.getrandbits(48):012x}")
    lines = [_good_text(truth, rng, n) for n in range(rows)]
    for n in range(max(4, int(rows * _BAD_SHARE))):
        lines.insert(rng.randrange(len(lines)), _bad_text(truth, n))
    lines += _reject_lines(truth)
    if images:
        lines += _image_lines(truth, rng, folder)
    truth.manifest.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return truth


def _good_text(truth: Truth, rng: random.Random, number: int) -> str:
    text = " ".join([truth.canary, *rng.choices(_WORDS, k=rng.randint(1, _LONGEST))])
    return _good(truth, f"t{number:06d}", text.encode(), text=text)


def _good(truth: Truth, item: str, content: bytes, **fields: str) -> str:
    truth.contents[item] = content
    truth.labels[item] = f"label {item}"
    return json.dumps({"id": item, "label": truth.labels[item], **fields})


_BAD_TEXTS = (("text_empty", ""), ("text_empty", " \t "), ("text_nul", "nul \0 inside"), ("text_surrogate", "\ud800"))


def _bad_text(truth: Truth, number: int) -> str:
    code, text = _BAD_TEXTS[number % len(_BAD_TEXTS)]
    return _bad(truth, f"bad{number:06d}", code, text=text)


def _bad(truth: Truth, item: str, code: str, **fields: str) -> str:
    truth.failures[item] = code
    return json.dumps({"id": item, "label": "bad", **fields})


def _reject_lines(truth: Truth) -> list[str]:
    """Lines that are no rows; the second line of an id is none either."""
    truth.rejects.update(broken_line=2, missing_id=1, duplicate_id=1, no_content=1, unknown_modality=1)
    twice = json.dumps({"id": next(iter(truth.contents)), "text": "said before"})
    return [
        '{"id": "cut off", "text": "half a li',
        "no JSON at all",
        json.dumps({"text": "nobody"}),
        twice,
        json.dumps({"id": "hollow"}),
        json.dumps({"id": "smell", "modality": "smell", "uri": "x.smell"}),
    ]


def _image_lines(truth: Truth, rng: random.Random, folder: Path) -> list[str]:
    """Small pictures whose pixels are known, and files that are none."""
    media = folder / "media"
    media.mkdir(exist_ok=True)
    lines = []
    for number in range(_IMAGES):
        picture = Image.new("RGB", (8, 8), tuple(rng.randbytes(3)))
        picture.putpixel((number % 8, number // 8), tuple(rng.randbytes(3)))
        picture.save(media / f"{number}.png")
        lines.append(_good(truth, f"i{number:06d}", b"8x8:" + picture.tobytes(), uri=f"media/{number}.png"))
    whole = (media / "0.png").read_bytes()
    for name, code, data in (
        ("cut.png", "decode_failed", whole[: len(whole) // 2]),
        ("hollow.png", "file_empty", b""),
        ("words.png", "format_unsupported", b"these are words and no picture"),
    ):
        (media / name).write_bytes(data)
        lines.append(_bad(truth, name, code, uri=f"media/{name}"))
    return [*lines, _bad(truth, "gone.png", "not_found", uri="media/gone.png")]
