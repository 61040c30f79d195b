"""Sizes and the order of queues."""

import pytest

from schemas.errors import Refused
from schemas.queue_order import LargestSizeFirst
from schemas.sizes import above, require_size, size_of_device, smallest_holding, up_to


@pytest.mark.parametrize(
    ("shown", "size"),
    [(0.5, "cpu"), (7.6, "gpu8"), (15.7, "gpu16"), (22.5, "gpu24"), (44.5, "gpu48"), (79.2, "gpu80"), (139.0, "gpu80")],
)
def test_a_device_has_the_largest_size_that_it_fills(shown: float, size: str) -> None:
    """Cards show a little less than the number that they are sold by."""
    assert size_of_device(shown) == size


def test_a_worker_serves_its_own_size_and_smaller_ones_and_never_larger_ones() -> None:
    """A model that does not fit must not arrive."""
    assert up_to("gpu16") == ("gpu16", "gpu8", "cpu")
    assert above("gpu16") == ("gpu24", "gpu48", "gpu80")


def test_the_smallest_size_that_holds_a_model_is_chosen() -> None:
    """And none where there is none."""
    assert [smallest_holding(gib) for gib in (7.4, 20.0, 79.0, 100.0)] == ["gpu8", "gpu24", "gpu80", None]


def test_a_word_that_is_no_size_is_refused() -> None:
    """With the ones that there are."""
    with pytest.raises(Refused, match="gpu12 is no size; give one of cpu, gpu8"):
        require_size("gpu12")


def test_large_work_is_taken_before_small_work_and_modalities_in_turns() -> None:
    """A large device must not be busy with small work while large work waits."""
    order = LargestSizeFirst()
    order.update({"embed.text.cpu", "embed.image.cpu", "embed.text.gpu8", "embed.image.gpu24"})

    before = order.consume(4)
    order.rotate("embed.image.cpu")

    assert before == ["embed.image.gpu24", "embed.text.gpu8", "embed.image.cpu", "embed.text.cpu"]
    assert order.consume(4)[2:] == ["embed.text.cpu", "embed.image.cpu"]
