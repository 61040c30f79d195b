"""The live view: a look at the fleet as tables in colour, for a terminal; everything in it is text and nothing more."""

from typing import TYPE_CHECKING

from producer.duration import duration
from producer.fleet_look import AnswerLook, FleetLook, JobLook
from schemas.counted import counted
from schemas.failures import one_line
from schemas.redaction import redact

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_BAR = 24
#: Workers that are listed; of more, how many there are.
_WORKERS = 16
_LONGEST = 60


def rendered(look: FleetLook) -> "RenderableType":
    """The whole view."""
    from rich.console import Group

    parts: list[RenderableType] = [*map(_job, look.jobs), *map(_answer, look.answers)]
    if look.queues:
        parts.append(_queues(look))
    if look.workers:
        parts.append(_workers(look))
    if look.problem:
        parts.append(_text(look.problem, "bold red"))
    return Group(*parts)


def _job(job: JobLook) -> "RenderableType":
    """Name and state, a bar, the rate; failures by code; in red what keeps it."""
    from rich.console import Group
    from rich.text import Text

    status = job.status
    share = job.done / status.rows if status.rows else 1.0
    head = Text.assemble(
        (_word(status.job), "bold"), "  ", (str(status.state), "cyan"), "  ", _word(status.model), no_wrap=True
    )
    bar = _bar(
        share,
        f"{job.done:,} of {status.rows:,} {job.words.rows}, {status.published:,} of {counted(status.shards, 'shard')}",
    )
    lines = [head, bar, _speed(job)]
    if status.failures:
        told = ", ".join(f"{code} {count:,}" for code, count in status.failures.items())
        lines.append(Text(f"{status.failed:,} failed: {told}", "yellow"))
    red = [job.stall, *status.notes]
    lines += [_text(word, "bold red") for word in red if word]
    return Group(*lines, Text(""))


def _bar(share: float, words: str) -> "Text":
    from rich.text import Text

    filled = int(share * _BAR)
    return Text.assemble(
        ("━" * filled, "green"), ("━" * (_BAR - filled), "bright_black"), f" {100 * share:5.1f} %  {words}"
    )


def _answer(answer: AnswerLook) -> "RenderableType":
    """Name and state, a bar where it is known how much there is, and in red that it stands still."""
    from rich.console import Group
    from rich.text import Text

    seen = answer.standing
    state = "finished" if seen.finished else "unfinished"
    head = Text.assemble((_word(seen.id), "bold"), "  ", (state, "cyan"), no_wrap=True)
    known = _bar(seen.panels_done / seen.panels, answer.words) if seen.panels else Text(answer.words)
    stall = [_text(answer.stall, "bold red")] if answer.stall else []
    return Group(head, known, *stall, Text(""))


def _speed(job: JobLook) -> "Text":
    from rich.text import Text

    if not job.is_under_way:
        return Text("")
    if job.rate is None:
        return Text("warming up" if not job.done else "waiting for the next shard", "bright_black")
    eta = f", ETA {duration(job.eta_s)}" if job.eta_s is not None else ""
    return Text(f"{job.rate:,.1f} {job.words.rows}/s{eta}")


def _queues(look: FleetLook) -> "Table":
    table = _table("queue", "shards left", "messages", "workers")
    for queue in look.queues:
        told = (queue.left, queue.waiting, queue.workers)
        cells = ["?" if value is None else f"{value:,}" for value in told]
        style = "bold red" if queue.is_unserved else ""
        table.add_row(*(_text(cell, style) for cell in (queue.name, *cells)))
    return table


def _workers(look: FleetLook) -> "Table":
    table = _table("worker", "host", "device", "size", "model", "queues", numbers=False)
    for worker in look.workers[:_WORKERS]:
        model = look.models.get(worker.models[-1], worker.models[-1][:12]) if worker.models else "none yet"
        cells = (worker.name, worker.host, worker.device, worker.size, model, ", ".join(worker.queues))
        table.add_row(*(_text(cell) for cell in cells))
    if len(look.workers) > _WORKERS:
        table.add_row(_text(f"and {len(look.workers) - _WORKERS:,} more"))
    return table


def _table(*heads: str, numbers: bool = True) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bright_black")
    for n, head in enumerate(heads):
        table.add_column(head, justify="right" if numbers and n else "left", overflow="ellipsis", no_wrap=True)
    return table


def _text(words: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text(one_line(redact(words)), style)


def _word(words: str) -> str:
    """A name that others gave, short and on one line."""
    safe = one_line(redact(words))
    return safe if len(safe) <= _LONGEST else f"{safe[: _LONGEST - 1]}…"
