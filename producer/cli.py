"""The command line: an edge that parses words, puts the parts together, and calls one function a command."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.broker_options import BrokerUrl, InsecureBroker
from producer.cli_bench import bench
from producer.cli_completion import completion
from producer.cli_dedup import dedup
from producer.cli_eval import evaluate
from producer.cli_export import export
from producer.cli_failures import failures
from producer.cli_join import join
from producer.cli_monitor import monitor
from producer.cli_report import report
from producer.cli_rerank import rerank
from producer.cli_search import search
from producer.cli_watch import watch
from producer.error_limit import ErrorLimit
from producer.job_options import AllowUnpinned, OnlyModality, SizeName, seconds_of, takes_job
from producer.reporting import WithReport
from producer.spend_options import Deadline, MaxCost, Price, SpendWords, spend_words
from schemas.counted import counted
from schemas.errors import EmbedmillError, LimitReached, Refused
from schemas.visible import visible, visible_lines

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

    from producer.board import RedisBoard
    from producer.broker import EmbeddedBroker
    from producer.doctor import Finding
    from producer.prepare import JobRequest
    from producer.screen import Screen
    from producer.spending import SpendLimit
    from schemas.model_cards import ModelCard
    from storage.jobs import Job
    from storage.model_catalog import KnownModel
    from storage.store import Store
    from workers.supervise import Fleet

EPILOG = (
    "Exit codes: 0 all rows have a vector; 1 finished, with failures; 2 refused (usage, spec, unsafe); "
    "3 stopped and resumable; 4 the same, by --max-cost or --deadline; 70 worker must restart; "
    "71 device must not be used again."
)

app = typer.Typer(
    name="embedmill",
    help="Bulk embedding with sentence-transformers: a manifest in, Parquet vectors out, each row exactly once.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command below it too
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="What models there are, and what embedmill knows of one.", no_args_is_help=True)
app.add_typer(models_app, name="models")


JobFolder = Annotated[str, typer.Argument(metavar="OUT", help="The job's folder, or s3://bucket/prefix.")]
WorkerCount = Annotated[
    int,
    typer.Option(
        "--workers", "-w", min=0, help="Worker processes; 0: one for each usable core.", envvar="EMBEDMILL_WORKERS"
    ),
]
PlannedWorkers = Annotated[
    int, typer.Option("--workers", "-w", min=0, help="Workers that the time is estimated for; 0: this machine's.")
]
Roots = Annotated[
    list[str],
    typer.Option("--root", help="A folder or s3:// prefix that jobs and media may lie in. Repeatable."),
]
Metrics = Annotated[
    str,
    typer.Option(
        "--metrics",
        metavar="[HOST:]PORT",
        help="Serve /metrics for Prometheus there; beyond 127.0.0.1 only with EMBEDMILL_METRICS_TOKEN set.",
        envvar="EMBEDMILL_METRICS",
    ),
]
MaxErrors = Annotated[
    int,
    typer.Option("--max-errors", min=0, help="Stop when more rows than this failed; 0: any number may fail."),
]
MaxErrorRate = Annotated[
    float,
    typer.Option(
        "--max-error-rate", min=0.0, max=1.0, help="Stop when more than this share failed, of 200 rows or more; 1: any."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for scripts.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.", envvar="EMBEDMILL_QUIET")]

#: Seconds that workers get to end their shard when a limit is reached: it is paid for already.
_DRAIN_S = 120.0
#: Seconds that workers get to end their shard after Ctrl-C.
_GRACE_S = 20.0
#: Characters of a key that nobody tries out.
_LEAST_KEY = 24
#: What Typer makes of Ctrl-C.
_INTERRUPTED = 130


@app.command(epilog=EPILOG)
@takes_job
def run(
    request: "JobRequest",
    workers: WorkerCount = 0,
    max_errors: MaxErrors = 0,
    max_error_rate: MaxErrorRate = 0.5,
    price: Price = None,
    max_cost: MaxCost = 0.0,
    deadline: Deadline = "",
    broker_url: BrokerUrl = "",
    insecure_broker: InsecureBroker = False,
    with_report: WithReport = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Embed a manifest on this machine, from start to end.

    \b
    embedmill run texts.jsonl --model minilm --out vectors

    Starts a Redis server and workers of its own, shows progress, and stops them at the end. Called again with the same
    arguments it goes on where it was, or, finished, says so at once; with other arguments it refuses and names the
    difference. Ctrl-C leaves a job that can be resumed.

    \b
    The manifest has the columns
      id        text or integer; another name: --id-column
      modality  text, image, audio, video, mixed; may be left out where the row tells
      text      of a text
      uri       of a medium: relative to the manifest, absolute, https://, s3://, or archive.tar::member
      parts     of a mixed row: a list of {"text": ...} and {"uri": ...}; text and uri together are a mixed row too
    and any others; --keep copies them. A folder of media needs no manifest: each file's path is its id.
    """
    from producer.cli_estimate import estimate_here
    from producer.prepare import prepare_job, resume
    from producer.screen import open_screen

    again, spend = command_line(), spend_words(price, max_cost, deadline)
    with open_screen(quiet=quiet or as_json) as screen:
        job = prepare_job(request, progress=screen.planning)
    spend.limit_for(job.record.spec.size)
    estimate_here(job, workers=workers, words=spend, thorough=False)
    resume(job)
    drive_here(
        job,
        workers=workers,
        broker_url=broker_url,
        insecure=insecure_broker,
        as_json=as_json,
        quiet=quiet,
        again=again,
        limit=ErrorLimit(rows=max_errors, rate=max_error_rate),
        spend=spend,
        with_report=with_report,
    )


