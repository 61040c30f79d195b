"""Writes docs/cli.md from the help texts; `--check` only says whether it is current."""

import sys
from pathlib import Path

import typer

from producer.cli import app

PAGE = Path(__file__).parent / "cli.md"
WIDTH = 100


def page() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    parts = ["# The command line\n\nMade from the help texts by `make docs`; do not edit.\n"]
    return "".join([*parts, *_sections(root, "embedmill", None)])


def _sections(command, path, parent):  # type: ignore[no-untyped-def]  # Typer ships no types for the commands it makes
    width = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    context = type(command).context_class(command, info_name=path, parent=parent, **width)
    yield f"\n## {path}\n\n```text\n{command.get_help(context)}\n```\n"
    for name, child in getattr(command, "commands", {}).items():
        yield from _sections(child, f"{path} {name}", None)


def main() -> None:
    """Write the page, or exit 1 where it is stale."""
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit("docs/cli.md is not what the help texts say; run `make docs`")


if __name__ == "__main__":
    main()
