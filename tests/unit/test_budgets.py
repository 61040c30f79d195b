"""Budgets of batches: remembered between runs, private, and never needed."""

import json
import logging
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from schemas.settings import Settings
from storage.memory_file import BUDGETS, MemoryFile
from storage.model_files import resolve_model
from tests.mill import embedmill, texts, write_jsonl
from workers.batching import DEFAULT_TOKENS
from workers.budgets import budget_for, learn_budget
from workers.encoder import Length
from workers.hash_encoder import HashEncoder
from workers.loading import Loaded

MODEL = resolve_model("hash")


class Device(HashEncoder):
    """A model whose forward pass takes a fixed time, and a time by the token; with so much memory and no more."""

    def __init__(self, *, memory: int, fixed_s: float, token_s: float) -> None:
        super().__init__(MODEL.card, memory_tokens=memory)
        self.now, self._fixed_s, self._token_s = 0.0, fixed_s, token_s

    def lengths(self, items: Sequence[Loaded]) -> list[Length]:
        return [Length(128) for _ in items]

    def forward(self, features: tuple[list[bytes], int]) -> np.ndarray:
        contents, tokens = features
        self.now += self._fixed_s + tokens * self._token_s
        self.begin(len(contents), tokens)
        return np.ones((len(contents), self.dim), np.float32)


@pytest.mark.parametrize(
    ("memory", "fixed_s", "token_s", "expected"),
    [
        (0, 0.0, 1e-6, 512),  # nothing is gained by larger batches
        (0, 0.01, 1e-6, 131_072),  # a device that is slow to start
        (5000, 0.01, 1e-6, 4096),  # and has no memory for more
        (300, 0.01, 1e-6, DEFAULT_TOKENS),  # nor for the least: what is done then is found out batch by batch
        (0, 0.1, 1e-4, 16_384),
    ],
)
def test_the_smallest_budget_that_is_about_as_fast_as_any_is_learned(
    memory: int, fixed_s: float, token_s: float, expected: int
) -> None:
    """Doubled while that gains at least 3 in 100, and the device has memory."""
    device = Device(memory=memory, fixed_s=fixed_s, token_s=token_s)

    learned = learn_budget(device, limit_s=1000, clock=lambda: device.now)

    assert learned == expected


def test_learning_ends_when_its_time_is_over() -> None:
    """A slow device is not tried for minutes."""
    device = Device(memory=0, fixed_s=10.0, token_s=1e-6)

    learned = learn_budget(device, limit_s=30, clock=lambda: device.now)

    assert learned == 1024
    assert device.now == pytest.approx(40, abs=1)


def test_a_budget_that_shrank_is_remembered(tmp_path: Path) -> None:
    """The next process begins with what this one came down to; another device, model or type does not."""
    settings = Settings(memory_dir=str(tmp_path))
    budget_for(settings, MODEL, "float32").shrink_below(700)

    again = budget_for(settings, MODEL, "float32")

    assert again.tokens == 350
    assert stat.S_IMODE((tmp_path / BUDGETS).stat().st_mode) == 0o600
    for other in (replace(settings, size="gpu8"), replace(settings, device="cuda:0")):
        assert budget_for(other, MODEL, "float32").tokens == DEFAULT_TOKENS
    assert budget_for(settings, MODEL, "float16").tokens == DEFAULT_TOKENS


def test_what_is_asked_for_is_not_learned(tmp_path: Path) -> None:
    """EMBEDMILL_BATCH_TOKENS is the user's word, and no experience of the device."""
    settings = Settings(memory_dir=str(tmp_path), batch_tokens=900)

    budget = budget_for(settings, MODEL, "float32")
    budget.shrink_below(700)

    assert budget.tokens == 350
    assert not (tmp_path / BUDGETS).exists()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"v": 1}', b'{"v": 1, "entries": [1]}', b"\xff\xfe", b'{"entries": 5}']
)
def test_a_damaged_memory_is_ignored_in_one_line(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What no embedmill wrote is nothing remembered, said once, and is mended by the next thing to remember."""
    (tmp_path / BUDGETS).write_bytes(data)
    memory = MemoryFile(str(tmp_path), BUDGETS)
    with caplog.at_level(logging.WARNING):
        found = memory.entries()
    lines = len(caplog.records)
    memory.put({"a": 1})

    assert (found, lines) == ({}, 1)
    assert memory.entries() == {"a": 1}


@pytest.mark.parametrize("tokens", [0, -5, 1.5, "2048", True, None, 10**12, [1]])
def test_a_budget_that_makes_no_sense_is_none(tmp_path: Path, tokens: object) -> None:
    """A value that no embedmill wrote is not believed."""
    settings = Settings(memory_dir=str(tmp_path))
    budget_for(settings, MODEL, "float32").shrink_below(700)
    path = tmp_path / BUDGETS
    entries = json.loads(path.read_text())["entries"]
    [good] = entries.values()
    for value in (tokens, good | {"tokens": tokens}, good | {"at": "today"}, {"at": good["at"]}):
        path.write_text(json.dumps({"v": 1, "entries": dict.fromkeys(entries, value)}))

        assert budget_for(settings, MODEL, "float32").tokens == DEFAULT_TOKENS


def test_a_budget_of_last_week_is_forgotten(tmp_path: Path) -> None:
    """The memory that a device did not have then it may have now."""
    settings = Settings(memory_dir=str(tmp_path))
    budget_for(settings, MODEL, "float32").shrink_below(700)
    path = tmp_path / BUDGETS
    [(key, value)] = json.loads(path.read_text())["entries"].items()
    path.write_text(json.dumps({"v": 1, "entries": {key: value | {"at": value["at"] - 8 * 86_400}}}))

    assert budget_for(settings, MODEL, "float32").tokens == DEFAULT_TOKENS


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is remembered then, and the work goes on."""
    (tmp_path / "file").write_text("")
    memory = MemoryFile(str(tmp_path / "file"), BUDGETS)

    memory.put({"a": 1})

    assert memory.entries() == {}
    assert "cannot be written" in caplog.text


def test_a_run_remembers_what_its_workers_found_out(tmp_path: Path) -> None:
    """A device with memory for 500 tokens: batches came down to what it holds, and the next run begins there."""
    env = {"EMBEDMILL_HASH_MEMORY_TOKENS": "500", "EMBEDMILL_MEMORY_DIR": str(tmp_path / "memory")}
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(200))

    done = embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out", "--workers", "1", env=env)

    assert done.returncode == 0, done.stderr
    [remembered] = json.loads((tmp_path / "memory" / BUDGETS).read_text())["entries"].values()
    assert 50 < remembered["tokens"] <= 1024
