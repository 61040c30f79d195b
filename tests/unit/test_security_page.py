"""SECURITY.md promises nothing that no test holds."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_requirement_has_its_test() -> None:
    """S1 to S40, each with a place and tests that are there."""
    lines = re.findall(r"^\| (S\d+) \| .+ \| (\S+) \| (.+) \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    missing = []
    for number, place, tests in lines:
        names = re.findall(r"`(\S+)::(\w+)`", tests)
        there = [f"def {name}(" in (ROOT / "tests" / file).read_text() for file, name in names]
        if not (names and all(there) and (ROOT / place).exists()):
            missing.append(number)

    assert [number for number, _, _ in lines] == [f"S{n}" for n in range(1, 41)]
    assert missing == []


def test_links_lead_somewhere() -> None:
    """Every relative link of the page is a file."""
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "SECURITY.md").read_text())

    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
