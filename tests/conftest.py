"""Fixtures for all tests: a clean environment, and models that are built once."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from workers.torchvision_cpu import make_torchvision_importable


def pytest_configure() -> None:
    """Keep the hub's library off the network; it reads this when it is imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    make_torchvision_importable()  # before any test module imports transformers
    # The gate says the same of the same commit each time; new inputs are what EMBEDMILL_TEST_FUZZ and atheris are for.
    settings.register_profile("gate", derandomize="EMBEDMILL_TEST_FUZZ" not in os.environ)
    settings.load_profile("gate")


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No variable and no model card of the developer's own reaches a test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp()))
    for name in list(os.environ):
        if name.startswith("EMBEDMILL_") and not name.startswith("EMBEDMILL_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EMBEDMILL_REPORT", "0")  # a process more for each job; the tests of reports say otherwise
    monkeypatch.setenv("EMBEDMILL_MEMORY_DIR", str(tmp_path_factory.getbasetemp() / "memory"))  # nor of their machine


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the tiny models of tests/tiny_models.py, by name."""
    from tests.tiny_models import build_all  # here: it takes seconds to import, which only model tests shall pay

    return build_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the demo model is built for the whole session, by whoever needs it first."""
    return str(tmp_path_factory.mktemp("models"))
