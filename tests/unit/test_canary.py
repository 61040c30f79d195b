"""The canary: when it is looked at, and what it makes of what it sees."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas.errors import DeviceFailed, WorkerUnfit
from schemas.rows import Modality
from storage.model_files import resolve_model
from workers.canary import Canary
from workers.encoder import OutOfMemory
from workers.hash_encoder import HashEncoder
from workers.loading import Loaded

CARD = resolve_model("hash").card


class SmallDevice(HashEncoder):
    """Has no memory for pictures while another process has not let go of it."""

    def preprocess(self, items: Sequence[Loaded]) -> tuple[list[bytes], int]:
        if any(item.image is not None for item in items):
            raise OutOfMemory("held by a process that is ending")
        return super().preprocess(items)


def test_a_costly_look_is_taken_with_the_third_shard_at_the_latest() -> None:
    """However long a look takes: a sick device publishes no more than two shards before it is seen."""
    canary = Canary(HashEncoder(CARD, delay_s=0.02), CARD, "float32")

    assert [canary.is_due(1000.0) for _ in range(3)] == [False, False, True]
    canary.check()
    assert not canary.is_due(1000.0)


def test_without_a_pause_each_shard_is_looked_at() -> None:
    """What a user who asks for 0 seconds gets, whatever it costs."""
    assert Canary(HashEncoder(CARD, delay_s=0.02), CARD, "float32").is_due(0.0)


def test_an_item_without_memory_condemns_no_device(tmp_path: Path) -> None:
    """A new process that starts while the one before still holds the device's memory says nothing of the device."""
    Canary(HashEncoder(CARD), CARD, "float32", tmp_path / "remembered")

    canary = Canary(SmallDevice(CARD), CARD, "float32", tmp_path / "remembered")

    canary.check()


def test_another_vector_in_a_new_process_is_the_devices_fault(tmp_path: Path) -> None:
    """The process is new, so it is not at fault; in an old one it may be the process."""
    Canary(HashEncoder(CARD), CARD, "float32", tmp_path / "remembered")

    with pytest.raises(DeviceFailed):
        Canary(HashEncoder(CARD, faults="drift@0"), CARD, "float32", tmp_path / "remembered")
    items = len(CARD.modalities - {Modality.MIXED})
    old = Canary(HashEncoder(CARD, faults=f"drift@{items}"), CARD, "float32")
    with pytest.raises(WorkerUnfit) as raised:
        old.check()

    assert raised.value.exit_code == 70
