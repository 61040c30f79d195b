"""`embedmill dedup`: an edge that parses words and calls one function."""

from typing import Annotated

import typer

from producer.broker_options import BrokerUrl, Distributed, InsecureBroker, PanelSize
from producer.reporting import WithReport
from schemas.join import Integers
from schemas.visible import visible


def dedup(
    source: Annotated[
        str, typer.Argument(metavar="DIR", help="A finished job's folder or URL, or Parquet with ids and vectors.")
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", help="The dedup's own folder, or s3://bucket/prefix.", envvar="EMBEDMILL_OUT")
    ],
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", help="Rows of at least this cosine are near copies; 1: of the same direction only."
        ),
    ] = 0.95,
    keep_by: Annotated[
        str,
        typer.Option(
            "--keep-by",
            help="Of each cluster keep the row with the greatest value in this column; COLUMN:min: the least. Equal "
            "ones, and without it: the first row.",
            show_default=False,
        ),
    ] = "",
    modality: Annotated[
        str, typer.Option("--modality", help="Where the job has more than one.", show_default=False)
    ] = "",
    column: Annotated[str, typer.Option("--column", help="The column of the vectors.")] = "embedding",
    id_column: Annotated[str, typer.Option("--id-column", help="The column of the ids.")] = "id",
    integers: Annotated[
        Integers | None, typer.Option("--integers", help="What int8 and uint8 columns are that no job wrote.")
    ] = None,
    max_pairs: Annotated[
        int, typer.Option("--max-pairs", min=1, help="Stop rather than find more; resumable with a higher one.")
    ] = 50_000_000,
    memory: Annotated[
        str,
        typer.Option("--memory", help="What vectors and pairs may take up beside the program and 100 bytes a row."),
    ] = "1GB",
    threads: Annotated[int, typer.Option("--threads", min=0, help="0: one for each usable core.")] = 0,
    distributed: Distributed = False,
    broker_url: BrokerUrl = "",
    size: PanelSize = None,
    insecure_broker: InsecureBroker = False,
    with_report: WithReport = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for scripts.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Find the copies and near copies in a data set, and the rows to keep.

    \b
    embedmill dedup vectors --out copies
    embedmill dedup vectors --out copies --threshold 0.9 --keep-by quality

    Rows with the same vector, bit for bit, are put together first; the others where their cosine reaches --threshold,
    and with all that they hang together with (single linkage). Writes clusters.parquet (id, cluster, representative,
    is_kept, score: all rows that have copies) and keep.parquet (id, copies: all rows that stay). What is near depends
    on the model: look at some clusters before you believe a threshold. Killed at any moment, the same command goes on.
    """
    import json

    from producer.cli_join import Lines, nothing, report_beside, spreading, usable_threads
    from similarity.dedup_request import DedupRequest, dedup_here
    from similarity.join_request import SideRequest, bytes_of

    request = DedupRequest(
        side=SideRequest(
            location=source, modality=modality or None, column=column, id_column=id_column, integers=integers
        ),
        threshold=threshold,
        keep_by=keep_by,
        memory=bytes_of(memory),
        threads=threads or usable_threads(),
        max_pairs=max_pairs,
        distributed=distributed,
    )
    progress = nothing if quiet or as_json else Lines()
    spread = spreading(distributed, broker_url, insecure_broker, size, max_pairs, quiet or as_json)
    done = dedup_here(request, out, progress=progress, spread=spread)
    print(json.dumps(done.to_dict()) if as_json else visible(done.line))
    if with_report:
        report_beside(out, quiet=quiet or as_json)
