"""`embedmill join`: an edge that parses words and calls one function."""

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from producer.broker_options import BrokerUrl, Distributed, InsecureBroker, PanelSize
from producer.job_options import SizeName
from producer.reporting import WithReport
from schemas.join import Device, Integers, Precision, Score
from schemas.sizes import CPU
from schemas.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.phases import Comparison

Side = Annotated[str, typer.Argument(help="A finished job's folder or URL, or Parquet with ids and vectors.")]
_LINE_EVERY_S = 5.0


def join(
    left: Side,
    right: Side,
    out: Annotated[
        str, typer.Option("--out", "-o", help="The join's own folder, or s3://bucket/prefix.", envvar="EMBEDMILL_OUT")
    ],
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="The best so many of each left row.", show_default="10")
    ] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="Only pairs of at least this score.")] = None,
    fpr: Annotated[
        float | None,
        typer.Option("--fpr", help="Only pairs of a score that this share of random pairs reaches, such as 0.001."),
    ] = None,
    score: Annotated[Score, typer.Option("--score", help="How pairs are scored; docs/joins.md says which.")] = (
        Score.COSINE
    ),
    mutual: Annotated[
        bool, typer.Option("--mutual", help="Only pairs of which each is among the other's --top-k (1 without it).")
    ] = False,
    no_self: Annotated[bool, typer.Option("--no-self", help="Of a set with itself: no row is its own neighbour.")] = (
        False
    ),
    left_modality: Annotated[
        str | None, typer.Option("--left-modality", help="Where the left job has more than one.")
    ] = None,
    right_modality: Annotated[
        str | None, typer.Option("--right-modality", help="Where the right job has more than one.")
    ] = None,
    left_column: Annotated[str, typer.Option("--left-column", help="The column of the left vectors.")] = "embedding",
    right_column: Annotated[str, typer.Option("--right-column", help="The column of the right vectors.")] = "embedding",
    left_id: Annotated[str, typer.Option("--left-id", help="The column of the left ids.")] = "id",
    right_id: Annotated[str, typer.Option("--right-id", help="The column of the right ids.")] = "id",
    integers: Annotated[
        Integers | None, typer.Option("--integers", help="What int8 and uint8 columns are that no job wrote.")
    ] = None,
    keep_left: Annotated[
        list[str] | None, typer.Option("--keep-left", help="A left column to copy, as left.NAME. Repeatable.")
    ] = None,
    keep_right: Annotated[
        list[str] | None, typer.Option("--keep-right", help="A right column to copy, as right.NAME. Repeatable.")
    ] = None,
    max_pairs: Annotated[
        int, typer.Option("--max-pairs", min=1, help="Stop rather than find more; resumable with a higher one.")
    ] = 50_000_000,
    memory: Annotated[
        str, typer.Option("--memory", help="What vectors, scores and pairs may take up beside the program itself.")
    ] = "1GB",
    threads: Annotated[int, typer.Option("--threads", min=0, help="0: one for each usable core.")] = 0,
    device: Annotated[
        Device, typer.Option("--device", help="What to compute on; no answer depends on it.")
    ] = Device.AUTO,
    precision: Annotated[
        Precision,
        typer.Option("--precision", help="In how many bits to look for pairs; scores are exact whatever it is."),
    ] = Precision.AUTO,
    distributed: Distributed = False,
    broker_url: BrokerUrl = "",
    size: PanelSize = None,
    insecure_broker: InsecureBroker = False,
    funnel: Annotated[
        str,
        typer.Option(
            "--funnel",
            help="Not exact: scan coarse and score again fine, such as binary,int8,float32; the recall is measured.",
        ),
    ] = "",
    oversample: Annotated[
        int, typer.Option("--oversample", min=1, help="With --funnel: so many times what the next stage keeps.")
    ] = 8,
    force: Annotated[
        bool, typer.Option("--force", help="Compare vectors of different spaces; the output says so.")
    ] = False,
    with_report: WithReport = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Find the pairs of rows of two jobs whose vectors are nearest, exactly, and write them as Parquet.

    \b
    embedmill join queries images --top-k 10 --score csls --out pairs
    embedmill join texts texts --no-self --threshold 0.9 --out alike

    Columns: left_id, right_id, score, rank (1 is the best of its left id). The answer depends on no block, thread or
    machine: by score, ties by row. Killed at any moment, the same command goes on; `verify` proves the result.
    """
    from similarity.join_request import JoinRequest, SideRequest, bytes_of
    from similarity.joining import join_here

    request = JoinRequest(
        left=SideRequest(
            location=left,
            modality=left_modality,
            column=left_column,
            id_column=left_id,
            keep=tuple(keep_left or ()),
            integers=integers,
        ),
        right=SideRequest(
            location=right,
            modality=right_modality,
            column=right_column,
            id_column=right_id,
            keep=tuple(keep_right or ()),
            integers=integers,
        ),
        score=score,
        top_k=top_k,
        threshold=threshold,
        fpr=fpr,
        mutual=mutual,
        not_self=no_self,
        force=force,
        memory=bytes_of(memory),
        threads=threads or usable_threads(),
        device=device,
        precision=precision,
        funnel=tuple(filter(None, funnel.split(","))),
        oversample=oversample,
        distributed=distributed,
    )
    progress = nothing if quiet or as_json else Lines()
    spread = spreading(distributed, broker_url, insecure_broker, size, max_pairs, quiet or as_json)
    done = join_here(request, out, max_pairs=max_pairs, progress=progress, spread=spread)
    print(json.dumps(done.to_dict()) if as_json else visible(done.line))
    if done.forced and not as_json:
        print(f"{done.join}: FORCED: the spaces differ in {', '.join(done.forced)}", file=sys.stderr)
    if with_report:
        report_beside(out, quiet=quiet or as_json)


def report_beside(out: str, *, quiet: bool) -> None:
    """Have the report of a join or a dedup made, and say where it lies."""
    from producer.reporting import report_on
    from schemas.redaction import redact
    from storage import layout
    from storage.store import canonical_location

    place = canonical_location(out)
    if report_on(place, lambda line: print(visible(line), file=sys.stderr)) and not quiet:
        print(f"report: {visible(redact(place))}/{layout.REPORT}", file=sys.stderr)


class Lines:
    """A plain line of progress now and then."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, stage: str, done: int, panels: int, pairs: int) -> None:
        from schemas.counted import counted

        now = time.monotonic()
        if now - self._last > _LINE_EVERY_S:
            self._last = now
            told = f", {counted(pairs, 'pair')}" if pairs else ""
            print(f"{stage}: {done} of {counted(panels, 'panel')}{told}", file=sys.stderr, flush=True)