@app.command(epilog=EPILOG)
@takes_job
def plan(
    request: "JobRequest",
    workers: PlannedWorkers = 0,
    price: Price = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut a manifest into shards and pin the job, without embedding anything.

    \b
    embedmill plan texts.jsonl --model minilm --out vectors

    Says how many rows, shards and rejects there are, and what the job will take: seconds of one worker by queue, bytes,
    a span of time, and with --price what it costs; from the rates of jobs before, else of `embedmill bench`, else
    guessed. Some media are loaded for that. `run` or `submit` with the same arguments takes it from there.
    """
    from producer.cli_estimate import estimate_here
    from producer.prepare import prepare_job
    from producer.screen import open_screen

    words = spend_words(price)
    with open_screen(quiet=quiet or as_json) as screen:
        job = prepare_job(request, progress=screen.planning)
    estimate_here(job, workers=workers, words=words, thorough=True)
    show_status(job, as_json=as_json)


@app.command(epilog=EPILOG)
@takes_job
def submit(
    request: "JobRequest",
    broker_url: BrokerUrl,
    max_errors: MaxErrors = 0,
    max_error_rate: MaxErrorRate = 0.5,
    price: Price = None,
    max_cost: MaxCost = 0.0,
    deadline: Deadline = "",
    insecure_broker: InsecureBroker = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Plan a job and hand it to the coordinator and workers that listen on a Redis.

    \b
    export EMBEDMILL_BROKER_URL=redis://:password@127.0.0.1:6379/0
    embedmill submit texts.jsonl --model minilm --out /shared/vectors
    embedmill watch /shared/vectors

    Needs one `embedmill coordinate` and any number of `embedmill worker`, on any machines that see --out.
    Safe to repeat; it takes a cancelled job up again.
    """
    from producer.prepare import prepare_job

    submit_job(
        lambda progress: prepare_job(request, progress=progress),
        broker_url=broker_url,
        insecure=insecure_broker,
        limit=ErrorLimit(rows=max_errors, rate=max_error_rate),
        spend=spend_words(price, max_cost, deadline),
        as_json=as_json,
        quiet=quiet,
    )


@app.command(epilog=EPILOG)
def status(
    out: JobFolder,
    broker_url: BrokerUrl = "",
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Look into every shard of a job of 5,000 or more; else its coordinator's last note is shown.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say where a job stands: rows, failures by code, queues, and what waits for what.

    \b
    embedmill status vectors

    Read from the job's folder alone; with --broker-url also from Redis. Exits 0 when all rows have a vector, 1 when the
    job is finished with failures, 3 when rows are left. Of a join or a dedup: how many panels are done.
    """
    from storage.answers import answer_in
    from storage.store import canonical_location, open_store

    store = open_store(canonical_location(out))
    if answer_in(store):
        raise typer.Exit(show_standing(store, as_json=as_json))
    raise typer.Exit(show_status(job_at(out), as_json=as_json, broker_url=broker_url, exact=exact))


@app.command(epilog=EPILOG)
def cancel(
    out: JobFolder,
    broker_url: BrokerUrl = "",
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for the workers.")] = 120.0,
) -> None:
    """Stop a job and return when no worker is busy with it.

    \b
    embedmill cancel /shared/vectors

    What is published stays; `submit` or `run` with the same arguments takes the job up again.
    """
    from producer.cancelling import cancel_job

    job, board = job_at(out), _board(broker_url)
    still = cancel_job(job, board, timeout_s=timeout)
    if still:
        _say(f"{job.id}: cancelled; {counted(still, 'shard is', 'shards are')} still in work after {timeout:.0f} s")
        raise typer.Exit(3)
    elsewhere = "; an `embedmill run` of it ends within seconds, workers elsewhere at their next shard"
    _say(f"{job.id}: cancelled" + ("" if board else elsewhere))


@app.command(epilog=EPILOG)
def retry(
    out: JobFolder,
    code: Annotated[
        list[str] | None, typer.Option("--code", help="Only failures with this code. Repeatable; default: all.")
    ] = None,
    workers: WorkerCount = 0,
    broker_url: BrokerUrl = "",
    insecure_broker: InsecureBroker = False,
    with_report: WithReport = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do the failed rows of a finished job again, and only those.

    \b
    embedmill retry vectors --code not_found

    Rows that succeed now are added to the data; what was published before does not change.
    """
    from producer.prepare import resume
    from producer.retry import plan_retry

    job = job_at(out)
    if plan_retry(job, tuple(sorted(set(code or ())))) is None:
        _say(
            f"{job.id}: no row failed" + (f" with {', '.join(code)}" if code else "") + "; there is nothing to do again"
        )
        raise typer.Exit(show_status(job, as_json=as_json))
    resume(job)
    drive_here(
        job,
        workers=workers,
        broker_url=broker_url,
        insecure=insecure_broker,
        as_json=as_json,
        quiet=quiet,
        again=command_line(),
        with_report=with_report,
    )


@app.command(epilog=EPILOG)
def verify(
    out: JobFolder,
    receipt: Annotated[
        str,
        typer.Option("--receipt", help="Write what was proved to this file, as JSON; `-`: to stdout, alone."),
    ] = "",
    against: Annotated[
        str, typer.Option("--against", help="A receipt of this job: what is not as it says is wrong.")
    ] = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prove, from the files of a job or a join alone, that each row has one outcome and that no bit has changed.

    \b
    embedmill verify vectors
    embedmill verify vectors --receipt vectors.receipt.json
    embedmill verify vectors --against vectors.receipt.json

    Reads every byte: plan, vectors, failures, digests; a file at a time, without Redis. A receipt lists every file with
    its sha256, the plan, the space, the model and what wrote it; years later --against proves that all is as it was.
    Exits 0 when all is right and complete, 1 when something is wrong, 3 when all is right so far and the job has not
    ended.
    """
    import json

    from producer.receipt import differences, make_receipt, read_receipt, require_writable
    from producer.verify import verify_store
    from schemas.redaction import redact
    from storage import layout
    from storage.store import canonical_location, open_store

    if receipt == "-" and as_json:
        raise typer.BadParameter("--receipt - and --json both write to stdout; leave one away")
    require_writable(receipt)
    earlier = read_receipt(against) if against else None
    store = open_store(canonical_location(out))
    if any(store.size(record) is not None for record in (layout.JOIN, layout.DEDUP)):
        if receipt or against:
            raise typer.BadParameter("--receipt and --against are for jobs; joins and dedups are proved by their files")
        raise typer.Exit(_verify_answers(store, as_json=as_json))
    job, verdict = verify_store(store)
    if earlier and job:
        for difference in differences(earlier, job, verdict):
            verdict.blame(difference)
    name = job.id if job else redact(store.url)
    if receipt:
        _write_receipt(receipt, make_receipt(store.url, job, verdict))
    if as_json:
        print(json.dumps({"job": job.id if job else None, **verdict.to_dict()}))
    else:
        print(visible_lines("\n".join(verdict.lines(name))), file=sys.stderr if receipt == "-" else sys.stdout)
    raise typer.Exit(0 if verdict.complete else 3 if verdict.ok else 1)


def _verify_answers(store: "Store", *, as_json: bool) -> int:
    """Prove a join or a dedup."""
    import json
    from dataclasses import asdict

    from similarity.dedup_proof import prove_dedup
    from similarity.join_proof import prove_join
    from storage import layout

    verdict = prove_join(store) if store.size(layout.JOIN) is not None else prove_dedup(store)
    print(json.dumps(asdict(verdict)) if as_json else visible_lines("\n".join(verdict.lines())))
    return 0 if verdict.complete else 1 if verdict.problems else 3


app.command(epilog=EPILOG)(join)


@app.command(epilog=EPILOG)
def gc(
    out: JobFolder,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without it they are only listed.")] = False,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            help="Leave what was written since: 90m, 24h, 7d. Files of processes that have provably ended go anyway.",
            envvar="EMBEDMILL_OLDER_THAN",
        ),
    ] = "24h",
    as_json: Json = False,
) -> None:
    """List what killed processes and lost races left in a job's folder, and with --delete remove it.

    \b
    embedmill gc vectors
    embedmill gc vectors --delete

    Only what is the job's own, by name and by content: private files below _tmp/, failures of attempts that were
    second, plans that no job was made of. Nothing that may be in use, nothing that it does not know. Safe at any time.
    """
    import json
    from dataclasses import asdict

    from producer.leftovers import find_leftovers, remove
    from storage.answers import answer_in
    from storage.jobs import find_job, open_job
    from storage.store import canonical_location, open_store

    store = open_store(canonical_location(out))
    job = find_job(store)
    found = list(find_leftovers(store, job, older_than_s=seconds_of(older_than), now=time.time()))
    if job is None and not found and not answer_in(store):
        open_job(store)  # says that there is none
    if delete:
        found = [leftover for leftover in found if remove(leftover, store, job)]
    total = sum(leftover.size for leftover in found)
    if as_json:
        files = [asdict(leftover) for leftover in found]
        print(json.dumps({"job": job.id if job else None, "deleted": delete, "bytes": total, "files": files}))
        return
    for leftover in found:
        print(f"{visible(leftover.key)}  {leftover.size:,} bytes: {leftover.why}")
    count = "1 leftover" if len(found) == 1 else f"{len(found):,} leftovers"
    ending = "removed" if delete else "nothing was removed: that takes --delete"
    print(f"{count}, {total:,} bytes; {ending}" if found else "nothing is left over")


def _write_receipt(place: str, data: bytes) -> None:
    if place == "-":
        sys.stdout.write(f"{data.decode()}\n")
    else:
        Path(place).write_bytes(data)


@app.command(epilog=EPILOG)
def worker(
    root: Roots,
    broker_url: BrokerUrl,
    workers: WorkerCount = 0,
    modality: OnlyModality = None,
    queues: Annotated[
        str,
        typer.Option(
            "--queues",
            help="Serve only these queues, comma-separated, as embed.text.cpu; default: all that the device can.",
            envvar="EMBEDMILL_QUEUES",
            show_default=False,
        ),
    ] = "",
    device: Annotated[
        str,
        typer.Option(
            "--device", help="auto (all GPUs, else the processor), cpu, cuda, or cuda:N.", envvar="EMBEDMILL_DEVICE"
        ),
    ] = "auto",
    size: Annotated[
        SizeName | None,
        typer.Option(
            "--size", help="Take the device for one of this size; default: by its memory.", envvar="EMBEDMILL_SIZE"
        ),
    ] = None,
    allow_private_hosts: Annotated[
        bool,
        typer.Option(
            "--allow-private-hosts",
            help="Do jobs that read media from hosts with private addresses.",
            envvar="EMBEDMILL_ALLOW_PRIVATE",
        ),
    ] = False,
    metrics: Metrics = "",
    insecure_broker: InsecureBroker = False,
) -> None:
    """Serve the queues of a Redis with this machine's devices.

    \b
    embedmill worker --root /shared --workers 8
    embedmill worker --root /shared --device cuda:0

    One process for each GPU, or without one for each core. A process holds as many models as its memory takes, and
    serves its own size first, smaller sizes when that is empty, larger ones never. Only jobs and media below --root
    are touched. Ends with Ctrl-C or SIGTERM: what is in work is finished first.
    """
    from dataclasses import replace

    from producer.interrupts import Interrupted, interruptible
    from schemas.rows import Modality
    from schemas.settings import Settings
    from workers.crew import crew_settings
    from workers.devices import find_devices
    from workers.supervise import Fleet

    _safe(broker_url, insecure_broker)
    message_key()
    crew = crew_settings(
        replace(Settings.from_environ(os.environ), allow_private=allow_private_hosts),
        broker_url=broker_url,
        roots=tuple(root),
        devices=find_devices(device, size=size.value if size else ""),
        count=workers,
        modalities=tuple(Modality(m.value) for m in modality or ()),
        queues=tuple(name.strip() for name in queues.split(",") if name.strip()),
    )
    first = crew[0]
    counts = tempfile.TemporaryDirectory(prefix="embedmill-counts-") if metrics else None
    if counts is not None:
        from workers.metrics import fleet_registry

        serve_metrics(fleet_registry(Path(counts.name)), metrics)
    fleet = Fleet(crew, counts=Path(counts.name) if counts else None)
    serve = f"{counted(len(crew), 'worker')} on {first.device} ({first.size}) {'serves' if len(crew) == 1 else 'serve'}"
    _say(f"{serve} {', '.join(first.queues)}; Ctrl-C ends {'it' if len(crew) == 1 else 'them'}")
    try:
        with interruptible():
            fleet.start()
            while True:
                fleet.watch()
                time.sleep(0.5)
    except Interrupted:
        _say("ending: shards in work are finished first; once more ends at once")
    finally:
        _stop(fleet, _GRACE_S)
        if counts is not None:
            counts.cleanup()


@app.command(epilog=EPILOG)
def coordinate(
    root: Roots,
    broker_url: BrokerUrl,
    insecure_broker: InsecureBroker = False,
    metrics: Metrics = "",
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when no submitted job is left.")] = False,
    with_report: WithReport = True,
) -> None:
    """Drive every submitted job: fill the queues, send again what was lost, finish.

    \b
    embedmill coordinate --root /shared

    One is enough; a second one waits. It may be killed at any moment: the next one looks into the store and goes on.
    """
    from producer.board import RedisBoard
    from producer.foreman import Foreman
    from producer.interrupts import Interrupted, interruptible
    from producer.reporting import ReportDesk
    from producer.task_queue import CeleryQueue

    url = _safe(broker_url, insecure_broker)
    board = RedisBoard(url)
    desk, key = ReportDesk(_say, roots=tuple(root)), message_key()
    foreman = Foreman(
        tuple(root),
        board=board,
        queue=CeleryQueue(url, key=key),
        say=_say,
        ended=(lambda job: desk.ask(job.store.url)) if with_report else None,
    )
    if metrics:
        from producer.coordinator_metrics import coordinator_registry

        serve_metrics(coordinator_registry(foreman, board.workers), metrics)
    try:
        with interruptible():
            while foreman.tick() or not until_idle:
                time.sleep(0.5)
            desk.wait()
    except Interrupted:
        _say("ended; jobs go on when a coordinator is started again")
    finally:
        foreman.release()


@app.command(epilog=EPILOG)
def chaos(
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="A store to try: jobs go to a new folder below it. Default: a private one."),
    ] = "",
    broker_url: BrokerUrl = "",
    insecure_broker: InsecureBroker = False,
    wipe: Annotated[
        bool, typer.Option("--wipe", help="With --broker-url: embedmill's own keys there may be wiped, nothing else.")
    ] = False,
    rows: Annotated[
        int, typer.Option("--rows", min=50, help="Rows of a job; jobs follow each other as long as faults are left.")
    ] = 3000,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, help="Workers, each with a process that computes.")
    ] = 3,
    faults: Annotated[int, typer.Option("--faults", min=0, help="Faults in all, of every kind; or say which:")] = 24,
    kills: Annotated[int | None, typer.Option("--kills", min=0, help="SIGKILL to workers.")] = None,
    restarts: Annotated[
        int | None, typer.Option("--restarts", min=0, help="Redis killed and started empty; our own only.")
    ] = None,
    wipes: Annotated[int | None, typer.Option("--wipes", min=0, help="Redis wiped.")] = None,
    partitions: Annotated[
        int | None, typer.Option("--partitions", min=0, help="A worker cut off from Redis: silence, resets, latency.")
    ] = None,
    pauses: Annotated[int | None, typer.Option("--pauses", min=0, help="SIGSTOP to workers for five leases.")] = None,
    terms: Annotated[
        int | None, typer.Option("--terms", min=0, help="SIGTERM to workers, as before a preemption.")
    ] = None,
    coordinators: Annotated[
        int | None, typer.Option("--coordinators", min=0, help="Coordinators killed, doubled, paused.")
    ] = None,
    store_faults: Annotated[
        int | None, typer.Option("--store-faults", min=0, help="The store slow, failing, full, its replies lost.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", min=0, help="Shards sent to eight workers at once.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Replays a schedule: faults, order, victims, pauses.")
    ] = None,
    as_json: Json = False,
    report: Annotated[str, typer.Option("--report", help="A Markdown file to write the report to.")] = "",
    quiet: Quiet = False,
) -> None:
    """Break a mill on purpose, and prove that nothing is lost, doubled, torn or wrong.

    \b
    embedmill chaos
    embedmill chaos --out s3://bucket/try --broker-url redis://:password@127.0.0.1:6379/9 --wipe

    Starts workers and coordinators of its own, gives them jobs with good and with corrupt rows, kills, pauses and cuts
    them off by a seeded schedule, and compares every published row with what must have become of it. Takes about a
    minute. --seed replays the schedule, not the operating system's timing.

    On a Redis of yours it uses job ids of its own and touches no other key; it refuses one that is in use. In a store
    of yours it makes one folder, and removes it. Exits 0 when every promise was kept, 1 when one was broken (what was
    found is kept), 2 when refused, 3 when stopped.
    """
    import json
    import random

    from chaos.mill import MillOptions
    from chaos.report import report_json, report_lines, report_page
    from chaos.run import ChaosOptions, run_chaos
    from chaos.schedule import Group, share_out
    from producer.interrupts import Interrupted, interruptible

    named = dict(
        zip(
            Group, (kills, restarts, wipes, partitions, pauses, terms, coordinators, store_faults, repeats), strict=True
        )
    )
    counts = {group: count for group, count in named.items() if count is not None}
    if not counts:
        not_there = {Group.RESTARTS, *(() if wipe else (Group.WIPES,))} if broker_url else set()
        counts = share_out(faults, without=frozenset(not_there))
    seed = random.randrange(10**6) if seed is None else seed  # noqa: S311  # a seed, no secret
    options = ChaosOptions(
        counts=counts,
        seed=seed,
        out=out,
        broker_url=_safe(broker_url, insecure_broker) if broker_url else "",
        wipe=wipe,
        mill=MillOptions(location="", workers=workers, rows=rows),
    )
    again = command_line() + ("" if any(word.startswith("--seed") for word in sys.argv) else f" --seed {seed}")
    if not quiet:
        _say(f"seed {seed}; the same schedule again: {again}")
    try:
        with interruptible():
            outcome = run_chaos(options, say=(lambda line: None) if quiet else _say)
    except Interrupted:
        _say("stopped; every process of the run has ended")
        raise typer.Exit(3) from None
    if report:
        Path(report).write_text(report_page(outcome, again))
    print(json.dumps(report_json(outcome) | {"again": again}) if as_json else "\n".join(report_lines(outcome)))
    if not outcome.ok:
        _say(f"a promise was broken; look into {outcome.kept}; the same schedule again: {again}")
    raise typer.Exit(0 if outcome.ok else 1)


@app.command(epilog=EPILOG)
def doctor(
    broker_url: BrokerUrl = "",
    out: Annotated[str, typer.Option("--out", help="A store to try: does it create only what is absent?")] = "",
    model: Annotated[list[str] | None, typer.Option("--model", help="A model to look at. Repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Look at everything a job needs, and say the fix for what is wrong.

    \b
    embedmill doctor --out vectors --model minilm

    What to do by symptom, and about sizes, upgrades and disasters: docs/operations.md.
    """
    import json
    from dataclasses import asdict

    from producer.doctor import examine

    findings = [
        *examine(broker_url=broker_url, location=out, models=tuple(model or ("minilm", "demo"))),
        *_examine_workers(),
    ]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{'ok ' if finding.ok else 'BAD'}  {finding.what}: {visible(finding.seen)}")
            if not finding.ok:
                print(f"     fix: {visible(finding.fix)}")
        print("by symptom, and for sizes, upgrades and disasters: docs/operations.md")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 2)


def _examine_workers() -> "Iterator[Finding]":
    """What a worker of this machine would compute on, and whether its decoders can be locked in."""
    from producer.doctor import Finding
    from workers.decoders import DecodeLimits, Decoders
    from workers.devices import find_devices

    devices = ", ".join(f"{d.name} ({d.size}, {d.gib:.1f} GiB)" for d in find_devices())
    yield Finding(what="devices", ok=True, seen=devices)
    decoders = Decoders(count=1, limits=DecodeLimits())
    try:
        decoders.image(b"")
    except EmbedmillError as err:
        yield Finding(what="decoders", ok=False, seen=str(err), fix="install embedmill anew; av, soundfile and soxr")
        return
    finally:
        decoders.close()
    jailed = bool(decoders.jailed)
    seen = "locked in: no files, no network, no programs" if jailed else "limits of memory and time only"
    yield Finding(what="decoders", ok=jailed, seen=seen, fix="allow the container seccomp, or trust the media")


@models_app.command("list", epilog=EPILOG)
def list_models(as_json: Json = False) -> None:
    """List the models that have a short name: dimensions, size of device, what they take.

    \b
    embedmill models list

    Cards of your own: ~/.config/embedmill/models.toml, or the TOML files that EMBEDMILL_MODELS names.
    """
    import json
    from dataclasses import asdict

    from producer.model_words import listed
    from storage.model_files import describe_models

    known = describe_models()
    if as_json:
        print(json.dumps([asdict(model) | {"modalities": sorted(model.modalities)} for model in known]))
        return
    print(visible_lines("\n".join(map(listed, known))))
    print("\nAny other: org/name@<40-hex commit>, or a local folder; `embedmill models inspect` says what it takes.")


@models_app.command("show", epilog=EPILOG)
def show_model(
    name: Annotated[str, typer.Argument(help="Like --model.")],
    allow_unpinned: AllowUnpinned = False,
    as_json: Json = False,
) -> None:
    """Say what embedmill knows of one model, and what device it needs; a card's files are not looked at.

    \b
    embedmill models show qwen3-vl-embedding-8b
    """
    from producer.model_words import known_model
    from storage.model_files import resolve_model

    known = known_model(name)
    needs_files = known is None or not known.repository
    card = resolve_model(name, allow_unpinned=allow_unpinned).card if needs_files or known is None else known.sketch()
    _show_card(card, known, as_json=as_json)


@models_app.command("inspect", epilog=EPILOG)
def inspect_model(
    name: Annotated[str, typer.Argument(help="Like --model; most useful for a local folder or a hub id.")],
    allow_unpinned: AllowUnpinned = False,
    as_json: Json = False,
) -> None:
    """Read a model's configs and the heads of its weights, and try whether it can be fed here; no weight is loaded.

    \b
    embedmill models inspect /models/my-clip

    Exits 2 when its processor or tokenizer cannot be built on this machine.
    """
    from producer.model_words import known_model
    from storage.model_files import resolve_model
    from workers.processor_check import check_processor

    model = resolve_model(name, allow_unpinned=allow_unpinned)
    problem = check_processor(model.folder) if model.folder and model.card.family != "conse" else None
    _show_card(model.card, known_model(name), as_json=as_json, problem=problem or "")
    if problem:
        raise typer.Exit(2)


def _show_card(card: "ModelCard", known: "KnownModel | None", *, as_json: bool, problem: str | None = None) -> None:
    """Print a card; `problem` is what keeps it from being fed here, "" for nothing, None where it was not tried."""
    import json

    from producer.model_words import card_fields, card_lines

    if as_json:
        print(json.dumps(card_fields(card) | ({} if problem is None else {"problem": problem or None})))
        return
    print(visible_lines("\n".join(card_lines(card, known))))
    if problem is not None:
        print(f"{'here':11} {visible(problem) or 'it can be fed on this machine'}")


app.command(epilog=EPILOG)(bench)
app.command(epilog=EPILOG)(dedup)
app.command(epilog=EPILOG)(monitor)
app.command(epilog=EPILOG)(report)
app.command(epilog=EPILOG)(rerank)
app.command("eval", epilog=EPILOG)(evaluate)
app.command(epilog=EPILOG)(failures)
app.command(epilog=EPILOG)(search)
app.command(epilog=EPILOG)(watch)
app.command(epilog=EPILOG)(export)
app.command(epilog=EPILOG)(completion)


def main() -> None:
    """The program: our errors become one line and an exit code; anything else is a bug and keeps its traceback."""
    from producer.completion import is_asked
    from producer.ending import Ending

    if is_asked():
        app(prog_name="embedmill")  # exits with the code that the shell waits for
    ending = Ending()
    ending.code = _run()
    sys.exit(ending.code)


def _run() -> int:
    """Run the command that the arguments name; the exit code."""
    from producer.interrupts import interruptible

    try:
        with interruptible():
            code = app(prog_name="embedmill", standalone_mode=False)
            sys.stdout.flush()  # here, where a closed pipe is expected; at exit Python would complain
    except EmbedmillError as err:
        _say(f"embedmill: {visible(str(err))}")
        return err.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as err:
        code = _usage_error(err)
        if code is None:
            raise
    if code == _INTERRUPTED:
        _say("embedmill: stopped; the same command goes on")
        return 3
    return code if isinstance(code, int) else 0


def _usage_error(err: Exception) -> int | None:
    """Say a wrong word in one line; None for what is no usage error: Typer's own classes have no public name."""
    message = getattr(err, "format_message", None)
    if message is None:
        return None
    command = getattr(getattr(err, "ctx", None), "command_path", "embedmill")
    if type(err).__name__ == "NoArgsIsHelpError":
        print(message())
        return 2
    words = " ".join(message().split()).replace("Value error, ", "").rstrip(".")
    if words.startswith("Missing option '--model'"):
        words += "; `embedmill models list` shows them, minilm (texts) and demo (texts and pictures) need no hub"
    _say(f"embedmill: {words}; see `{command} --help`")
    return 2


def _say(line: str) -> None:
    print(visible_lines(line), file=sys.stderr, flush=True)


def command_line() -> str:
    import shlex

    from schemas.redaction import redact

    return shlex.join(["embedmill", *map(redact, sys.argv[1:])])


def drive_here(
    job: "Job",
    *,
    workers: int,
    broker_url: str,
    insecure: bool,
    as_json: bool,
    quiet: bool,
    again: str,
    limit: ErrorLimit | None = None,
    spend: SpendWords | None = None,
    with_report: bool = False,
) -> None:
    """Take `job` to its end with workers of this machine; exits with the job's code."""
    from producer.interrupts import Interrupted, interruptible
    from producer.screen import Words, open_screen
    from producer.status import JobState, job_status

    before, started = job_status(job), time.monotonic()
    if before.state is JobState.FINISHED:
        raise typer.Exit(_show_end(job, as_json=as_json, seconds=None, done_before=before.rows))
    try:
        words = Words.of(job.record.spec.kind)
        with interruptible(), open_screen(quiet=quiet or as_json, words=words) as screen:
            _mill(
                job,
                screen,
                count=workers or _sensible_count(before.shards - before.published),
                broker_url=broker_url,
                insecure=insecure,
                limit=limit,
                spend=(spend or SpendWords()).limit_for(job.record.spec.size),
            )
    except Interrupted:
        _say(f"stopped; to go on: {again}")
        raise typer.Exit(3) from None
    except LimitReached:
        seconds = time.monotonic() - started
        _report(job, with_report)
        _show_end(job, as_json=as_json, seconds=seconds, done_before=before.rows_ok + before.failed)
        raise
    except EmbedmillError:
        _say(f"to go on: {again}")
        raise
    _remember(job)
    seconds = time.monotonic() - started
    _report(job, with_report)
    raise typer.Exit(_show_end(job, as_json=as_json, seconds=seconds, done_before=before.rows_ok + before.failed))


def _report(job: "Job", wanted: bool) -> None:
    """Have the report made; Ctrl-C ends that alone."""
    from producer.interrupts import Interrupted, interruptible
    from producer.reporting import report_on

    if wanted:
        try:
            with interruptible():
                report_on(job.store.url, _say)
        except Interrupted:
            _say("no report: interrupted; the job is as it was")


def _remember(job: "Job") -> None:
    from producer.remembering import remember_rates
    from schemas.settings import Settings
    from storage.rates_file import RatesFile

    remember_rates(job, RatesFile(Settings.from_environ(os.environ).memory_dir))


def submit_job(
    prepare: "Callable[[Callable[[int], None]], Job]",
    *,
    broker_url: str,
    insecure: bool,
    limit: ErrorLimit,
    spend: SpendWords | None = None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Prepare a job and hand it to whatever coordinator listens on the Redis."""
    from producer.board import RedisBoard
    from producer.cli_estimate import estimate_here
    from producer.prepare import resume
    from producer.screen import open_screen
    from storage import layout

    board = RedisBoard(_safe(broker_url, insecure))
    board.workers()  # an unreachable Redis is said before a long plan
    with open_screen(quiet=quiet or as_json) as screen:
        job = prepare(screen.planning)
    spending = (spend or SpendWords()).limit_for(job.record.spec.size)
    estimate_here(job, workers=0, words=spend or SpendWords(), thorough=False)
    resume(job)
    job.store.replace(layout.SUBMITTED, limit.to_json(spend_limit=spending.to_dict()))
    board.uncancel(job.id)
    board.submit(job.id, job.store.url)
    show_status(job, as_json=as_json, broker_url=broker_url)


def _mill(
    job: "Job",
    screen: "Screen",
    *,
    count: int,
    broker_url: str,
    insecure: bool,
    limit: ErrorLimit | None,
    spend: "SpendLimit",
) -> None:
    """A broker, a fleet and a coordinator, for the length of one job."""
    from dataclasses import replace

    from producer.board import RedisBoard
    from producer.cancelling import wait_for_workers
    from producer.driving import drive
    from producer.interrupts import Interrupted
    from producer.task_queue import CeleryQueue
    from schemas.settings import Settings
    from workers.crew import crew_settings, require_served
    from workers.devices import find_devices
    from workers.supervise import Fleet

    devices = find_devices(os.environ.get("EMBEDMILL_DEVICE", "auto"), size=os.environ.get("EMBEDMILL_SIZE", ""))
    with _broker(broker_url, insecure) as (url, broker), tempfile.TemporaryDirectory(prefix="embedmill-logs-") as logs:
        roots = (
            job.store.url,
            *job.record.spec.reuse,
            *(r for r in job.record.spec.media_roots if not r.startswith("http")),
        )
        settings = replace(Settings.from_environ(os.environ), allow_private=job.record.spec.allow_private)
        crew = crew_settings(settings, broker_url=url, roots=roots, devices=devices, count=count)
        if not broker_url:
            require_served(job.record.spec, crew)
        fleet = Fleet(crew, logs=Path(logs))
        grace = 1.0  # at the end nothing is in work
        try:
            fleet.start()
            board, queue = RedisBoard(url), CeleryQueue(url, key=message_key())
            drive(job, board=board, queue=queue, screen=screen, crew=fleet, broker=broker, limit=limit, spend=spend)
        except LimitReached:
            screen.say("a limit is reached: shards in work are finished first")
            wait_for_workers(job, board, timeout_s=_DRAIN_S)
            raise
        except Interrupted:
            screen.say("stopping: shards in work are finished first; Ctrl-C again stops at once")
            grace = _GRACE_S
            raise
        except EmbedmillError:
            words = _last_words(Path(logs))
            if words:
                screen.say(words)
            raise
        finally:
            _stop(fleet, grace)


def _last_words(logs: Path) -> str:
    """The last tracebacks and errors that the workers logged, each once: their logs go with the run."""
    import json

    lines = [
        line for log in sorted(logs.glob("worker-*.log")) for line in log.read_text("utf-8", "replace").splitlines()
    ]
    said: dict[str, None] = {}
    for line in lines:
        with contextlib.suppress(ValueError):  # what is no JSON is Celery's banner
            event = json.loads(line)
            if event.get("level") in ("error", "critical"):
                said[str(event.get("exception") or event["message"])] = None
    return "\n".join(["the workers' last words:", *list(said)[-3:]]) if said else ""


@contextlib.contextmanager
def _broker(broker_url: str, insecure: bool) -> Iterator[tuple[str, "EmbeddedBroker | None"]]:
    from producer.board import RedisBoard
    from producer.broker import EmbeddedBroker

    if broker_url:
        url = _safe(broker_url, insecure)
        RedisBoard(url).workers()  # an unreachable Redis is said before workers are started
        yield url, None
        return
    with EmbeddedBroker() as broker:
        yield broker.url, broker


def _stop(fleet: "Fleet", grace_s: float) -> None:
    from producer.interrupts import Interrupted, interruptible

    try:
        with interruptible():
            fleet.stop(grace_s=grace_s)
    except Interrupted:
        fleet.stop(grace_s=0.0)


def _sensible_count(shards: int) -> int:
    from workers.supervise import usable_cores

    return max(1, min(usable_cores(), shards))


def serve_metrics(registry: "CollectorRegistry", address: str) -> None:
    """Serve `registry` at `address` for as long as this process lives; says where."""
    from producer.metrics_server import MetricsServer, address_of

    host, port = address_of(address)
    server = MetricsServer(registry, host=host, port=port, token=os.environ.get("EMBEDMILL_METRICS_TOKEN", ""))
    _say(f"metrics at http://{host}:{server.port}/metrics")


def message_key() -> str:
    """The key that messages are signed with, or ""; raises Refused for one that could be guessed."""
    from schemas.settings import Settings

    key = Settings.from_environ(os.environ).message_key
    if key and len(key) < _LEAST_KEY:
        raise Refused(
            f"EMBEDMILL_MESSAGE_KEY has {len(key)} characters; take {_LEAST_KEY} or more, as random as can be"
        )
    return key


def _safe(broker_url: str, insecure: bool) -> str:
    from producer.broker import require_safe

    return require_safe(broker_url, insecure=insecure)


def job_at(out: str) -> "Job":
    from schemas.errors import Refused
    from storage.answers import answer_in
    from storage.jobs import open_job
    from storage.store import canonical_location, open_store

    store = open_store(canonical_location(out))
    kind = answer_in(store)
    if kind:
        raise Refused(
            f"{out} holds a {kind} and no job: `status`, `watch`, `report`, `verify` and `gc` work on it, "
            f"`embedmill {kind}` goes on"
        )
    return open_job(store)


def show_standing(store: "Store", *, as_json: bool) -> int:
    """Say how far a join or a dedup is."""
    import json

    from similarity.standing import standing

    seen = standing(store)
    print(json.dumps(seen.to_dict()) if as_json else visible_lines("\n".join(seen.lines())))
    return 0 if seen.finished else 3


def _board(broker_url: str) -> "RedisBoard | None":
    from producer.board import RedisBoard

    return RedisBoard(_safe(broker_url, insecure=True)) if broker_url else None  # it only looks


def show_status(job: "Job", *, as_json: bool, broker_url: str = "", exact: bool = False) -> int:
    import json

    from producer.status import JobState, job_status
    from producer.summary import status_lines

    seen = job_status(job, _board(broker_url), exact=exact)
    print(json.dumps(seen.to_dict()) if as_json else visible_lines("\n".join(status_lines(seen))))
    if seen.state is not JobState.FINISHED:
        return 3
    return 1 if seen.failed or seen.rejects else 0


def _show_end(job: "Job", *, as_json: bool, seconds: float | None, done_before: int) -> int:
    from producer.status import job_status
    from producer.summary import summary_json, summary_lines
    from schemas.model_cards import Kind
    from schemas.rows import Modality

    seen = job_status(job)
    done_now = max(0, seen.rows_ok + seen.failed - done_before)
    if as_json:
        print(summary_json(seen, seconds=seconds, done_now=done_now))
    else:
        searchable = job.record.spec.kind == Kind.EMBED and Modality.TEXT in job.record.spec.takes
        lines = summary_lines(seen, seconds=seconds, done_now=done_now, searchable=searchable)
        print(visible_lines("\n".join(lines)))
    return 1 if seen.failed or seen.rejects else 0
