"""The sentence encoder: a sentence-transformers model, called at its preprocessing and its forward pass.

`SentenceTransformer.encode` is not used: it overlaps nothing, loses a whole list for one bad item, and opens what
looks like a path or a URL in a text. Texts go in as {"text": s}, which is never looked into; media as arrays.
"""

import contextlib
import copy
import importlib.util
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging

from schemas.errors import WorkerUnfit
from schemas.model_cards import PIXELS_PER_TOKEN, Family, ModelCard
from schemas.recipe import Recipe
from schemas.rows import Modality
from workers.canary import probe
from workers.content import Film
from workers.encoder import Length, OutOfMemory
from workers.loading import Loaded
from workers.onednn_linear import quicken
from workers.processor_check import check_processor
from workers.shrinking import Shrink, shrink_of, trial_picture

#: What torch's allocators say in a plain RuntimeError.
_OUT_OF_MEMORY_SIGNS = ("not enough memory", "can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

Features = dict[str, Any]  # Any: tensors, and the names that sentence-transformers puts beside them

#: Models that are fed through a chat template, which hostile texts must not be able to write in.
_TEMPLATED = frozenset({Family.QWEN_VL, Family.OMNI})
#: Models whose image processor has a backend of its own choice.
_PIL_FAMILIES = frozenset({Family.CLIP, Family.SIGLIP, Family.CONSE})
#: Tokens that a second of sound takes up, about: what Whisper-like towers make of it.
_TOKENS_PER_SECOND = 50


class SentenceEncoder:
    """A model of sentence-transformers in memory."""

    def __init__(self, card: ModelCard, folder: Path, *, device: str = "cpu", dtype: str = "float32") -> None:
        """Load the model in `folder`; raises WorkerUnfit where it does not load, or is not what its card says."""
        if device == "cpu":
            torch.set_num_threads(1)  # one worker per core: two threads on a busy machine were four times slower
        self.dim = card.dim
        self.copy_s = 0.0  # that forward has spent on the way to the device and back
        self._card = card
        self._model = _loaded(card, folder, device, dtype)
        self._prompt, self._task = card.default_prompt, ""
        self._template_tokens = self._measured_template()
        if not quicken(self._model, self._check):
            self._model = _loaded(card, folder, device, dtype)
        # What pictures are brought to where they are decoded; None: they are left as they are.
        self.shrink = self._proved_shrink()

    def told(self, recipe: Recipe) -> "SentenceEncoder":
        twin = copy.copy(self)  # the model itself is shared
        twin._prompt, twin._task = recipe.prompt, str(recipe.role)
        return twin

    def lengths(self, items: Sequence[Loaded]) -> list[Length]:
        counts = iter(self._token_counts([self._prompt + item.text for item in items if item.text is not None]))
        return [self._length(item, None if item.text is None else next(counts)) for item in items]

    def preprocess(self, items: Sequence[Loaded]) -> Features:
        options: dict[str, Any] = self._task_option()
        kwargs = self._processing_kwargs(items[0].kinds)
        if kwargs:
            options["processing_kwargs"] = kwargs
        values = [input_of(item) for item in items]
        features = dict(self._model.preprocess(values, prompt=self._prompt or None, **options))
        if "is_longer" in features:
            # CLAP with fusion marks one sound of a batch at random; alone, each would be the one.
            features["is_longer"] = torch.ones_like(features["is_longer"])
        return features

    def forward(self, features: Features) -> np.ndarray:
        try:
            return self._vectors(features)
        except (MemoryError, RuntimeError) as err:
            if not is_out_of_memory(err):
                raise judged_error(err) from err
        # Out here, where the traceback no longer holds the batch's tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory("the device has no memory for this batch")

    @torch.inference_mode()
    def _vectors(self, features: Features) -> np.ndarray:
        with self._copying():
            moved = {name: on_device(self._model.device, value) for name, value in features.items()}
        found = self._model(moved, **self._task_option())["sentence_embedding"].float()
        if found.is_cuda:
            torch.cuda.current_stream(found.device).synchronize()  # the copy would wait for it, and be charged for it
        with self._copying():
            vectors = found.cpu().numpy()
        return np.asarray(vectors.reshape(len(vectors), -1))  # VideoPrism's films come as (n, 1, dim)

    @contextlib.contextmanager
    def _copying(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            if self._model.device.type != "cpu":
                self.copy_s += time.monotonic() - started

    def _task_option(self) -> dict[str, str]:
        return {"task": self._task} if self._task else {}

    def _processing_kwargs(self, kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
        kwargs: dict[str, dict[str, Any]] = {}
        if self._card.text_padding and "text" in kinds:
            # SigLIP pools the last position: a text padded to its batch's longest has another vector in each batch.
            kwargs["text"] = {"padding": "max_length", "max_length": self._card.text_padding, "truncation": True}
        if "film" in kinds:
            kwargs["video"] = {"do_sample_frames": False}  # its frames are chosen
        if self._card.family in _TEMPLATED:
            kwargs["chat_template"] = {"sanitize_control_tokens": True}
        return kwargs

    def _length(self, item: Loaded, tokens: int | None) -> Length:
        media = 0 if item.image is None else self._card.tokens_per_image
        if item.sound is not None:
            seconds = self._card.audio_window_s if self._card.family is Family.CLAP else item.sound.seconds
            media += math.ceil(seconds * _TOKENS_PER_SECOND)
        if item.film is not None:
            count, height, width, _ = item.film.frames.shape
            media += math.ceil(count * min(self._card.tokens_per_frame, height * width / PIXELS_PER_TOKEN))
        if tokens is None:
            return Length(media + self._template_tokens)
        used = min(tokens, self._limit() - self._template_tokens)
        padded = self._card.text_padding or used + self._template_tokens
        return Length(media + padded, tokens, used)

    def _limit(self) -> int:
        return min(self._card.text_padding or self._model.max_seq_length or self._card.max_tokens, 10**6)

    def _token_counts(self, texts: list[str]) -> list[int]:
        """The tokens of each text, however many the model takes."""
        tokenizer = self._model.tokenizer
        if tokenizer is None or not texts:
            return [len(text) // 4 + 1 for text in texts]
        # Counted in full: what is cut off must be known. `verbose` is the warning that it will be.
        options = {"truncation": False, "padding": False, "return_attention_mask": False, "verbose": False}
        return [len(row) for row in tokenizer(texts, **options)["input_ids"]]

    def _measured_template(self) -> int:
        """Tokens that a chat template puts around a text."""
        if self._card.family not in _TEMPLATED:
            return 0
        whole = self._model.preprocess([{"text": "a"}], prompt=self._prompt or None)["input_ids"].shape[-1]
        return int(whole) - self._token_counts([self._prompt + "a"])[0]

    def _check(self) -> list[np.ndarray]:
        """The vectors of one item of each modality; raises WorkerUnfit unless they are of the card's dimension."""
        found = []
        for modality in sorted(self._card.modalities - {Modality.MIXED}):
            try:
                vectors = self.forward(self.preprocess([probe(self._card, modality)]))
            except (ImportError, KeyError, TypeError, ValueError, RuntimeError, OutOfMemory) as err:
                raise WorkerUnfit(f"model {self._card.name} takes no {modality} here: {err}") from err
            if vectors.shape != (1, self.dim) or not np.isfinite(vectors).all():
                said = f"says {self.dim} dimensions, its vectors of {modality} are {vectors.shape[1:]}"
                raise WorkerUnfit(f"model {self._card.name} {said}, or not finite; it is not what was planned with")
            found.append(vectors)
        return found

    def _proved_shrink(self) -> Shrink | None:
        """The size that the processor resizes to, if a picture of that size gives the same pixels to the bit."""
        if Modality.IMAGE not in self._card.modalities or self._card.family not in _PIL_FAMILIES:
            return None
        shrink = shrink_of(getattr(self._model.processor, "image_processor", self._model.processor))
        if shrink is None:
            return None
        picture = trial_picture(shrink)
        whole, shrunk = (self.preprocess([Loaded(image=each)]) for each in (picture, shrink.apply(picture)))
        return shrink if torch.equal(whole["pixel_values"], shrunk["pixel_values"]) else None


def input_of(item: Loaded) -> dict[str, Any]:
    """What sentence-transformers takes for an item: a dict names its parts, so that nothing is guessed or opened."""
    value: dict[str, Any] = {}
    if item.image is not None:
        value["image"] = item.image
    if item.film is not None:
        value["video"] = {"array": item.film.frames, "video_metadata": _metadata(item.film)}
    if item.sound is not None:
        value["audio"] = {"array": item.sound.samples, "sampling_rate": item.sound.rate}
    if item.text is not None:
        value["text"] = item.text
    return value


def _metadata(film: Film) -> dict[str, Any]:
    """When the frames are shown, as transformers' video processors know it."""
    fps = film.fps or 1.0
    return {
        "fps": fps,
        "total_num_frames": film.frames_in,
        "duration": film.seconds_in,
        "frames_indices": [round(time * fps) for time in film.times_s],
    }


def on_device(device: torch.device, value: object) -> object:
    """A tensor on the device; to a GPU by way of pinned memory, so that the copy overlaps with what it computes."""
    if not isinstance(value, torch.Tensor):
        return value
    if device.type == "cuda":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def is_out_of_memory(err: BaseException) -> bool:
    """Whether a smaller batch may succeed where this one raised `err`."""
    if isinstance(err, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(err, RuntimeError) and any(sign in str(err) for sign in _OUT_OF_MEMORY_SIGNS)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings and progress bars, of which a user can do nothing, off the terminal."""
    transformers_logging: Any = logging  # Any: transformers is typed in part
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _loaded(card: ModelCard, folder: Path, device: str, dtype: str) -> SentenceTransformer:
    if card.family is Family.CONSE:
        from workers.conse import register_conse

        register_conse()
    else:
        problem = check_processor(folder)  # before the weights: they may be 16 GB
        if problem is not None:
            raise WorkerUnfit(f"model {card.name} cannot be fed here: {problem}")
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # what a model that left the shelf held is given back only now
    # Pixels differ by a grey level between backends: one for all workers. Text-only tokenizers know no such option.
    processor = {"backend": "pil"} if card.family in _PIL_FAMILIES else {}
    try:
        with quiet():
            model = SentenceTransformer(
                str(folder),
                device=device,
                local_files_only=True,
                model_kwargs={"dtype": dtype, "use_safetensors": True, **_attention(card, device, dtype)},
                processor_kwargs=processor,
            )
    except (ImportError, OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError, AssertionError) as err:
        raise WorkerUnfit(f"model {card.name} cannot be loaded here: {type(err).__name__}: {err}") from err
    return model.eval()


def _attention(card: ModelCard, device: str, dtype: str) -> dict[str, str]:
    """Flash attention where it is installed and the model can use it: it skips padding too (text models)."""
    installed = importlib.util.find_spec("flash_attn") is not None
    useful = device.startswith("cuda") and dtype != "float32" and card.family is Family.SENTENCE_TRANSFORMER
    return {"attn_implementation": "flash_attention_2"} if installed and useful else {}


def judged_error(err: MemoryError | RuntimeError) -> Exception:
    """After an error of the device itself nothing that it computes can be trusted."""
    if isinstance(err, torch.AcceleratorError) or "CUDA error" in str(err):
        return WorkerUnfit(f"the device failed and must be opened anew: {err}")
    return err
