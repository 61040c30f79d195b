"""Hostile ids, texts, captions, names and messages do nothing: not in the report, not on a terminal, not in CSV."""

import csv
import io
import json
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from schemas.visible import cell
from tests.mill import embedmill, write_jsonl
from tests.pages import read_page

SCRIPT = "<script>hacked=1</script>"
ANSI = "\x1b[2J\x1b]0;owned\x07\x9b31m"
TURNED = "\u202eexe.gnp\u2066\u200f\u2028\ufeff"
NUL = "a\0b"
FORMULA = '=HYPERLINK("http://evil.example";"x")'
#: What an id may hold: printable characters alone.
IDS = (SCRIPT, FORMULA, "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "'\" onmouseover=hacked=2", "z" * 200, "{{7*7}}")
TEXTS = (SCRIPT, ANSI, TURNED, FORMULA, "z" * 20_000, "e\u0301" * 40, "</script><svg onload=hacked=3>", NUL, " ")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job of hostile rows, in a folder with a hostile name; some rows fail, some lines are no rows."""
    folder = tmp_path_factory.mktemp("hostile") / f"a{ANSI.replace('/', '')}{TURNED}<b>"
    folder.mkdir()
    rows: list[dict[str, Any]] = [
        {"id": f"{id_}#{n}", "text": text, "label": text} for n, text in enumerate(TEXTS) for id_ in IDS
    ]
    rows += [{"id": f"{id_}@", "uri": f"{text}.png"} for id_, text in zip(IDS, TEXTS, strict=False)]
    rows += [{"id": ANSI, "text": "a line that is no row"}, {"id": "m", "modality": ANSI, "text": "nor is this"}]
    manifest = write_jsonl(folder / "rows.jsonl", rows)
    words = ("--model", "hash", "--keep", "label", "--out", folder / "out", "-w", "1", "--max-error-rate", "1")
    done = embedmill("run", manifest, *words, env={"EMBEDMILL_REPORT": "1"})
    assert done.returncode == 1, done.stderr
    assert "no report" not in done.stderr
    assert_harmless("run", done)
    return folder / "out"


def assert_harmless(what: str, done: subprocess.CompletedProcess[str]) -> None:
    """Fail for a character that a terminal would obey, or that turns the direction of what follows."""
    acting = {
        f"U+{ord(c):04X}" for c in done.stdout + done.stderr if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")
    }
    assert acting <= {"U+000A"}, (what, acting)
    assert "Traceback" not in done.stderr, (what, done.stderr)


def test_the_report_of_hostile_rows_has_our_elements_alone(out: Path) -> None:
    """Our style, our script, no handler, no place elsewhere, whatever ids, texts, columns, names and messages hold."""
    page = read_page((out / "report.html").read_bytes())

    assert page.breaches() == []
    assert SCRIPT in page.text


@pytest.mark.parametrize("command", ["status", "watch", "verify", "failures", "failures --rejects"])
def test_commands_say_hostile_words_without_effect(out: Path, command: str) -> None:
    """No command writes a character that a terminal obeys, whatever the job and its folder hold."""
    done = embedmill(*command.split(), out)

    assert done.returncode in (0, 1), done.stderr
    assert_harmless(command, done)


def test_lines_that_are_no_rows_are_listed(out: Path) -> None:
    """With line, id, code and why, for people, for spreadsheets and for scripts; --code chooses among them."""
    people, sheet, script, none = (
        embedmill("failures", out, "--rejects", *more) for more in ((), ("--csv",), ("--json",), ("--code", "no_such"))
    )

    told = [json.loads(line) for line in script.stdout.splitlines()]
    rows = list(csv.reader(io.StringIO(sheet.stdout)))
    assert len(told) > 1
    assert rows[0] == ["line", "id", "code", "message"] == list(told[0])
    assert [int(row[0]) for row in rows[1:]] == [row["line"] for row in told]
    assert people.stderr == f"{len(told)} lines are no rows\n"
    assert len(people.stdout.splitlines()) == len(told)
    assert (none.stdout, none.stderr) == ("", "no line with no_such\n")
    assert_harmless("failures --rejects --csv", sheet)


def test_a_search_shows_hostile_rows_without_effect(out: Path) -> None:
    """Ids, texts and kept columns of hits are shown, and nothing in them acts."""
    done = embedmill("search", out, ANSI.replace("\0", ""), "--top-k", "100")

    assert done.returncode == 0, done.stderr
    assert_harmless("search", done)
    assert "<script>" in done.stdout


def test_errors_say_hostile_words_without_effect(out: Path) -> None:
    """What a user mistyped, or a folder that is none, is said back without effect."""
    for words in (
        ("status", out / "none"),
        ("run", out / ANSI, "--model", "hash", "--out", out / TURNED),
        ("verify", ANSI),
    ):
        done = embedmill(*words)

        assert done.returncode == 2, done.stderr
        assert_harmless(words[0], done)


def test_a_dedup_and_its_report_take_hostile_rows(out: Path, tmp_path: Path) -> None:
    """Copies of hostile rows are found and shown, and nothing in them acts."""
    done = embedmill("dedup", out, "--out", tmp_path / "copies", env={"EMBEDMILL_REPORT": "1"})

    assert done.returncode == 0, done.stderr
    assert_harmless("dedup", done)
    assert read_page((tmp_path / "copies" / "report.html").read_bytes()).breaches() == []


def test_an_export_says_hostile_words_without_effect(out: Path, tmp_path: Path) -> None:
    """The folders that files were written to are said back without effect."""
    done = embedmill("export", out, "--compact", "1MB", "--out", tmp_path / ANSI.replace("/", ""))

    assert done.returncode == 0, done.stderr
    assert_harmless("export", done)


def test_no_cell_of_the_csv_of_failures_is_a_formula(out: Path) -> None:
    """Cells that begin like a formula begin with an apostrophe, and control characters are numbers."""
    done = embedmill("failures", out, "--limit", "0", "--csv")

    rows = list(csv.reader(io.StringIO(done.stdout)))
    cells = [value for row in rows for value in row]
    assert rows[0][0] == "id"
    assert len(rows) > len(IDS)
    assert not [value for value in cells if value[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert any(value.startswith("'=HYPERLINK") for value in cells)
    assert_harmless("failures --csv", done)


def test_failures_for_scripts_are_whole(out: Path) -> None:
    """With --json ids are as they are, escaped by JSON alone."""
    done = embedmill("failures", out, "--limit", "0", "--json", "--code", "text_nul")

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["id"] for row in rows} == {f"{id_}#{TEXTS.index(NUL)}" for id_ in IDS}
    assert_harmless("failures --json", done)


@pytest.mark.parametrize(
    ("text", "shown"), [("-5", "-5"), ("+1.5e3", "+1.5e3"), ("-5+1", "'-5+1"), ("a=1", "a=1"), ("\uff1d1", "'\uff1d1")]
)
def test_numbers_stay_numbers_in_cells(text: str, shown: str) -> None:
    """A sign does not make a formula of a number."""
    assert cell(text) == shown
