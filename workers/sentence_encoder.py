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
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from transformers.utils import logging as transformers_logging

from PIL import Image
from schemas.errors import WorkerUnfit
from schemas.model_cards import Family, ModelCard
from schemas.rows import Modality
from workers.encoder import OutOfMemory
from workers.loading import Loaded

#: What torch's allocators say in a plain RuntimeError.
_OUT_OF_MEMORY_SIGNS = ("not enough memory", "can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

Features = dict[str, Any]  # Any: tensors, and the names that sentence-transformers puts beside them
