"""Embedding a query: one row in this process, with a job's own model, as a worker embeds the job's rows."""

import posixpath
from dataclasses import replace

import numpy as np

from schemas.errors import Refused, SpecMismatch
from schemas.failures import Failure
from schemas.recipe import Recipe
from schemas.rows import ManifestRow
from schemas.settings import Settings
from schemas.space import Space
from storage.jobs import Job
from storage.model_files import ResolvedModel, resolve_model
from workers.batching import DEFAULT_TOKENS, TokenBudget
from workers.decoders import DecodeLimits, Decoders
from workers.embedding import embed_rows
from workers.encoder import load_encoder
from workers.fetch import Fetcher, FetchRules
from workers.loading import MediaLoader
from workers.runtime import OpenJob


def model_of(job: Job, settings: Settings) -> ResolvedModel:
    """The job's model as it is here.

    Raises Refused for a job without vectors, ModelError where the model is not here, SpecMismatch where it is another
    than the one that the job was planned with.
    """
    spec, space = job.record.spec, job.record.space
    if space.scoring is not None:
        raise Refused(f"{job.id} scores pairs and has no vectors; search the job that its items were embedded by")
    model = resolve_model(spec.model, cache=settings.model_cache)
    if model.card.digest != spec.model_digest:
        raise SpecMismatch(f"the files of model {spec.model} here are not those that {job.id} was planned with")
    differing = Space.of(model.card, space.recipe).differences(space)
    if differing:
        raise SpecMismatch(f"this embedmill embeds in another space ({', '.join(differing)}); use the job's version")
    return model


def embed_query(job: Job, model: ResolvedModel, row: ManifestRow, recipe: Recipe, settings: Settings) -> np.ndarray:
    """The query's vector, float32 (dim,); its file is read from its own folder alone.

    Raises Refused where it has none, and says why; WorkerUnfit where the model does not load.
    """
    encoder = load_encoder(model, device=settings.device, dtype=recipe.dtype, cache=settings.model_cache).told(recipe)
    spec = job.record.spec
    limits = DecodeLimits(max_pixels=spec.max_pixels, max_seconds=spec.max_media_s, timeout_s=spec.decode_s)
    decoders = Decoders(count=1, limits=limits)
    roots = (posixpath.dirname(row.uri),) if row.uri else ()
    fetcher = Fetcher(FetchRules(roots=roots, max_bytes=spec.max_file_bytes))
    asked = Job(job.store, replace(job.record, space=replace(job.record.space, recipe=recipe)))
    opened = OpenJob(
        job=asked,
        location=job.store.url,
        loader=MediaLoader(fetcher, decoders, recipe),
        model=lambda: encoder,
        budget=TokenBudget(settings.batch_tokens or DEFAULT_TOKENS),
        settings=settings,
    )
    try:
        [outcome] = embed_rows(opened, [row], settings, should_stop=lambda: False)
    finally:
        opened.loader.close()
        decoders.close()
    if isinstance(outcome, Failure):
        raise Refused(f"the query cannot be embedded: {outcome.message} ({outcome.code})")
    vector: np.ndarray = outcome.vectors[0]
    return vector
