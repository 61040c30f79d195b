"""The summary: what it says can be pasted, and is written as people write it."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from producer.status import job_status
from producer.summary import duckdb_command, status_lines, summary_lines
from tests.inline import InlineMill
from tests.proved_jobs import text_job


@pytest.mark.parametrize("name", ["plain", "my job's", "'", 'a $HOME `x` "y"', "[a]*?"])
def test_the_query_that_is_shown_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Where there is no duckdb program Python's package counts the vectors, whatever the folder is called."""
    job = text_job(tmp_path / name)
    InlineMill(job).run()
    monkeypatch.setenv("PATH", "")

    _, option, code = shlex.split(duckdb_command(job_status(job)))
    exec(code)  # our own words

    assert option == "-c"
    assert "│ text" in capsys.readouterr().out


def test_one_of_a_kind_is_said_so(tmp_path: Path) -> None:
    """One line, one file, one row, one shard; several of them otherwise."""
    job = text_job(tmp_path)
    InlineMill(job).run()
    seen = job_status(job)

    one = replace(seen, rejects=1, left_out=1, shards=1, published=1, file_bytes=2048)
    two = replace(seen, rejects=2, left_out=2, shards=2, published=2, file_bytes=3 * 2**20)
    told = {n: "\n".join(summary_lines(s, seconds=None, done_now=0) + status_lines(s)) for n, s in ((1, one), (2, two))}

    assert "1 line that is no row; which, and why: embedmill failures --rejects" in told[1]
    assert "1 file whose ending is of no medium" in told[1]
    assert "1 of 1 shard\n" in told[1]
    assert "(2.0 KiB)" in told[1]
    assert "2 lines that are no rows; which" in told[2]
    assert "2 files whose endings are of no medium" in told[2]
    assert "2 of 2 shards\n" in told[2]
    assert "(3.0 MiB)" in told[2]