def spreading(
    distributed: bool, broker_url: str, insecure: bool, size: SizeName | None, max_pairs: int, quiet: bool
) -> "Callable[[Comparison], None]":
    """How a join or dedup is computed by the workers on a Redis; not at all unless `distributed`."""
    if not distributed:
        return lambda comparison: None
    if not broker_url:
        raise typer.BadParameter("--distributed needs the --broker-url of the workers that serve join.cpu")
    from producer.board import RedisBoard
    from producer.broker import require_safe
    from producer.cli import message_key
    from producer.distribute import distribute
    from producer.interrupts import Interrupted, interruptible
    from producer.screen import Words, open_screen
    from producer.task_queue import CeleryQueue

    url = require_safe(broker_url, insecure=insecure)
    board = RedisBoard(url)
    board.workers()  # an unreachable Redis is said before anything is read

    def spread(comparison: "Comparison") -> None:
        try:
            with interruptible(), open_screen(quiet=quiet, words=Words("rows", "comparing")) as screen:
                distribute(
                    comparison,
                    board=board,
                    queue=CeleryQueue(url, key=message_key()),
                    screen=screen,
                    size=size.value if size else CPU,
                    max_pairs=max_pairs,
                )
        except Interrupted:
            print("stopped; the same command goes on", file=sys.stderr)
            raise typer.Exit(3) from None

    return spread


def nothing(stage: str, done: int, panels: int, pairs: int) -> None: ...


def usable_threads() -> int:
    from workers.supervise import usable_cores

    return usable_cores()
