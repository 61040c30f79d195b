"""Completion, asked by a real bash: commands, options and values, quickly, and files where there is nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from producer.completion import script
from tests.mill import embedmill

_ASKED = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_embedmill_completion embedmill
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program `embedmill`, as an installation has one, and what bash is told."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "embedmill"
    program.write_text(f"#!{sys.executable}\nfrom producer.cli import main\nmain()\n")
    program.chmod(0o755)
    (folder / "completion.bash").write_text(script("bash"))
    return folder


def completed(path: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    environ = os.environ | {"PATH": f"{path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["bash", "-c", _ASKED, "bash", str(path / "completion.bash"), "embedmill", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("jo",), ["join"]),
        (("run", "rows.jsonl", "--model", "mini"), ["minilm"]),
        (("join", "a", "b", "--score", ""), ["cosine", "dot", "centered", "csls", "margin", "zscore"]),
        (("run", "rows.jsonl", "--modality", "vi"), ["video"]),
        (("models", "sh"), ["show"]),
        (("dedup", "--thres"), ["--threshold"]),
        (("status", ""), []),
    ],
    ids=lambda value: "-".join(value) or "nothing",
)
def test_bash_is_offered_what_fits(path: Path, words: tuple[str, ...], offered: list[str]) -> None:
    """Commands, names of models, values and options; for a folder nothing, so that bash offers files."""
    assert completed(path, *words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed_and_is_one(shell: str) -> None:
    """`embedmill completion SHELL` prints it; where the shell is installed, it takes it."""
    done = embedmill("completion", shell)

    assert done.returncode == 0, done.stderr
    assert "_EMBEDMILL_COMPLETE=complete_" + shell in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.parametrize(("words", "code"), [("embedmill models ", 0), ("embedmill status ", 1)])
def test_fish_is_told_whether_there_is_anything_to_choose_from(words: str, code: int) -> None:
    """By the exit code: else it would offer no files."""
    asked = {"_EMBEDMILL_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "is-args"}

    done = embedmill(env=asked | {"_TYPER_COMPLETE_ARGS": words})

    assert done.returncode == code


def test_answering_a_shell_loads_no_heavy_library() -> None:
    """Whoever presses Tab waits for no model, and for no library that models need."""
    code = (
        "import sys\n"
        "from producer.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'celery', 'pyarrow', 'numpy', 'redis') if name in sys.modules])"
    )
    asked = {"_EMBEDMILL_COMPLETE": "complete_bash", "COMP_WORDS": "embedmill run x --model demo", "COMP_CWORD": "4"}

    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "[]"
    assert "demo" in done.stdout.split()
