"""A model's weights, known from the headers of its safetensors files: 8 bytes of length, then JSON."""

import json
import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ModelError
from storage.model_folder import ModelFolder, Module

#: Weights whose formats can run code, or that no loader here takes.
_UNSAFE = frozenset((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".msgpack"))
_HEADER_LIMIT = 100 * 2**20  # bytes of a safetensors header, as the library itself has it
_INDEX = "model.safetensors.index.json"

_WEIGHTLESS = ("Pooling", "Normalize", "Dropout", "LogitScore")
#: The cards' names of the types that weights are stored in; buffers of other types change nothing.
_DTYPES = {"F64": "float32", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_QUANTISED = frozenset(("F8_E4M3", "F8_E5M2", "I8", "U8", "F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"))


@dataclass(frozen=True, slots=True)
class Weights:
    """How many numbers a model has, and the type that most of them are stored in."""

    params: int
    dtype: str


def weights_of(files: ModelFolder, modules: list[Module]) -> Weights:
    """The weights of all modules; raises ModelError where some are missing, unsafe, damaged or quantised."""
    numbers: Counter[str] = Counter()
    for module in modules:
        if module.name not in _WEIGHTLESS:
            _refuse_missing(files, module.path)
        for path in _loaded_files(module.path):
            numbers += _numbers_in(files, path)
    if any(kind in _QUANTISED for kind, _ in numbers.most_common(1)):
        kind = numbers.most_common(1)[0][0]
        raise files.error(f"its weights are quantised ({kind}); give the model in float32, bfloat16 or float16")
    floats = [_DTYPES[kind] for kind, _ in numbers.most_common() if kind in _DTYPES]
    return Weights(params=numbers.total(), dtype=next(iter(floats), "float32"))


def _refuse_missing(files: ModelFolder, folder: Path) -> None:
    missing = sorted(name for name in _indexed(files, folder) if not (folder / name).is_file())
    if missing:
        raise files.error(f"{missing[0]} is missing; get it anew")
    if not any(folder.glob("*.safetensors")):
        raise files.error(_no_weights(folder, files.folder))


def _indexed(files: ModelFolder, folder: Path) -> set[str]:
    index = files.optional(folder / _INDEX).get("weight_map")
    return {str(name) for name in index.values()} if isinstance(index, dict) else set()


def _no_weights(folder: Path, top: Path) -> str:
    unsafe = sorted(path for path in folder.glob("*") if path.suffix in _UNSAFE)
    if not unsafe:
        where = folder.relative_to(top).as_posix()
        return f"{'it' if where == '.' else where} has no weights; safetensors are needed"
    return f"{unsafe[0].relative_to(top).as_posix()} may hold code; safetensors are needed, convert it first"


def _loaded_files(folder: Path) -> list[Path]:
    """The files that a loader reads: one that holds everything, else all parts."""
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def _numbers_in(files: ModelFolder, path: Path) -> Counter[str]:
    """Numbers by the type that they are stored in."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _HEADER_LIMIT else {}
        tensors = [tensor for key, tensor in header.items() if key != "__metadata__"]
        size = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        numbers: Counter[str] = Counter()
        for tensor in tensors:
            numbers[str(tensor["dtype"])] += math.prod(tensor["shape"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as err:
        raise files.error(f"{path.name} is no safetensors file; get it anew") from err
    _refuse_damaged(files, path, size)
    return numbers


def _refuse_damaged(files: ModelFolder, path: Path, size: int) -> None:
    try:
        there = path.stat().st_size
    except OSError as err:
        raise ModelError(f"{path} cannot be read: {err.strerror}; get it anew") from err
    if there != size:
        raise files.error(f"{path.name} has {there} bytes of {size}; get it anew")
