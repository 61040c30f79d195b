"""Extras: packages that embedmill does without, until one is asked for."""

import importlib
from typing import Any

from schemas.errors import Refused


def require_extra(module: str, extra: str) -> Any:  # Any: whatever module it is
    """A module of the extra that the option of the same name asks for; raises Refused where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        package = module.partition(".")[0]
        raise Refused(f"--{extra} needs the package {package}: pip install 'embedmill[{extra}]'") from err
