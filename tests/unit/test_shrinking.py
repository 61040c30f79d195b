"""Pictures brought to their model's size where they are decoded."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests.bad_images import encoded
from workers.decode import decode_image
from workers.decoders import DecodeLimits, Decoders
from workers.shrinking import Shrink, shrink_of, trial_picture

_hf: Any = transformers  # typed in part
SIZES = [(1280, 960), (960, 1280), (301, 224), (1000, 333), (225, 4000), (224, 224), (100, 80), (3000, 60)]


def noise(width: int, height: int) -> Image.Image:
    """Pixels of which none is like its neighbours; seed 7."""
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
@pytest.mark.parametrize("kind", ["edge", "box"])
def test_a_shrunk_picture_gives_the_processor_the_same_pixels(
    size: tuple[int, int], resample: Image.Resampling, kind: str
) -> None:
    """What a model is fed has the same bits, whoever resized the picture."""
    box = {"height": 224, "width": 224}
    if kind == "edge":
        processor = _hf.CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=box, resample=resample)
    else:
        processor = _hf.SiglipImageProcessorPil(size=box, resample=resample)
    shrink, picture = shrink_of(processor), noise(*size)
    assert shrink is not None

    shrunk = shrink.apply(picture)

    whole, less = (processor(each, return_tensors="pt")["pixel_values"] for each in (picture, shrunk))
    assert torch.equal(whole, less)
    assert shrunk.width * shrunk.height <= picture.width * picture.height


def test_a_small_picture_is_left_as_it_is() -> None:
    """What the processor would make larger is not: that would only be more to carry."""
    shrink, picture = Shrink(shortest_edge=224), noise(100, 80)

    assert shrink.apply(picture) is picture


def test_a_processor_that_sizes_by_itself_has_no_shrink() -> None:
    """A processor whose sizes follow from the picture in its own way, or that resizes nothing, gets whole pictures."""
    free = _hf.Siglip2ImageProcessorPil(patch_size=16, max_num_patches=256)
    still = _hf.CLIPImageProcessorPil(do_resize=False)

    assert shrink_of(free) is None
    assert shrink_of(still) is None
    assert shrink_of(object()) is None


def test_a_decoder_gives_the_shrunk_picture() -> None:
    """A picture that is decoded in its process comes out at the size that was asked for, with the same pixels."""
    shrink, data = Shrink(shortest_edge=32), encoded(trial_picture(Shrink(shortest_edge=64)), "PNG")
    decoders = Decoders(count=1, limits=DecodeLimits())

    small = decoders.image(data, shrink=shrink)
    decoders.close()

    whole = decode_image(data, max_pixels=10**6)
    assert isinstance(whole, Image.Image)
    assert isinstance(small, Image.Image)
    assert small.size == shrink.target(*whole.size)
    assert small.tobytes() == shrink.apply(whole).tobytes()
