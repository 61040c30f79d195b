"""Counted: a number with its noun, as people write it."""


def counted(count: int, one: str, many: str = "") -> str:
    """`1 row`, `2 rows`; `many` where an s at the end does not do."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
