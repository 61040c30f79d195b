"""The sentence encoder: a sentence-transformers model, called at its preprocessing and its forward pass.

`SentenceTransformer.encode` is not used: it overlaps nothing, loses a whole list for one bad item, and opens what
looks like a path or a URL in a text. Texts go in as {"text": s}, which is never looked into; images as pixels.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers.utils import logging

from schemas.errors import WorkerUnfit
from schemas.model_cards import Family, ModelCard
from schemas.rows import Modality
from workers.encoder import OutOfMemory
from workers.loading import Loaded

#: What torch's allocators say in a plain RuntimeError.
_OUT_OF_MEMORY_SIGNS = ("not enough memory", "can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

Features = dict[str, Any]  # Any: tensors, and the names that sentence-transformers puts beside them


class SentenceEncoder:
    """A model of sentence-transformers in memory."""

    def __init__(self, card: ModelCard, folder: Path, *, device: str = "cpu") -> None:
        """Load the model in `folder`; raises WorkerUnfit where it does not load, or is not what its card says."""
        if device == "cpu":
            torch.set_num_threads(1)  # one worker per core: two threads on a busy machine were four times slower
        self.dim = card.dim
        self._card = card
        self._model = _loaded(card, folder, device)
        self._prompt: str = self._model.prompts.get(self._model.default_prompt_name or "") or ""
        self._check()

    def lengths(self, items: Sequence[Loaded]) -> list[int]:
        texts = [self._prompt + item.text for item in items if item.text is not None]
        measured = iter(self._text_lengths(texts))
        return [self._card.tokens_per_image if item.text is None else next(measured) for item in items]

    def preprocess(self, items: Sequence[Loaded]) -> Features:
        values = [{"image": item.image} if item.text is None else {"text": item.text} for item in items]
        options = (
            {"processing_kwargs": self._padding()} if self._card.text_padding and items[0].text is not None else {}
        )
        return dict(self._model.preprocess(values, prompt=self._prompt or None, **options))

    def forward(self, features: Features) -> np.ndarray:
        try:
            return self._vectors(features)
        except (MemoryError, RuntimeError) as err:
            if not is_out_of_memory(err):
                raise _judged(err) from err
        # Out here, where the traceback no longer holds the batch's tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory("the device has no memory for this batch")

    @torch.inference_mode()
    def _vectors(self, features: Features) -> np.ndarray:
        device = self._model.device
        moved = {name: f.to(device) if isinstance(f, torch.Tensor) else f for name, f in features.items()}
        vectors: np.ndarray = self._model(moved)["sentence_embedding"].float().cpu().numpy()
        return vectors

    def _padding(self) -> dict[str, dict[str, Any]]:
        """SigLIP pools the last position: a text padded to its batch's longest has another vector in each batch."""
        return {"text": {"padding": "max_length", "max_length": self._card.text_padding, "truncation": True}}

    def _text_lengths(self, texts: list[str]) -> list[int]:
        limit = min(self._card.text_padding or self._model.max_seq_length or self._card.max_tokens, 10**6)
        tokenizer = self._model.tokenizer
        if self._card.text_padding or not texts:
            return [limit] * len(texts)
        if tokenizer is None:
            return [min(len(text) // 4 + 1, limit) for text in texts]
        ids = tokenizer(texts, truncation=True, max_length=limit, padding=False, return_attention_mask=False)
        return [len(row) for row in ids["input_ids"]]

    def _check(self) -> None:
        """One item of each modality through the model: it gives vectors of the card's dimension."""
        for modality in sorted(self._card.modalities):
            probe = Loaded(text="a") if modality is Modality.TEXT else Loaded(image=Image.new("RGB", (32, 32), "gray"))
            try:
                vectors = self.forward(self.preprocess([probe]))
            except (ImportError, KeyError, TypeError, ValueError, RuntimeError, OutOfMemory) as err:
                raise WorkerUnfit(f"model {self._card.name} takes no {modality} here: {err}") from err
            if vectors.shape != (1, self.dim) or not np.isfinite(vectors).all():
                said = f"says {self.dim} dimensions, its vectors of {modality} are {vectors.shape[1:]}"
                raise WorkerUnfit(f"model {self._card.name} {said}, or not finite; it is not what was planned with")


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


def _loaded(card: ModelCard, folder: Path, device: str) -> SentenceTransformer:
    if card.family is Family.CONSE:
        from workers.conse import register_conse

        register_conse()
    # Pixels differ by a grey level between backends: one for all workers. Text-only tokenizers know no such option.
    processor = {"backend": "pil"} if Modality.IMAGE in card.modalities else {}
    try:
        with quiet():
            model = SentenceTransformer(
                str(folder),
                device=device,
                local_files_only=True,
                model_kwargs={"dtype": "float32", "use_safetensors": True},
                processor_kwargs=processor,
            )
    except (ImportError, OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError) as err:
        raise WorkerUnfit(f"model {card.name} cannot be loaded here: {type(err).__name__}: {err}") from err
    return model.eval()


def _judged(err: MemoryError | RuntimeError) -> Exception:
    """After an error of the device itself nothing that it computes can be trusted."""
    if isinstance(err, torch.AcceleratorError) or "CUDA error" in str(err):
        return WorkerUnfit(f"the device failed and must be opened anew: {err}")
    return err
