"""Draws docs/images/report-*.webp, what a report looks like: `python -m bench.report_pictures REPORT.html [AXE.js]`.

At three widths, in light and dark; fails where the console says a word, a request leaves the file, the page is wider
than its window, or, with the path of axe.min.js (npm axe-core), where that finds a serious fault.
"""

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.devtools import Browser

FOLDER = Path(__file__).parents[1] / "docs" / "images"
#: Name, width, dark, and how much of the page is drawn, in pixels.
VIEWS = (("desktop", 1280, False, 2600), ("phone", 390, False, 2600), ("dark", 1280, True, 2600))
_QUALITY = 72


def faults(browser: Browser, file: Path, axe: str) -> list[Any]:  # Any: what axe says
    """What is wrong with the page that is open."""
    found: list[Any] = browser.complaints()
    found += [url for url in browser.requests() if url != file.as_uri()]
    if browser.run("document.documentElement.scrollWidth > innerWidth"):
        found.append("the page is wider than its window")
    if axe:
        browser.run(f"{axe};1")
        said = browser.run("axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html)]))")
        found += [fault for fault in said if fault[0] in ("serious", "critical")]
    return found


def _save_sheet(browser: Browser, page: Image.Image) -> None:
    """The contact sheet of neighbours alone."""
    top = round(browser.run("document.getElementById('neighbours').getBoundingClientRect().top + scrollY"))
    page.crop((0, top, page.width, top + 1100)).save(FOLDER / "report-neighbours.webp", quality=_QUALITY, method=6)


def main() -> None:
    file = Path(sys.argv[1]).resolve()
    axe = Path(sys.argv[2]).read_text("utf-8") if len(sys.argv) > 2 else ""
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        for name, width, dark, height in VIEWS:
            browser.open(file, width=width, dark=dark, phone=width < 500)
            found = faults(browser, file, axe)
            if found:
                sys.exit(f"{name}: {found}")
            page = Image.open(io.BytesIO(browser.screenshot(quality=95)))
            if name == "desktop":
                _save_sheet(browser, page)
            picture = page.crop((0, 0, page.width, min(height, page.height)))
            picture.save(FOLDER / f"report-{name}.webp", quality=_QUALITY, method=6)
            print(f"{name}: no fault, {(FOLDER / f'report-{name}.webp').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
