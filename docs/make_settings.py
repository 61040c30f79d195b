"""Writes docs/settings.md from the settings' own comments and the options of the command line; `--check` compares."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from producer.cli import app
from schemas import settings as settings_module
from schemas.settings import ENVIRON, Settings

PAGE = Path(__file__).parent / "settings.md"
#: What a supervisor tells its processes: options of `embedmill worker` say the same.
TOLD = {"worker_name", "crumb_dir", "queues", "roots", "device", "size", "allow_private", "broker_url"}
#: What is read in one place alone, with the reason why it is no option.
ELSEWHERE = {
    "EMBEDMILL_METRICS_TOKEN": "secret of 16 characters or more: `--metrics` beyond loopback asks for it",
    "EMBEDMILL_MONITOR_PASSWORD": "secret of 12 characters or more: the monitor's password",
    "EMBEDMILL_MODELS": "TOML files with model cards of your own, with `:` between; "
    "default: embedmill/models.toml in the user's configuration",
    "EMBEDMILL_CHAOS": "set by `embedmill chaos` on its own processes, to find them again",
}
#: Of other programs and libraries that are heard.
FOREIGN = {
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, ...": "object stores; "
    "never from a URL",
    "GOOGLE_*, AZURE_*": "object stores that media are read from",
    "HF_HOME, HF_TOKEN, HF_HUB_OFFLINE": "where hub models are kept, and how they are got",
    "TMPDIR": "where plans are cut and breadcrumbs lie; a disk that holds a few GiB",
    "XDG_CONFIG_HOME, XDG_CACHE_HOME": "the user's configuration and cache",
}


def page() -> str:
    """The whole page."""
    told, own = [], []
    for name, (default, comment) in _commented().items():
        (told if name in TOLD else own).append(f"| `{ENVIRON[name]}` | {default} | {comment} |")
    parts = [
        "# Settings\n\nMade by `make docs` from the code; do not edit. None of them changes a vector.\n",
        _table("Without an option", "| variable | default | |", [*own, *_pairs(ELSEWHERE)]),
        _table("Options of the command line that are variables too", "| variable | option | of |", _options()),
        _table("Told by a supervisor to its processes", "| variable | default | |", told),
        _table("Of others", "| variable | | |", _pairs(FOREIGN)),
    ]
    return "\n".join(parts)


def _table(title: str, head: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}\n", head, "| --- | --- | --- |", *lines, ""])


def _pairs(words: dict[str, str]) -> list[str]:
    return [f"| `{name}` | | {what} |" for name, what in words.items()]


def _commented() -> dict[str, tuple[str, str]]:
    """Each setting's default and the comment beside it."""
    source = Path(str(settings_module.__file__)).read_text()
    lines = source.splitlines()
    [found] = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Settings"]
    told = {}
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            comment = re.search(r"  # (.+)", lines[node.lineno - 1])
            name = node.target.id
            told[name] = (_shown(getattr(Settings(), name)), comment[1] if comment else "")
    return told


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in ("", ()) else f"{value:g}" if isinstance(value, float) else str(value)


def _options() -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for path, option in _walk(typer.main.get_command(app), ""):
        for variable in [option.envvar] if isinstance(option.envvar, str) else option.envvar or []:
            found.setdefault((variable, option.opts[0]), []).append(path)
    return [f"| `{name}` | `{option}` | {', '.join(of)} |" for (name, option), of in sorted(found.items())]


def _walk(command, path) -> Iterator:  # type: ignore[no-untyped-def,type-arg]  # Typer ships no types for these
    for option in command.params:
        if getattr(option, "envvar", None):
            yield path, option
    for name, child in getattr(command, "commands", {}).items():
        yield from _walk(child, f"{path} {name}".strip())


def main() -> None:
    """Write the page, or exit 1 where it is stale."""
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit("docs/settings.md is not what the code says; run `make docs`")


if __name__ == "__main__":
    main()
