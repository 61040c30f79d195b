"""torchvision beside a CPU-only torch: PyPI's wheel of it is built against CUDA, and its extension does not load.

Every video processor needs torchvision, if only for resizing, which is plain Python. What stops the import is that
two operators of the extension are missing; to declare them is enough. A deployment installs builds that match.
"""

import functools
import importlib
import importlib.util
from typing import Any

#: Operators of the extension that torchvision adds to while it is imported.
_OPERATORS = ("nms", "qnms")


def make_torchvision_importable() -> bool:
    """Whether torchvision can be imported from now on; call it before transformers looks for it.

    Harmless where torchvision is missing, or loads by itself, and any number of times.
    """
    if importlib.util.find_spec("torchvision") is None:
        return False
    if _imports():
        return True
    _declare_operators()
    return _imports()


def _imports() -> bool:
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError):  # RuntimeError: operator torchvision::nms does not exist
        return False
    return True


@functools.cache  # declarations go when their library does, and are an error the second time
def _declare_operators() -> object:
    from torch.library import Library

    library: Any = Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # torch is typed in part
    for name in _OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
