"""The documentation: links that lead somewhere, pages that can be found, generated ones that are current."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.doc_pages import DOCS, ROOT, anchors, blocks, links, pages

#: Blocks of the first page and the tutorials that cannot run here, by what they say that they need.
ELSEWHERE_ONLY = {
    "a fresh clone": 1,
    "your pictures": 2,
    "a model hub": 1,
    "a model hub and a GPU": 1,
    "machines with GPUs": 3,
    "a cluster": 1,
}


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """docs/mkdocs_hooks.py, which is of no package."""
    spec = importlib.util.spec_from_file_location("mkdocs_hooks", DOCS / "mkdocs_hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """Files are there, and so are the headings that anchors name."""
    lost = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            lost.append(target)

    assert not lost


def test_every_page_of_docs_is_in_the_navigation(hooks: ModuleType) -> None:
    """And every entry of the navigation is a page."""
    listed = set(re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))

    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}

    assert listed == written | set(hooks.ELSEWHERE.values())


def test_the_page_of_failure_codes_is_current() -> None:
    """docs/failures.md says what schemas/failures.py says, and what to do about each code."""
    command = [sys.executable, "docs/make_failures.py", "--check"]

    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_the_blocks_that_cannot_run_here_are_these() -> None:
    """A block of the first page or a tutorial runs in the tests, or says what it needs; how many do is known."""
    needs: dict[str, int] = {}
    for page in [DOCS / "index.md", *sorted((DOCS / "tutorials").glob("*.md"))]:
        for block in blocks(page):
            assert block.language in ("sh", "python", "text"), f"{page.name}: a block of {block.language or 'nothing'}"
            if block.needs:
                needs[block.needs] = needs.get(block.needs, 0) + 1

    assert needs == ELSEWHERE_ONLY


def test_links_of_the_site_stay_in_it_or_are_words(hooks: ModuleType) -> None:
    """What lies beside docs/ is a page of the site, the repository's, or, where that is not known, mere words."""
    fence = "\n```\n[a](../x)\n```\n"
    text = f"[a](../deploy/kubernetes/README.md#how) [b](../bench/plan_rows.py) [c](joins.md) [d](https://e.org){fence}"

    alone = hooks.links_of_site(text, "docs/deploy.md", "deploy.md")
    known = hooks.links_of_site(text, "docs/deploy.md", "deploy.md", "https://git.example.org/e/")

    assert alone == f"[a](deploy/kubernetes.md#how) b [c](joins.md) [d](https://e.org){fence}"
    assert "[b](https://git.example.org/e/blob/HEAD/bench/plan_rows.py)" in known


def test_the_site_is_built_without_a_warning_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    """mkdocs in its strict mode; no page takes a script, a style, a font or a picture from another host."""
    mkdocs = os.environ.get("EMBEDMILL_TEST_MKDOCS") or str(ROOT / ".venv-site/bin/mkdocs")
    if shutil.which(mkdocs) is None:
        pytest.skip("no mkdocs: make site")

    done = subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    written = [page.read_text("utf-8") for page in tmp_path.rglob("*.html")]
    assert len(written) > len(list(DOCS.rglob("*.md")))
    asked = [
        re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(https?:)?//[^\s\">]+", page) for page in written
    ]
    assert not any(asked)
    assert not [page[:300] for page in written if "<p>```" in page]  # a fence that the site does not take for one
