"""A pinned join or dedup, opened by a worker from nothing but its folder."""

from collections.abc import Callable

import torch

from schemas.dedup import DedupRecord
from schemas.errors import SpecMismatch
from schemas.join import Device, JoinRecord
from similarity import dedup, join
from similarity.join_request import WORKER_MEMORY, block_rows_for
from similarity.planned_side import planned_side
from storage import layout
from storage.phases import Comparison
from storage.store import Store


def open_comparison(
    store: Store,
    *,
    max_pairs: int,
    device: str = "cpu",
    allow: Callable[[str], None] = lambda location: None,
    check: Callable[[], None] = lambda: None,
) -> Comparison:
    """The join or dedup in `store`, for a worker whose `device` torch knows by that name.

    `allow` is asked for the location of each side first, and may raise.

    Raises SpecMismatch where there is none, or where a side is not what it was.
    """
    chosen = _chosen(device)
    if store.size(layout.DEDUP) is not None:
        theirs = DedupRecord.from_json(store.get(layout.DEDUP))
        source = planned_side(theirs.spec.source, allow)
        spend = dedup.Effort(device=chosen, memory=WORKER_MEMORY, max_pairs=max_pairs)
        return dedup.Dedup(store, theirs, source, effort=spend, check=check)
    if store.size(layout.JOIN) is None:
        raise SpecMismatch(f"{store.url} holds neither a join nor a dedup")
    record = JoinRecord.from_json(store.get(layout.JOIN))
    left, right = (planned_side(side, allow) for side in (record.spec.left, record.spec.right))
    rows = block_rows_for(WORKER_MEMORY, left.dim)
    effort = join.Effort(device=chosen, block_rows=rows, max_pairs=max_pairs)
    return join.Join(store, record, left, right, effort=effort, check=check)


def _chosen(device: str) -> Device:
    """The kind of `device`, which from now on is the one of its kind that this process uses."""
    if device == "cpu":
        return Device.CPU
    torch.cuda.set_device(device)
    return Device.CUDA
