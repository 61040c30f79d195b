"""What a job will take on this machine's workers, or on others': the estimate that `plan` prints, `run` compares."""

from typing import TYPE_CHECKING

from producer.spend_options import SpendWords

if TYPE_CHECKING:
    from producer.estimate import Estimate, MediaSample
    from schemas.rates import Rates
    from schemas.rows import ManifestRow, Modality
    from schemas.settings import Settings
    from storage.jobs import Job

#: Media that are looked at of each modality, and for how many seconds.
_MEDIA, _LOOK_S = 24, 4.0
#: What the planner takes a sound for.
_PLANNED_SOUND_S = 10.0


def estimate_here(job: "Job", *, workers: int, words: SpendWords, thorough: bool) -> "Estimate | None":
    """Estimate the job and keep that beside it; None for a job that has ended, one of pairs, or where nothing is known.

    `thorough` looks into some of its media, guesses where nothing was measured, and replaces an earlier estimate.
    """
    import os

    from producer.estimate import estimate_job, read_estimate, write_estimate
    from schemas.model_cards import Kind
    from schemas.settings import Settings

    if job.has_ended() or (not thorough and read_estimate(job)):
        return None
    settings = Settings.from_environ(os.environ)
    rates = _rates(job, settings, guess=thorough) if job.record.spec.kind is Kind.EMBED else None
    if rates is None:
        return None
    estimate = estimate_job(
        job,
        rates,
        workers=workers or _workers_here(job.record.spec.size),
        price=words.prices.get(job.record.spec.size),
        media=_look(job, settings) if thorough else {},
        feeders=settings.load_threads,
    )
    write_estimate(job, estimate)
    return estimate


def _rates(job: "Job", settings: "Settings", *, guess: bool) -> "Rates | None":
    from schemas.rates import guessed_rates
    from storage.model_files import resolve_model
    from storage.rates_file import RatesFile

    spec, dtype = job.record.spec, job.record.space.recipe.dtype
    known = RatesFile(settings.memory_dir).find(spec.model_digest, spec.size, dtype)
    if known or not guess:
        return known
    card = resolve_model(spec.model, cache=settings.model_cache).card
    return guessed_rates(card.tokens_per_second, spec.size, card.weight_bytes(dtype))


def _workers_here(size: str) -> int:
    """Those that this machine would have; one where it has none of the size."""
    from schemas.sizes import up_to
    from workers.devices import find_devices
    from workers.supervise import usable_cores

    able = [device for device in find_devices() if size in up_to(device.size)]
    return sum(usable_cores() if device.size == "cpu" else 1 for device in able) or 1


def _look(job: "Job", settings: "Settings") -> "dict[Modality, MediaSample]":
    from schemas.rows import Modality

    return {
        modality: _looked_at(job, modality, rows, settings)
        for modality in (Modality.IMAGE, Modality.AUDIO, Modality.VIDEO)
        if (rows := _some_rows(job, modality))
    }


def _some_rows(job: "Job", modality: "Modality") -> "list[ManifestRow]":
    """Rows from the first, the middle and the last shard of a modality."""
    reader = job.reader(job.record.plan)
    shards = [shard for shard in reader.shards() if reader.modality(shard) is modality]
    picked = sorted({shards[0], shards[len(shards) // 2], shards[-1]}) if shards else []
    rows = [row for shard in picked for row in reader.read_rows(shard)[: _MEDIA // len(picked)]]
    return [row for row in rows if row.defect is None]


def _looked_at(job: "Job", modality: "Modality", rows: "list[ManifestRow]", settings: "Settings") -> "MediaSample":
    from producer.estimate import MediaSample
    from schemas.rows import Modality
    from workers.media_sample import look_at_media

    found = look_at_media(job, rows, settings, limit_s=_LOOK_S)
    scale = found.seconds / _PLANNED_SOUND_S if modality is Modality.AUDIO and found.seconds else 1.0
    return MediaSample(media=found.media, fetch_s=found.fetch_s, decode_s=found.decode_s, scale=scale)
