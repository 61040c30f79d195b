"""Fixtures for all tests: a clean environment, and tiny models that are built once."""

import os

import pytest


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's own reaches a test, and no test the network."""
    for name in [
        name for name in os.environ if name.startswith("EMBEDMILL_") and not name.startswith("EMBEDMILL_TEST")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
