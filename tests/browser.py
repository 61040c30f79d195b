"""A real browser without a window: Debian's chromium."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def page_in_browser(url: str, folder: Path, *, screenshot: Path | None = None) -> str:
    """The page's HTML after its scripts have run; skips at home and fails in CI where there is no chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        assert not os.environ.get("CI"), "no chromium: apt-get install chromium"
        pytest.skip("no chromium: apt-get install chromium")
    shown = [f"--screenshot={screenshot}"] if screenshot else ["--dump-dom"]
    command = [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder}", "--window-size=1900,620", "--virtual-time-budget=5000", *shown, url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
