"""The command `rerank`: an edge that parses words, and takes a job of pairs to its end or hands it over."""

from enum import StrEnum
from typing import Annotated

import typer

from producer.broker_options import BrokerUrl, InsecureBroker
from producer.error_limit import ErrorLimit
from producer.job_options import AllowUnpinned, DtypeName, Model, SizeName
from producer.reporting import WithReport


class ActivationName(StrEnum):
    """What `--activation` takes."""

    DEFAULT = "default"
    NONE = "none"
    SIGMOID = "sigmoid"


def rerank(
    pairs: Annotated[
        str,
        typer.Argument(
            help="The pairs: the folder of a join, or a .parquet, .jsonl, .csv or .tsv file with two columns of ids, "
            "query_id and item_id, or left_id and right_id. A path or s3:// URL."
        ),
    ],
    left: Annotated[
        str, typer.Option("--left", help="What the queries' ids name: a manifest, or the folder of an embed job.")
    ],
    right: Annotated[
        str, typer.Option("--right", help="What the items' ids name: a manifest, or the folder of an embed job.")
    ],
    model: Model,
    out: Annotated[
        str, typer.Option("--out", "-o", help="The job's folder, or s3://bucket/prefix.", envvar="EMBEDMILL_OUT")
    ],
    query_column: Annotated[
        str, typer.Option("--query-column", help="The pairs' column of query ids.", show_default=False)
    ] = "",
    item_column: Annotated[
        str, typer.Option("--item-column", help="The pairs' column of item ids.", show_default=False)
    ] = "",
    id_column: Annotated[
        str,
        typer.Option("--id-column", help="The manifests' column that identifies a row.", envvar="EMBEDMILL_ID_COLUMN"),
    ] = "id",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            "-k",
            help="A column of the pairs to copy into the output: name, or name:string|int64|float64|bool; a join's "
            "score and rank as join_score and join_rank. Repeatable.",
        ),
    ] = None,
    selective: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--selective",
            metavar="LOW HIGH",
            help="Score only pairs whose score in the join is from LOW to HIGH; those above stay first, those below "
            "last, in the join's order and with no score.",
        ),
    ] = None,
    activation: Annotated[
        ActivationName,
        typer.Option(
            "--activation",
            help="What is made of raw scores: none; sigmoid, 0 to 1; default: what the model was saved with.",
            envvar="EMBEDMILL_ACTIVATION",
        ),
    ] = ActivationName.DEFAULT,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", "--instruction", help="What the model is told to judge by; default: what its card says."
        ),
    ] = None,
    max_length: Annotated[
        int,
        typer.Option(
            "--max-length",
            min=0,
            help="Tokens of a pair, longer ones are cut off; 0: as many as the model takes.",
            envvar="EMBEDMILL_MAX_LENGTH",
        ),
    ] = 0,
    dtype: Annotated[
        DtypeName | None,
        typer.Option(
            "--dtype",
            help="Type of the computation; default: float32 on processors, half precision on GPUs. Scores are float32.",
            envvar="EMBEDMILL_DTYPE",
        ),
    ] = None,
    size: Annotated[
        SizeName | None,
        typer.Option(
            "--size",
            help="The class of device that the job is for; default: the smallest that holds the model.",
            envvar="EMBEDMILL_JOB_SIZE",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse all pairs at the first line that is none.", envvar="EMBEDMILL_STRICT"),
    ] = False,
    media_root: Annotated[
        list[str] | None,
        typer.Option(
            "--media-root",
            help="A folder, a s3://, gs:// or az:// prefix, or an https://host that media may be read from. "
            "Repeatable; default: the folders of both sides, and any public https host.",
        ),
    ] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Read media over http:// too.", envvar="EMBEDMILL_ALLOW_HTTP")
    ] = False,
    allow_private_hosts: Annotated[
        bool,
        typer.Option(
            "--allow-private-hosts",
            help="Read media from hosts with private addresses too: this machine's, your network's.",
            envvar="EMBEDMILL_ALLOW_PRIVATE_HOSTS",
        ),
    ] = False,
    allow_unpinned: AllowUnpinned = False,
    shard_seconds: Annotated[
        float,
        typer.Option(
            "--shard-seconds",
            min=0.01,
            help="Size of a shard, in estimated seconds of one CPU core; a query's items are one shard in any case.",
            envvar="EMBEDMILL_SHARD_SECONDS",
        ),
    ] = 30.0,
    max_pixels: Annotated[
        int,
        typer.Option("--max-pixels", min=1, help="Images of more pixels are failures.", envvar="EMBEDMILL_MAX_PIXELS"),
    ] = 50_000_000,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", "-w", min=0, help="Worker processes; 0: one for each usable core.", envvar="EMBEDMILL_WORKERS"
        ),
    ] = 0,
    max_errors: Annotated[
        int, typer.Option("--max-errors", min=0, help="Stop when more pairs than this failed; 0: any number may fail.")
    ] = 0,
    max_error_rate: Annotated[
        float,
        typer.Option(
            "--max-error-rate",
            min=0.0,
            max=1.0,
            help="Stop when more than this share failed, of 200 pairs or more; 1: any.",
        ),
    ] = 0.5,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Cut the pairs into shards and pin the job; score nothing.")
    ] = False,
    submit: Annotated[
        bool, typer.Option("--submit", help="Hand the job to the coordinator that listens on --broker-url.")
    ] = False,
    broker_url: BrokerUrl = "",
    insecure_broker: InsecureBroker = False,
    with_report: WithReport = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for scripts.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", envvar="EMBEDMILL_QUIET")] = False,
) -> None:
    """Score pairs of queries and items with a reranker, on this machine, from start to end.

    \b
    embedmill rerank pairs.jsonl --left queries.jsonl --right items.jsonl --model models/reranker --out scores

    Writes query_id, item_id, score and rank, 1 for a query's best item. Texts and media of either side, whatever pairs
    the model takes. Each pair ends with one score or one failure; `status`, `verify`, `retry`, `cancel` and `gc` work
    on it like on any job, and the same command goes on where it was.
    """
    from producer.cli import command_line, drive_here, show_status, submit_job
    from producer.prepare import resume
    from producer.recipes import Wishes
    from producer.rerank_job import RerankRequest, prepare_rerank
    from producer.screen import Words, open_screen
    from schemas.rerank import Activation, Scoring

    request = RerankRequest(
        pairs=pairs,
        left=left,
        right=right,
        model=model,
        out=out,
        query_column=query_column,
        item_column=item_column,
        id_column=id_column,
        keep=tuple(keep or ()),
        strict=strict,
        media_roots=tuple(media_root or ()),
        allow_unpinned=allow_unpinned,
        allow_http=allow_http,
        allow_private=allow_private_hosts,
        shard_seconds=shard_seconds,
        max_pixels=max_pixels,
        band=selective,
        scoring=Scoring(activation=Activation(activation.value), max_length=max_length),
        wishes=Wishes(prompt=prompt, dtype=dtype.value if dtype else "", size=size.value if size else ""),
    )
    limit = ErrorLimit(rows=max_errors, rate=max_error_rate)
    if submit:
        if not broker_url:
            raise typer.BadParameter("--submit needs the --broker-url that the coordinator listens on")
        submit_job(
            lambda progress: prepare_rerank(request, progress=progress),
            broker_url=broker_url,
            insecure=insecure_broker,
            limit=limit,
            as_json=as_json,
            quiet=quiet,
        )
        return
    again = command_line()
    with open_screen(quiet=quiet or as_json, words=Words.of("rerank")) as screen:
        job = prepare_rerank(request, progress=screen.planning)
    if plan_only:
        show_status(job, as_json=as_json)
        return
    resume(job)
    drive_here(
        job,
        workers=workers,
        broker_url=broker_url,
        insecure=insecure_broker,
        as_json=as_json,
        quiet=quiet,
        again=again,
        limit=limit,
        with_report=with_report,
    )
