"""JSON of somebody else's: nested as deeply as they like, which is no reason to end."""

import json
from typing import Any


def parsed_json(data: str | bytes) -> Any:  # Any: whatever JSON holds
    """What `data` says; raises ValueError for what is no JSON, or nested too deeply to be read."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
