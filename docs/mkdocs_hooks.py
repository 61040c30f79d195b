"""What the site needs beyond its pages: pages that lie outside docs/, and links that lead out of it."""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Pages that lie elsewhere in the repository, and what the site calls them.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",  # the site's first page says what the README says
    "deploy/kubernetes/README.md": "deploy/kubernetes.md",
}
_LINK = re.compile(r"(?P<image>!?)\[(?P<words>[^\]]*)\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
#: A block that runs elsewhere only; the tests read the same words.
_NEEDS = re.compile(r'^```(\w+) needs="([^"]+)"$', re.MULTILINE)
_FENCED = re.compile(r"^(?:```|~~~).*?^(?:```|~~~)$", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:  # Any: the tests' environment has no mkdocs to take types from
    """Add the pages of ELSEWHERE."""
    from mkdocs.structure.files import File

    for source, page in ELSEWHERE.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The page, with its links as the site has them, and with what a block needs as its title."""
    markdown = _NEEDS.sub(r'```\1 title="Needs \2"', markdown)
    own = {there: here for here, there in ELSEWHERE.items() if there != "index.md"}
    source = own.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return links_of_site(markdown, source, page.file.src_uri, config.repo_url or "")


def links_of_site(markdown: str, source: str, page: str, repository: str = "") -> str:
    """`markdown` of the file `source`, shown as `page`: links into the repository lead there, or are mere words.

    Where no `repository` is known, a file that is no page has nowhere to be shown.
    """

    def of_site(match: re.Match[str]) -> str:
        target = match["target"]
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = ELSEWHERE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if there is not None:
            relative = posixpath.relpath(there, posixpath.dirname(page) or ".")
            return f"{match['image']}[{match['words']}]({relative}{match['anchor'] or ''})"
        return f"[{match['words']}]({repository.rstrip('/')}/blob/HEAD/{path})" if repository else match["words"]

    kept, end = [], 0
    for fence in _FENCED.finditer(markdown):
        kept += [_LINK.sub(of_site, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*kept, _LINK.sub(of_site, markdown[end:])])
