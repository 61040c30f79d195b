"""What a report takes, in time, memory and bytes: `python -m bench.report_rows ROWS [DIM] [--folder FOLDER]`.

Without DIM the rows are texts, embedded by `embedmill run --model hash`; with it their vectors are made up, of so many
dimensions. The report is made by `embedmill report`, in a process of its own, whose peak of memory is its own too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.verify_rows import planned_job, publish_all
from producer.finish import finish_job

ENTRY = [sys.executable, "-c", "from producer.cli import main; main()"]
_WORDS = [
    "a",
    "cat",
    "sleeps",
    "on",
    "the",
    "sofa",
    "while",
    "rockets",
    "launch",
    "over",
    "sea",
    "and",
    "drink",
    "coffee",
]


def write_manifest(path: Path, rows: int) -> None:
    """Texts of one to sixteen words, with a label of seven."""
    with path.open("w") as file:
        for n in range(rows):
            words = " ".join(_WORDS[(n * 7 + k * (n % 5 + 1)) % len(_WORDS)] for k in range(n % 16 + 1))
            file.write(f'{{"id": "t{n:08d}", "text": "{words} {n}", "label": "l{n % 7}"}}\n')


def make_job(folder: Path, rows: int, dim: int) -> Path:
    """The job's folder; one that is there already is taken as it is."""
    out = folder / f"out-{rows}-{dim}"
    if (out / "manifest.json").exists():
        return out
    if dim:
        job = planned_job(out, rows, dim)
        publish_all(job)
        finish_job(job)
        return out
    manifest = folder / f"rows-{rows}.jsonl"
    write_manifest(manifest, rows)
    words = ["run", str(manifest), "--model", "hash", "--keep", "label", "--out", str(out), "--no-report", "--quiet"]
    subprocess.run([*ENTRY, *words], check=True, stdout=subprocess.DEVNULL)
    return out


def measured(out: Path) -> tuple[float, float, float]:
    """Seconds, seconds of CPU and MiB at most of `embedmill report`, its decoder left out."""
    started = time.monotonic()
    process = subprocess.Popen([*ENTRY, "report", str(out), "--no-umap"], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        sys.exit(f"embedmill report ended with {os.waitstatus_to_exitcode(status)}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("dim", type=int, nargs="?", default=0)
    parser.add_argument("--folder", type=Path, help="where the job is made, and stays")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as private:
        folder = asked.folder or Path(private)
        folder.mkdir(parents=True, exist_ok=True)
        out = make_job(folder, asked.rows, asked.dim)
        seconds, cpu, peak = measured(out)
        size = (out / "report.html").stat().st_size
        files = sum(1 for _ in (out / "data").rglob("*.parquet"))
    of = f"{asked.dim} made-up dimensions" if asked.dim else "the hash encoder"
    print(f"{asked.rows:,} rows of {of}, {files:,} files: {seconds:.1f} s, {cpu:.1f} s of CPU, {peak:.0f} MiB at most")
    print(f"report.html: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
