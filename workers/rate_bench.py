"""The rate bench: how long a model takes for items of each kind and length on this machine's device."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from schemas.failures import Failure
from schemas.model_cards import PIXELS_PER_TOKEN, ModelCard
from schemas.rates import Point
from schemas.recipe import Recipe
from schemas.rows import Modality
from schemas.settings import Settings
from storage.memory_file import BUDGETS, MemoryFile
from storage.model_files import ResolvedModel
from workers.batching import TokenBudget, encode_batches, measure
from workers.budgets import budget_for, budget_key, is_learned, learn_budget, remember_budget
from workers.canary import probe
from workers.content import Film, Sound
from workers.decoders import DecodeLimits, Decoders
from workers.encoder import Encoder, load_encoder
from workers.loading import Loaded
from workers.meter import Meter

#: Characters of the texts that are tried; longer ones than the model takes are left out.
_CHARACTERS = (60, 250, 1000, 2000, 8000, 32_000)
_WORDS = "the mill grinds slowly but it grinds exceedingly fine and no row is ever lost "
_IMAGE_SIZE = (1280, 960)
_SOUND_S = 10.0
_FILM_FRAMES = 16
_FIRST_ITEMS, _MOST_ITEMS = 4, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One class of items."""

    modality: Modality
    what: str  # in words
    cost: float  # what the planner takes one for, in tokens
    items: int
    seconds: float  # of one, on one worker
    tokens: float  # of one, as the model counts

    @property
    def point(self) -> Point:
        return self.cost, self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A model on a device, ready to be measured."""

    card: ModelCard
    encoder: Encoder
    budget: TokenBudget
    load_s: float
    batch_items: int


def open_bench(model: ResolvedModel, recipe: Recipe, settings: Settings) -> Bench:
    """Load the model, and on a GPU learn how large its batches should be; raises WorkerUnfit where it does not load."""
    begun = time.monotonic()
    encoder = load_encoder(
        model,
        device=settings.device,
        dtype=recipe.dtype,
        cache=settings.model_cache,
        delay_ms=settings.hash_delay_ms,
        memory_tokens=settings.hash_memory_tokens,
    )
    load_s = time.monotonic() - begun
    budget = budget_for(settings, model, recipe.dtype)
    if is_learned(settings, model):
        budget.tokens = learn_budget(encoder)
        memory = MemoryFile(settings.memory_dir, BUDGETS)
        remember_budget(memory, budget_key(settings, model, recipe.dtype), budget.tokens)
    told = encoder.told(recipe)
    return Bench(
        card=model.card, encoder=told, budget=budget, load_s=round(load_s, 3), batch_items=settings.batch_items
    )


def measure_rates(
    bench: Bench, recipe: Recipe, cost_of: Callable[[Modality, str], float], *, seconds: float
) -> Iterator[Measured]:
    """Each class of items that the model takes, for about so many seconds.

    `cost_of` says what the planner takes one for: its modality, and the text that is in it.
    """
    for modality, what, item, text in _classes(bench.card, recipe):
        cost = cost_of(modality, text)
        count, took = _FIRST_ITEMS, 0.0
        while True:
            took = _took(bench, [item] * count)
            if took >= seconds / 2 or count >= _MOST_ITEMS:
                break
            count = min(_MOST_ITEMS, max(2 * count, int(count * seconds / max(took, 1e-6))))
        [length] = bench.encoder.lengths([item])
        yield Measured(
            modality=modality, what=what, cost=cost, items=count, seconds=took / count, tokens=float(length.padded)
        )


def decode_seconds(settings: Settings, *, images: int = 8) -> float:
    """Seconds that a JPEG of 1280x960 takes one decoder process."""
    sink = io.BytesIO()
    _picture().save(sink, "JPEG", quality=85)
    decoders = Decoders(count=1, limits=replace(DecodeLimits(), memory_bytes=settings.decode_memory_mb * 2**20))
    try:
        decoders.image(sink.getvalue())  # its process starts
        begun = time.monotonic()
        for _ in range(images):
            assert not isinstance(decoders.image(sink.getvalue()), Failure)
        return (time.monotonic() - begun) / images
    finally:
        decoders.close()


def _took(bench: Bench, items: Sequence[Loaded]) -> float:
    """Seconds that the items take from lengths to vectors, as in a shard."""
    begun = time.monotonic()
    lengths = measure(bench.encoder, items)
    encode_batches(
        bench.encoder, items, lengths=lengths, budget=bench.budget, max_items=bench.batch_items, meter=Meter()
    )
    return time.monotonic() - begun


def _classes(card: ModelCard, recipe: Recipe) -> Iterator[tuple[Modality, str, Loaded, str]]:
    """Modality, words, an item, and its text."""
    if Modality.TEXT in card.modalities:
        for characters in [n for n in _CHARACTERS if n == _CHARACTERS[0] or n <= 4 * card.max_tokens]:
            text = (_WORDS * (characters // len(_WORDS) + 1))[:characters]
            yield Modality.TEXT, f"texts of {characters} characters", Loaded(text=text), text
    if Modality.IMAGE in card.modalities:
        size = "x".join(map(str, _IMAGE_SIZE))
        yield Modality.IMAGE, f"images of {size}", Loaded(image=_picture()), ""
    if Modality.AUDIO in card.modalities:
        sound = Sound(samples=_noise(_SOUND_S, card.audio_rate), rate=card.audio_rate, seconds_in=_SOUND_S)
        yield Modality.AUDIO, f"sounds of {_SOUND_S:g} s", Loaded(sound=sound), ""
    if Modality.VIDEO in card.modalities:
        yield Modality.VIDEO, "films", _film(card, recipe), ""


def _picture() -> Image.Image:
    """A photograph's worth of detail: smooth, with noise; the same each time."""
    width, height = _IMAGE_SIZE
    noise = np.random.default_rng(1).integers(0, 32, (height, width, 3), np.uint8)
    smooth = np.linspace(0, 200, width, dtype=np.uint8)[None, :, None]
    return Image.fromarray(noise + smooth)


def _noise(seconds: float, rate: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, int(seconds * rate)).astype(np.float32)


def _film(card: ModelCard, recipe: Recipe) -> Loaded:
    small = probe(card, Modality.VIDEO).film
    assert small is not None
    count = card.video_frames or recipe.frames or _FILM_FRAMES
    side = int(max(4 * PIXELS_PER_TOKEN, recipe.frame_pixels) ** 0.5)
    film: Film = replace(
        small,
        frames=np.random.default_rng(1).integers(0, 255, (count, side, side, 3), np.uint8),
        times_s=tuple(n / 2 for n in range(count)),
        end_s=count / 2,
        frames_in=count,
        seconds_in=count / 2,
    )
    return Loaded(film=film)
