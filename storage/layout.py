"""The layout: the name of every object of a job."""

import re

from schemas.rows import Modality

JOB = "job.json"
JOIN = "join.json"  # of a join, which has no job.json
DEDUP = "dedup.json"  # of a dedup, which has no job.json either
CLUSTERS = "clusters.parquet"  # of a dedup: the rows that have copies
KEEP = "keep.parquet"  # of a dedup: the ids of the rows that stay
ALIKE, NEAR = "alike", "near"  # of a dedup, below stage/: rows with the same vector; what hangs together
CANCELLED = "control/cancelled.json"  # present while a job is cancelled
STOPPED = "control/stopped.json"  # present while a job is stopped, and why
LIMITS = "control/limits.json"  # of a distributed join or dedup: what its workers may make
SUBMITTED = "control/submitted.json"  # present from submit on: a coordinator may drive the job
DATA = "data"
FAILURES = "failures"
STAGE = "stage"  # of a join or dedup: what its panels must know first
RANGES = "plan/int8-ranges.json"  # of int8 vectors; created by the worker that needs them first
PLAN = "plan"
STATS = "stats.npz"  # written anew when a retry ends
VIEWS = "views.sql"
RECEIPT = "receipt.json"  # where the time went; written anew when a retry ends
REPORT = "report.html"  # for people; made anew by whoever asks
PROGRESS = "control/progress.json"  # of a job with very many shards: what its coordinator last saw
ESTIMATE = "control/estimate.json"  # what the job was thought to take, before it began

_PART = re.compile(r"^data/modality=([a-z]+)/part-(\d{6,})\.parquet$")
_PANEL = re.compile(r"^data/part-(\d{6,})\.parquet$")
_FAILED = re.compile(r"^failures/part-(\d{6,})-([0-9a-f]+)\.parquet$")
_RETRY = re.compile(r"^plan/retry-(\d{4})\.json$")


def data_key(modality: Modality, shard: int) -> str:
    """The published shard: its name is its identity, whoever wrote it."""
    return f"{DATA}/modality={modality}/part-{shard:06d}.parquet"


def shard_of(key: str) -> int | None:
    """The shard whose data `key` holds, or None for any other object."""
    match = _PART.match(key)
    return int(match[2]) if match else None


def modality_of(key: str) -> str:
    """The modality of a published shard, which its folder names as Hive's partitions are named."""
    match = _PART.match(key)
    return match[1] if match else ""


def panel_key(panel: int) -> str:
    """The published pairs of one panel of a join."""
    return f"{DATA}/part-{panel:06d}.parquet"


def panel_of(key: str) -> int | None:
    """The panel whose pairs `key` holds, or None."""
    match = _PANEL.match(key)
    return int(match[1]) if match else None


def stage_key(name: str, panel: int) -> str:
    """What a join found out of some rows before it scored any pair."""
    return f"{STAGE}/{name}-{panel:06d}.parquet"


def failures_key(shard: int, attempt: str) -> str:
    return f"{FAILURES}/part-{shard:06d}-{attempt}.parquet"


def attempt_of(key: str) -> tuple[int, str] | None:
    """Shard and attempt of a failures file, or None."""
    match = _FAILED.match(key)
    return (int(match[1]), match[2]) if match else None


def rows_key(digest: str, number: int) -> str:
    return f"{PLAN}/rows-{digest[:12]}-{number:05d}.parquet"


def index_key(digest: str) -> str:
    return f"{PLAN}/shards-{digest[:12]}.parquet"


def rejects_key(digest: str) -> str:
    return f"{PLAN}/rejects-{digest[:12]}.parquet"


def sample_key(digest: str) -> str:
    return f"{PLAN}/sample-{digest[:12]}.parquet"


def reuse_key(digest: str) -> str:
    return f"{PLAN}/reuse-{digest[:12]}.parquet"


def retry_key(round_: int) -> str:
    return f"{PLAN}/retry-{round_:04d}.json"


def round_of(key: str) -> int | None:
    """The retry whose record `key` holds, or None."""
    match = _RETRY.match(key)
    return int(match[1]) if match else None


def manifest_key(round_: int) -> str:
    """The list of all files, written once when a round ends."""
    return "manifest.json" if round_ == 0 else f"manifest-retry-{round_:04d}.json"
