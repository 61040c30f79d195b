"""Spend options: the words of the command line that say what a job may cost, and what a device costs."""

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from producer.job_options import SizeName, seconds_of

if TYPE_CHECKING:
    from producer.spending import SpendLimit

Price = Annotated[
    list[str] | None,
    typer.Option("--price", help="What a worker of a size costs an hour, as gpu24=0.8 or cpu=0.04. Repeatable."),
]
MaxCost = Annotated[
    float,
    typer.Option(
        "--max-cost",
        min=0.0,
        help="Stop, to be resumed, when workers have cost so much by --price; 0: any.",
        envvar="EMBEDMILL_MAX_COST",
    ),
]
Deadline = Annotated[
    str,
    typer.Option(
        "--deadline",
        help="Stop, to be resumed, at this time: 2h from now, or 2026-12-24T18:00 (local, or with an offset).",
        envvar="EMBEDMILL_DEADLINE",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendWords:
    """What was asked for, before it is known which size of device the job is for."""

    prices: dict[str, float] = field(default_factory=dict)  # an hour, by size
    max_cost: float = 0.0
    deadline: float = 0.0  # seconds since 1970

    def limit_for(self, size: str) -> "SpendLimit":
        """Raises BadParameter where the cost is limited, and a device of the job's size has no price."""
        from producer.spending import SpendLimit

        if self.max_cost and size not in self.prices:
            raise typer.BadParameter(f"--max-cost needs the price of the job's size; give --price {size}=...")
        return SpendLimit(max_cost=self.max_cost, price=self.prices.get(size, 0.0), deadline=self.deadline)


def spend_words(price: list[str] | None, max_cost: float = 0.0, deadline: str = "") -> SpendWords:
    """Parse the words; raises BadParameter naming the one that says nothing."""
    if max_cost and not price:
        raise typer.BadParameter("--max-cost needs --price: what a worker costs an hour, as gpu24=0.8")
    return SpendWords(prices=dict(map(_price, price or ())), max_cost=max_cost, deadline=_moment(deadline))


def _price(text: str) -> tuple[str, float]:
    size, _, amount = text.partition("=")
    try:
        price = float(amount)
    except ValueError:
        price = -1.0
    if size not in set(SizeName) or not 0 <= price < float("inf"):
        sizes = ", ".join(SizeName)
        raise typer.BadParameter(f"--price {text!r} is no price; write SIZE=AMOUNT, where a size is one of {sizes}")
    return size, price


def _moment(text: str) -> float:
    """Seconds since 1970 of a duration from now, or of a date and time."""
    if not text:
        return 0.0
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass  # then it is a duration, or nothing
    try:
        return time.time() + seconds_of(text)
    except typer.BadParameter:
        raise typer.BadParameter(f"--deadline {text!r} is no time; write 90m, 2h, or 2026-12-24T18:00") from None
