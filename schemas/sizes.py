"""Sizes: the classes of devices that models are routed by, from the smallest to the largest."""

from schemas.errors import Refused

CPU = "cpu"
#: GiB of device memory that each size promises; a processor's memory is its host's.
GIB: dict[str, int] = {CPU: 0, "gpu8": 8, "gpu16": 16, "gpu24": 24, "gpu48": 48, "gpu80": 80}
SIZES = tuple(GIB)
#: Cards are sold by round numbers, and hold a little less: a "24 GB" card may show 22.5 GiB.
_SHOWN = 0.92


def require_size(size: str) -> str:
    """`size`, if it is one; raises Refused."""
    if size not in GIB:
        raise Refused(f"{size} is no size; give one of {', '.join(SIZES)}")
    return size


def smallest_holding(gib: float) -> str | None:
    """The smallest GPU size with so many GiB, or None where no device is large enough."""
    return next((size for size in SIZES if size != CPU and gib <= GIB[size]), None)


def size_of_device(gib: float) -> str:
    """The largest GPU size that a device which shows so many GiB fills; below 8 GiB it is used like a processor."""
    return [size for size in SIZES if gib >= GIB[size] * _SHOWN][-1]


def up_to(size: str) -> tuple[str, ...]:
    """`size` and all smaller ones, the largest first: what a device of that size serves."""
    return tuple(reversed(SIZES[: SIZES.index(require_size(size)) + 1]))


def above(size: str) -> tuple[str, ...]:
    """The sizes larger than `size`, the smallest first."""
    return SIZES[SIZES.index(require_size(size)) + 1 :]
