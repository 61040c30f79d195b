"""Job options: the words of the command line that say what a job is, shared by `run`, `plan` and `submit`."""

import functools
import inspect
import re
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from producer.completion import model_names

if TYPE_CHECKING:
    from producer.prepare import JobRequest


class ModalityName(StrEnum):
    """The modalities that `--modality` takes."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    MIXED = "mixed"


class RoleName(StrEnum):
    """The sides of a search that `--role` takes."""

    QUERY = "query"
    DOCUMENT = "document"


class DtypeName(StrEnum):
    """The types of a computation."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class OutputName(StrEnum):
    """The types of a vector column."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    BINARY = "binary"


class SizeName(StrEnum):
    """The sizes of devices."""

    CPU = "cpu"
    GPU8 = "gpu8"
    GPU16 = "gpu16"
    GPU24 = "gpu24"
    GPU48 = "gpu48"
    GPU80 = "gpu80"


_DURATION = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)\s*(?P<unit>ms|s|m|min|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str) -> float:
    """The seconds that `10s`, `500ms`, `2m`, `1h`, `1d` or a plain number say; 0 for nothing."""
    if not text:
        return 0.0
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match["number"]) * _SECONDS[match["unit"] or ""] if match else 0.0
    if not seconds:
        raise typer.BadParameter(f"{text!r} is no duration; write 10s, 500ms, 2m, 1h or 1d")
    return seconds


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A model card's short name, org/name@<40-hex commit>, or a local folder.",
        envvar="EMBEDMILL_MODEL",
        autocompletion=model_names,
    ),
]
OnlyModality = Annotated[
    list[ModalityName] | None,
    typer.Option("--modality", help="Take only rows of this modality, skip the others. Repeatable; default: all."),
]
Dtype = Annotated[
    DtypeName | None,
    typer.Option(
        "--dtype",
        help="Type of the computation; default: float32 on processors, half precision on GPUs.",
        envvar="EMBEDMILL_DTYPE",
    ),
]
FirstDevice = Annotated[
    str,
    typer.Option(
        "--device", help="auto (the first GPU, else the processor), cpu, cuda, or cuda:N.", envvar="EMBEDMILL_DEVICE"
    ),
]
AllowUnpinned = Annotated[
    bool,
    typer.Option(
        "--allow-unpinned",
        help="Take org/name without a commit, and pin the one it has now.",
        envvar="EMBEDMILL_ALLOW_UNPINNED",
    ),
]


def job_request(
    manifest: Annotated[
        str,
        typer.Argument(
            help="Manifest: .jsonl, .csv, .tsv or .parquet, plain or .gz; a folder of media; webdataset .tar files. "
            "A path or s3:// URL."
        ),
    ],
    model: Model,
    out: Annotated[
        str, typer.Option("--out", "-o", help="The job's folder, or s3://bucket/prefix.", envvar="EMBEDMILL_OUT")
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            "-k",
            help="A manifest column to copy into the output: name, or name:string|int64|float64|bool. Repeatable.",
        ),
    ] = None,
    id_column: Annotated[
        str, typer.Option("--id-column", help="The column that identifies a row.", envvar="EMBEDMILL_ID_COLUMN")
    ] = "id",
    modality: OnlyModality = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Refuse the whole manifest at the first line that is no row.", envvar="EMBEDMILL_STRICT"
        ),
    ] = False,
    role: Annotated[
        RoleName | None,
        typer.Option(
            "--role",
            help="Embed as queries or as documents, with the model's prompt for it; default: neither.",
            envvar="EMBEDMILL_ROLE",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="What the model is told before each row; default: what its card says."),
    ] = None,
    prompt_name: Annotated[
        str, typer.Option("--prompt-name", help="One of the model's own prompts, by name.", show_default=False)
    ] = "",
    truncate_dim: Annotated[
        int,
        typer.Option(
            "--truncate-dim",
            min=0,
            help="Keep so many dimensions, scaled to unit length; 0: all as the model gives them.",
            envvar="EMBEDMILL_TRUNCATE_DIM",
        ),
    ] = 0,
    normalize: Annotated[
        bool,
        typer.Option("--normalize", help="Scale each vector to unit length.", envvar="EMBEDMILL_NORMALIZE"),
    ] = False,
    dtype: Dtype = None,
    output_dtype: Annotated[
        list[OutputName] | None,
        typer.Option(
            "--output-dtype",
            help="Type of the vectors as written. Repeatable: the first is the column embedding, each further one "
            "embedding_<type>; default: float32.",
        ),
    ] = None,
    segment: Annotated[
        str,
        typer.Option(
            "--segment",
            help="Cut sounds and films: one vector for each so long a stretch, as 10s, 2m; default: one a row.",
            envvar="EMBEDMILL_SEGMENT",
            show_default=False,
        ),
    ] = "",
    frames: Annotated[
        int,
        typer.Option(
            "--frames",
            min=0,
            help="Frames of a film, or of each segment; with --fps at most so many; 0: 16, or what the model takes.",
            envvar="EMBEDMILL_FRAMES",
        ),
    ] = 0,
    fps: Annotated[
        float,
        typer.Option(
            "--fps",
            min=0.0,
            help="Frames a second of a film, up to --frames; 0: --frames of them, whatever the length.",
            envvar="EMBEDMILL_FPS",
        ),
    ] = 0.0,
    size: Annotated[
        SizeName | None,
        typer.Option(
            "--size",
            help="The class of device that the job is for; default: the smallest that holds the model.",
            envvar="EMBEDMILL_JOB_SIZE",
        ),
    ] = None,
    media_root: Annotated[
        list[str] | None,
        typer.Option(
            "--media-root",
            help="A folder, a s3://, gs:// or az:// prefix, or an https://host that media may be read from. "
            "Repeatable; default: the manifest's folder, and any public https host.",
        ),
    ] = None,
    allow_http: Annotated[
        bool,
        typer.Option("--allow-http", help="Read media over http:// too.", envvar="EMBEDMILL_ALLOW_HTTP"),
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
            help="Size of a shard, in estimated seconds of one CPU core.",
            envvar="EMBEDMILL_SHARD_SECONDS",
        ),
    ] = 30.0,
    reuse: Annotated[
        list[str] | None,
        typer.Option(
            "--reuse",
            help="The folder of an earlier job of the same space: rows whose content it has a vector of are not "
            "computed again. Repeatable.",
        ),
    ] = None,
    max_pixels: Annotated[
        int,
        typer.Option(
            "--max-pixels",
            min=1,
            help="Images, and films with frames, of more pixels are failures.",
            envvar="EMBEDMILL_MAX_PIXELS",
        ),
    ] = 50_000_000,
    max_file_mb: Annotated[
        int,
        typer.Option(
            "--max-file-mb", min=1, help="Media files of more MiB are failures.", envvar="EMBEDMILL_MAX_FILE_MB"
        ),
    ] = 64,
    max_media_seconds: Annotated[
        float,
        typer.Option(
            "--max-media-seconds",
            min=0.001,
            help="Sounds and films of more seconds are failures.",
            envvar="EMBEDMILL_MAX_MEDIA_SECONDS",
        ),
    ] = 3600.0,
    fetch_seconds: Annotated[
        float,
        typer.Option(
            "--fetch-seconds",
            min=0.1,
            help="Downloads that take more seconds are failures.",
            envvar="EMBEDMILL_FETCH_SECONDS",
        ),
    ] = 60.0,
    decode_seconds: Annotated[
        float,
        typer.Option(
            "--decode-seconds",
            min=0.1,
            help="Media whose decoding takes more seconds are failures.",
            envvar="EMBEDMILL_DECODE_SECONDS",
        ),
    ] = 60.0,
) -> "JobRequest":
    """What the words ask for."""
    from producer.prepare import JobRequest
    from producer.recipes import Wishes
    from schemas.recipe import OutputType, Role
    from schemas.rows import Modality

    wishes = Wishes(
        role=Role(role.value) if role else Role.NONE,
        prompt=prompt,
        prompt_name=prompt_name,
        truncate_dim=truncate_dim,
        normalize=normalize,
        dtype=dtype.value if dtype else "",
        outputs=tuple(OutputType(o.value) for o in output_dtype or (OutputName.FLOAT32,)),
        segment_s=seconds_of(segment),
        frames=frames,
        fps=fps,
        size=size.value if size else "",
    )
    return JobRequest(
        manifest=manifest,
        model=model,
        out=out,
        keep=tuple(keep or ()),
        id_column=id_column,
        modalities=tuple(Modality(m.value) for m in modality or ()),
        strict=strict,
        media_roots=tuple(media_root or ()),
        allow_unpinned=allow_unpinned,
        shard_seconds=shard_seconds,
        reuse=tuple(reuse or ()),
        max_pixels=max_pixels,
        max_file_bytes=max_file_mb * 2**20,
        max_media_s=max_media_seconds,
        fetch_s=fetch_seconds,
        decode_s=decode_seconds,
        allow_http=allow_http,
        allow_private=allow_private_hosts,
        wishes=wishes,
    )


def takes_job(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(request, ...)` the options of a job before its own: it gets what they ask for as `request`.

    Typer reads options from a signature; this one is put together, so that it stands in one place.
    """
    shared = inspect.signature(job_request).parameters
    own = {name: p for name, p in inspect.signature(command).parameters.items() if name != "request"}

    @functools.wraps(command)
    def with_words(**words: Any) -> None:  # Any: as Typer parsed them
        asked = {name: words.pop(name) for name in shared}
        command(job_request(**asked), **words)

    parameters = sorted([*shared.values(), *own.values()], key=lambda p: p.default is not inspect.Parameter.empty)
    with_words.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions take attributes
    with_words.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_words
