"""Settings come from the environment of a process, and a word that is none is refused by the variable's name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import Refused
from schemas.settings import Settings

ROOT = Path(__file__).parents[2]


def test_settings_survive_the_environment() -> None:
    """What a supervisor tells its workers is what they read."""
    told = Settings(roots=("/a b", "s3://c"), lease_s=0.5, batch_tokens=7, allow_private=True, message_key="k")

    assert Settings.from_environ(told.to_environ()) == told


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("EMBEDMILL_LEASE_S", "soon"),
        ("EMBEDMILL_LEASE_S", "nan"),
        ("EMBEDMILL_LEASE_S", "-1"),
        ("EMBEDMILL_STUCK_S", "inf"),
        ("EMBEDMILL_BATCH_TOKENS", "1.5"),
        ("EMBEDMILL_LOAD_THREADS", ""),
        ("EMBEDMILL_ROOTS", "[" * 3000),
    ],
)
def test_a_word_that_is_none_is_refused(name: str, text: str) -> None:
    """In one line that names the variable."""
    with pytest.raises(Refused, match=name) as raised:
        Settings.from_environ({name: text})

    assert "\n" not in str(raised.value)


def test_the_page_of_settings_is_current() -> None:
    """docs/settings.md is what comments and options say, and names every variable of ours that the code reads."""
    words = [sys.executable, "docs/make_settings.py", "--check"]
    done = subprocess.run(words, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    folders = ("schemas", "storage", "producer", "workers", "similarity")
    code = "".join(path.read_text() for folder in folders for path in (ROOT / folder).glob("*.py"))
    page = (ROOT / "docs" / "settings.md").read_text()

    assert done.returncode == 0, done.stderr
    assert {name for name in re.findall(r"\bEMBEDMILL_[A-Z_]*[A-Z]", code) if f"`{name}`" not in page} == set()
