"""The pair limit: how many pairs the workers of a join or dedup may make before it stops; the last word counts."""

import json

from schemas.parsed_json import parsed_json
from storage import layout
from storage.store import Store


def set_pair_limit(store: Store, most: int) -> None:
    store.replace(layout.LIMITS, json.dumps({"max_pairs": most}).encode() + b"\n")


def pair_limit(store: Store) -> int:
    """Raises NotFound where none was ever said."""
    return int(parsed_json(store.get(layout.LIMITS))["max_pairs"])
