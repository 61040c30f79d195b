"""Shrinking: a picture is brought to the size that the model's processor would bring it to, where it is decoded.

The processor's own resize, by Pillow and with the same filter, then finds nothing to do: the pixels are the same to
the bit, and a photo of 1280 x 960 leaves its decoder as 200 kB instead of 3.7 MB.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrink:
    """The size that pictures are brought to: the shorter edge, or height and width."""

    shortest_edge: int = 0
    height: int = 0
    width: int = 0
    resample: int = int(Image.Resampling.BICUBIC)

    def target(self, width: int, height: int) -> tuple[int, int]:
        """The width and height that a picture of this size is brought to, as transformers rounds them."""
        if not self.shortest_edge:
            return self.width, self.height
        longer = int(self.shortest_edge * max(width, height) / min(width, height))
        return (self.shortest_edge, longer) if width <= height else (longer, self.shortest_edge)

    def apply(self, image: Image.Image) -> Image.Image:
        """The picture at its target's size; as it is where that has no fewer pixels."""
        width, height = self.target(image.width, image.height)
        if width * height >= image.width * image.height:
            return image
        return image.resize((width, height), Image.Resampling(self.resample))


def shrink_of(processor: Any) -> Shrink | None:
    """What an image processor of transformers' Pillow backend resizes to; None where it is another, or does more."""
    from transformers.image_processing_backends import PilBackend

    kind, backend = type(processor), cast("Any", PilBackend)  # transformers is typed in part
    if not isinstance(processor, backend) or not getattr(processor, "do_resize", False):
        return None
    if kind.resize is not backend.resize or kind._preprocess is not backend._preprocess:
        return None
    size, resample = dict(processor.size), processor.resample
    given = {name for name, value in size.items() if value}
    resample = int(Image.Resampling.BILINEAR if resample is None else resample)
    if given == {"shortest_edge"}:
        return Shrink(shortest_edge=int(size["shortest_edge"]), resample=resample)
    if given == {"height", "width"}:
        return Shrink(height=int(size["height"]), width=int(size["width"]), resample=resample)
    return None


def trial_picture(shrink: Shrink) -> Image.Image:
    """Noise that is half as wide again as high, and well above the target: a wrong filter or rounding is seen in it."""
    edge = 2 * max(shrink.shortest_edge, shrink.height, shrink.width) + 7
    noise = np.random.default_rng(0).integers(0, 256, (edge, edge * 3 // 2, 3), np.uint8)
    return Image.fromarray(noise)
