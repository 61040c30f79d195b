"""`embedmill watch`: jobs, queues and workers as they go; a live view on a terminal, plain lines elsewhere."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from producer.broker_options import BrokerUrl

if TYPE_CHECKING:
    from producer.board import RedisBoard
    from producer.coordinator import Progress
    from producer.fleet_look import FleetLook, FleetWatch, JobLook
    from producer.screen import LineScreen

#: Seconds between two looks for jobs that were submitted meanwhile.
_LOOK_EVERY_S = 10.0


def watch(
    out: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OUT",
            help="Folders or URLs of jobs, joins and dedups; none: all jobs that were submitted on --broker-url.",
            show_default=False,
        ),
    ] = None,
    broker_url: BrokerUrl = "",
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Follow jobs, joins and dedups until each is finished, stopped or cancelled.

    \b
    embedmill watch /shared/vectors
    embedmill watch

    On a terminal: jobs with rate, ETA and failures by code, and with --broker-url queues and workers with their device
    and model; what stands still is red. Elsewhere a plain line now and then. Without a folder it shows every submitted
    job, and goes on until Ctrl-C. Exits like `status`, of several jobs with the highest code.
    """
    import contextlib
    from functools import partial

    from producer.board import RedisBoard
    from producer.cli import job_at, show_standing, show_status
    from producer.fleet_look import FleetWatch
    from producer.interrupts import Interrupted, interruptible
    from similarity.standing import standing
    from storage.answers import answer_in
    from storage.store import canonical_location, open_store

    if not out and not broker_url:
        raise typer.BadParameter("give a job's folder, or --broker-url to see all that were submitted there")
    board = RedisBoard(broker_url) if broker_url else None  # it only looks
    stores = {place: open_store(canonical_location(place)) for place in out or ()}
    answers = {place: store for place, store in stores.items() if answer_in(store)}
    fleet = FleetWatch(
        [job_at(place) for place in stores if place not in answers],
        board,
        answers=[partial(standing, store, {}) for store in answers.values()],
    )
    with contextlib.suppress(Interrupted), interruptible():
        _follow(fleet, board if not out else None, every)
    codes = [show_status(job, as_json=False, broker_url=broker_url) for job in fleet.jobs]
    codes += [show_standing(store, as_json=False) for store in answers.values()]
    raise typer.Exit(max(codes, default=0))


def _follow(fleet: "FleetWatch", board: "RedisBoard | None", every: float) -> None:
    """Show looks until no job is under way; with a board, for ever, and new jobs are taken in."""
    import time

    from producer.cli import job_at
    from producer.fleet_look import submitted_jobs

    next_search = 0.0
    with _View() as show:
        while True:
            if board is not None and time.monotonic() >= next_search:
                next_search = time.monotonic() + _LOOK_EVERY_S
                for job in submitted_jobs(board, job_at, fleet.jobs):
                    fleet.add(job)
            look = fleet.look()
            if look.is_over and board is None:
                return
            show(look)
            time.sleep(every)


class _View:
    """A live view on a terminal, else lines; on stderr."""

    def __enter__(self) -> "Callable[[FleetLook], None]":
        import sys

        from rich.console import Console
        from rich.live import Live

        self._live: Live | None = None
        self._lines: dict[str, LineScreen] = {}
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True, highlight=False), auto_refresh=False, transient=True)
            self._live.start()
        return self._show

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _show(self, look: "FleetLook") -> None:
        from producer.live_view import rendered
        from producer.screen import LineScreen, Words

        if self._live is not None:
            self._live.update(rendered(look), refresh=True)
            return
        several = len(look.jobs) + len(look.answers) > 1
        for answer in look.answers:
            seen = answer.standing
            self._lines.setdefault(seen.id, LineScreen(Words("panels"))).note(
                f"{seen.id}: {answer.words}" + (f" ({answer.stall})" if answer.stall else "")
            )
        for job in look.jobs:
            name = f"{job.status.job}: " if several else ""
            screen = self._lines.setdefault(job.status.job, LineScreen(job.words, prefix=name))
            screen.show(_progress_of(job))


def _progress_of(job: "JobLook") -> "Progress":
    from producer.coordinator import Progress

    seen = job.status
    return Progress(
        shards=seen.shards,
        published=seen.published,
        rows=seen.rows,
        rows_done=job.done,
        failed=seen.failed,
        sent=0,
        workers=max((queue.workers or 0 for queue in seen.queues), default=0),
        done=False,
        note="; ".join(filter(None, [job.stall, *seen.notes])),
    )
