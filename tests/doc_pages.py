"""The pages of the documentation: their links, their blocks, and what runs these."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: its language, what it says that it needs (else ""), and its text."""

    language: str
    needs: str
    body: str


def pages() -> list[Path]:
    """Every page for readers: those of docs/, and those beside it."""
    beside = [
        ROOT / name
        for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/kubernetes/README.md")
    ]
    return [*sorted(DOCS.rglob("*.md")), *beside]


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks, in order."""
    return [
        Block(
            language=match["language"],
            needs="".join(re.findall(r'needs="([^"]+)"', match["info"])),
            body=match["body"],
        )
        for match in _FENCE.finditer(page.read_text("utf-8"))
    ]


def prose(page: Path) -> str:
    """The page without its blocks and code spans, whose brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text("utf-8")))


def links(page: Path) -> list[str]:
    """Targets of the page's links and images, as written; addresses elsewhere are left out."""
    text = prose(page)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What `#...` may name on the page: its headings, as mkdocs and GitHub both name them."""
    headings = re.findall(r"^#+ +(.+?) *$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def script(page: Path, languages: tuple[str, ...] = ("sh", "python")) -> str:
    """The page's blocks that run here, one after the other, as one shell script that stops at the first fault."""
    parts = ["set -euo pipefail"]
    for number, block in enumerate(blocks(page)):
        if block.language not in languages or block.needs:
            continue
        if block.language == "python":
            parts.append(f"python - <<'END_OF_BLOCK_{number}'\n{block.body}END_OF_BLOCK_{number}")
        else:
            parts.append(block.body.rstrip())
    return "\n".join(parts) + "\n"
