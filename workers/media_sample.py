"""The media sample: some of a job's media, fetched and decoded as its workers will do it with the others."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.failures import Failure
from schemas.rows import ManifestRow
from schemas.settings import Settings
from schemas.spent import Step
from storage.jobs import Job
from workers.decoders import DecodeLimits, Decoders
from workers.fetch import Fetcher, FetchRules
from workers.loading import MediaLoader, Segments
from workers.meter import Meter


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What the media of some rows are like; seconds are those of one thread."""

    media: int
    failed: int
    fetch_s: float  # of one
    decode_s: float  # of one
    seconds: float  # that one lasts, of sounds and films


def look_at_media(job: Job, rows: Sequence[ManifestRow], settings: Settings, *, limit_s: float) -> Looked:
    """Load rows one after the other, within the job's own rules and limits, until the time is over."""
    spec, meter = job.record.spec, Meter()
    limits = DecodeLimits(
        max_pixels=spec.max_pixels,
        max_seconds=spec.max_media_s,
        timeout_s=min(spec.decode_s, 2 * limit_s),
        memory_bytes=settings.decode_memory_mb * 2**20,
    )
    rules = FetchRules(
        base=spec.media_base,
        roots=spec.media_roots,
        max_bytes=spec.max_file_bytes,
        max_seconds=min(spec.fetch_s, limit_s),
        allow_http=spec.allow_http,
        allow_private=spec.allow_private,
    )
    decoders = Decoders(count=1, limits=limits)
    loader = MediaLoader(Fetcher(rules), decoders, job.record.space.recipe, meter)
    try:
        decoders.image(b"")  # its process starts: no medium's time
        found = _load(loader, rows, limit_s)
    finally:
        loader.close()
        decoders.close()
    spent, good = meter.take(), [segments for segments in found if not isinstance(segments, Failure)]
    lasting = [segment.usage["seconds_in"] for segments in good for segment in segments[:1] if segment.usage]
    return Looked(
        media=len(good),
        failed=len(found) - len(good),
        fetch_s=spent.of(Step.FETCH) / max(1, len(found)),
        decode_s=spent.of(Step.DECODE) / max(1, len(good)),
        seconds=sum(lasting) / len(lasting) if lasting else 0.0,
    )


def _load(loader: MediaLoader, rows: Sequence[ManifestRow], limit_s: float) -> list[Segments | Failure]:
    until, found = time.monotonic() + limit_s, []
    for row in rows:
        if time.monotonic() > until:
            break
        found.append(loader.load(row))
    return found
