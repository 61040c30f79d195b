"""A store that fails on purpose: what it says, and what it did all the same."""

from pathlib import Path

import pytest

from schemas.errors import StoreError
from storage.faulty_store import FaultyStore, StoreFaults, with_faults
from storage.store import Store, memory_store


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store, Path]:
    """A store, the same store failing, and the file that says how."""
    inner, faults = memory_store(), tmp_path / "faults.json"
    return inner, with_faults(inner, str(faults)), faults


def test_it_is_the_store_itself_where_nothing_is_said(stores: tuple[Store, Store, Path]) -> None:
    """No setting, no wrapper; a setting without a file, no faults."""
    inner, faulty, _ = stores

    assert with_faults(inner, "") is inner
    assert isinstance(faulty, FaultyStore)
    assert faulty.create("a", b"1")
    assert (faulty.get("a"), faulty.get_range("a", 0, 1), faulty.size("a")) == (b"1", b"1", 1)


def test_an_operation_that_fails_before_changes_nothing(stores: tuple[Store, Store, Path]) -> None:
    """The error names key and reason; when the fault has ended all is as it was."""
    inner, faulty, faults = stores
    StoreFaults(fail_before=1.0, error="ENOSPC").write(faults)

    with pytest.raises(StoreError, match="a: No space left on device"):
        faulty.create("a", b"1")
    StoreFaults().write(faults)

    assert inner.size("a") is None
    assert faulty.create("a", b"1")


def test_an_operation_that_fails_after_was_carried_out(stores: tuple[Store, Store, Path]) -> None:
    """Writes alone: whoever reads has lost nothing but an answer."""
    inner, faulty, faults = stores
    StoreFaults(fail_after=1.0).write(faults)

    with pytest.raises(StoreError):
        faulty.create("a", b"1")

    assert inner.get("a") == faulty.get("a") == b"1"


def test_a_lost_reply_makes_the_client_meet_itself(stores: tuple[Store, Store, Path]) -> None:
    """The second of its own requests is told that the key exists."""
    inner, faulty, faults = stores
    StoreFaults(lost_replies=1.0).write(faults)

    assert not faulty.create("a", b"1")
    assert inner.get("a") == b"1"
