"""Words: numbers, sizes and times as the report writes them."""

import datetime

from producer.duration import duration


def number(value: float) -> str:
    """A count, or a number to three digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share(part: float, whole: float) -> str:
    """A share in per cent; never 100 % of what is not whole, nor 0 % of what is not nothing."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def size(bytes_: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if bytes_ < 1024:
            return f"{bytes_:.0f} {unit}" if unit == "B" else f"{bytes_:.1f} {unit}"
        bytes_ /= 1024
    return f"{bytes_:.1f} GiB"


def moment(seconds: float) -> str:
    """Seconds since 1970 as a time, UTC, to the second."""
    told = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return told.strftime("%Y-%m-%d %H:%M:%S UTC")


def lasting(seconds: float) -> str:
    """A time; below ten seconds to a tenth."""
    return f"{seconds:.1f} s" if 0 < seconds < 10 else duration(seconds)
