"""The processor check: whether what feeds a model can be built here, tried before its weights are loaded.

sentence-transformers builds the processor after the weights: a missing package costs 16 GB of reading without it.
"""

import contextlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workers.torchvision_cpu import make_torchvision_importable

#: Packages by the words with which transformers misses them, and what to do.
_REMEDIES = {
    "torchvision": "install a build that fits your torch",
    "pillow": "pip install pillow",
    "sentencepiece": "pip install sentencepiece protobuf",
    "protobuf": "pip install protobuf",
    "tiktoken": "pip install tiktoken",
    "librosa": "pip install librosa",
}
_CLASS = re.compile(r"\b[A-Z][A-Za-z0-9_]*(?:Processor|Tokenizer|Extractor)(?:Fast|Pil)?\b")


def check_processor(folder: Path) -> str | None:
    """None where the processor or tokenizer of the model in `folder` can be built here, else why not and what to do."""
    make_torchvision_importable()
    from transformers import AutoProcessor

    factory: Any = AutoProcessor  # transformers is typed in part
    try:
        with _quiet():
            factory.from_pretrained(str(_first_module(folder)), local_files_only=True)
    except ImportError as err:
        return _missing_package(str(err))
    except Exception as err:  # noqa: BLE001  # transformers raises anything at all for a file that it cannot read
        return f"its processor cannot be built here ({type(err).__name__}: {_first_line(str(err))}); get the model anew"
    return None


def _first_module(folder: Path) -> Path:
    """Where the files of the processor are: beside the first module's configuration."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return folder
    entries = json.loads(modules.read_text("utf-8"))
    return folder / str(entries[0].get("path", ""))


def _missing_package(message: str) -> str:
    named = _CLASS.search(message)
    who = named[0] if named else "its processor"
    for package, remedy in _REMEDIES.items():
        if package in message.lower():
            return f"{who} needs {package}: {remedy}"
    return f"{who} needs a package that is not installed: {_first_line(message)}"


def _first_line(message: str) -> str:
    return next((line.strip() for line in message.splitlines() if line.strip()), "no reason given")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal what transformers says of a processor that is only tried."""
    from transformers.utils import logging

    words: Any = logging  # transformers is typed in part
    verbosity = words.get_verbosity()
    words.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        words.set_verbosity(verbosity)
