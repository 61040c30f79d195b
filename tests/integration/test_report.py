"""The report as its readers have it: written by `run`, and opened in a browser."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from producer.reporting import ReportDesk, report_on
from tests.devtools import Browser
from tests.mill import embedmill, write_jsonl

WITH_REPORT = {"EMBEDMILL_REPORT": "1"}
#: Where a copy of axe-core lies; without one its rules are not tried.
AXE = os.environ.get("EMBEDMILL_TEST_AXE", "")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a job of texts and pictures, hostile ones among them, some of which fail."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [{"id": f"t{n}", "text": f"text {n} of many", "label": f"l{n % 3}"} for n in range(60)]
    rows += [
        {"id": "<script>hacked=1</script>", "text": "</script><script>hacked=2</script>", "label": "<img onerror=1>"},
        {"id": "'\" onclick=hacked=3", "text": "\x1b[31m\u202egnp.exe", "label": "=1+1"},
        {"id": "empty", "text": " "},
        {"id": "gone<svg onload=hacked=4>", "uri": "gone.png"},
    ]
    for n in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / f"{n}.png")
        rows.append({"id": f"p{n}", "uri": f"{n}.png"})
    manifest = write_jsonl(folder / "rows.jsonl", rows)
    words = ("run", manifest, "--model", "hash", "--keep", "label", "--out", folder / "out", "--workers", "1")
    done = embedmill(*words, env=WITH_REPORT)
    assert done.returncode == 1, done.stderr
    assert re.search(r"report +.*/report\.html", done.stdout)
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True)])
def test_the_page_is_quiet_alone_and_as_wide_as_the_window(
    report: Path, browser: Browser, width: int, dark: bool
) -> None:
    """No word on the console, no request but for the file, no scroll to the side, and nothing hostile has run."""
    browser.open(report, width=width, dark=dark, phone=width < 500)

    assert browser.complaints() == []
    assert browser.requests() == [report.as_uri()]
    assert browser.run("document.documentElement.scrollWidth <= innerWidth") is True
    assert browser.run("typeof hacked") == "undefined"
    assert browser.run("Array.from(document.images).every(i => i.complete && i.naturalWidth > 0)") is True
    assert browser.run("document.images.length") > 0


def test_the_map_is_walked_through_by_the_keys(report: Path, browser: Browser) -> None:
    """An arrow shows a row and says it aloud; Escape closes it; a switch takes its points away."""
    browser.open(report, width=1280)
    browser.run("document.querySelector('svg.map').focus()")

    browser.press("ArrowRight")
    said = browser.run("document.getElementById('said').textContent")
    shown = browser.run("document.querySelector('.tip').hidden")
    browser.press("Escape")

    assert said
    assert shown is False
    assert browser.run("document.querySelector('.tip').hidden") is True
    browser.run("document.querySelector('.switches button').click()")
    assert browser.run("getComputedStyle(document.querySelector('.points.off')).display") == "none"


@pytest.mark.skipif(not AXE, reason="EMBEDMILL_TEST_AXE names no axe.min.js")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_axe_finds_no_serious_fault(report: Path, browser: Browser, width: int, dark: bool) -> None:
    """None of axe-core's rules is broken in a way that keeps somebody from reading."""
    browser.open(report, width=width, dark=dark)
    browser.run(f"{Path(AXE).read_text('utf-8')};1")

    found = browser.run("axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html)]))")

    assert [fault for fault in found if fault[0] in ("serious", "critical")] == []


def test_a_report_that_cannot_be_made_is_said_and_costs_nothing(tmp_path: Path) -> None:
    """Where no report can be made there is a line that says why, and no exception."""
    said: list[str] = []

    made = report_on(str(tmp_path / "nothing"), said.append)

    assert made is False
    assert "holds no job" in said[0]


def test_the_report_is_written_where_it_is_told(report: Path, tmp_path: Path) -> None:
    """`embedmill report --out` writes that file, and prints its place."""
    made = embedmill("report", report.parent, "--out", tmp_path / "mine.html", "--no-content", "--no-umap")

    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{tmp_path}/mine.html\n"
    assert (tmp_path / "mine.html").read_bytes().startswith(b"<!doctype html>")


def test_a_desk_makes_what_it_is_asked_for(report: Path) -> None:
    """Whoever asks goes on at once; who waits finds the report made."""
    said: list[str] = []
    desk = ReportDesk(said.append)
    report.unlink()

    desk.ask(str(report.parent / "nothing"))
    desk.ask(str(report.parent))
    desk.wait()

    assert report.is_file()
    assert len(said) == 1
