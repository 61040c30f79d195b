"""The command line's own manners, without any worker."""

import json
import subprocess
import sys
from pathlib import Path

from tests.mill import ENTRY, embedmill, texts, write_jsonl

ROOT = Path(__file__).parents[2]


def test_help_loads_no_heavy_library() -> None:
    """`--help` answers at once: it imports neither torch nor Celery, nor Arrow, nor numpy."""
    code = (
        "import sys\n"
        "from producer.cli import main\n"
        "sys.argv = ['embedmill', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'celery', 'kombu', 'pyarrow', 'numpy', 'redis') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_the_page_of_commands_is_current() -> None:
    """docs/cli.md says what the help texts say."""
    done = subprocess.run(
        [sys.executable, "docs/make_cli.py", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_every_option_says_what_it_is_for() -> None:
    """No command and no option without a help text."""
    import typer

    from producer.cli import app

    group = typer.main.get_command(app)
    commands = dict(group.commands)  # type: ignore[attr-defined]  # a group has them
    commands |= {f"models {name}": command for name, command in commands.pop("models").commands.items()}

    assert len(commands) == 27
    for name, command in commands.items():
        assert command.help, name
        assert "embedmill" in command.help, f"{name} shows no example"
        for parameter in command.params:
            assert getattr(parameter, "help", "x"), f"{name} {parameter.name}"


def test_a_wrong_word_gets_one_line() -> None:
    """Unknown commands and options, missing and impossible values: exit 2 and one line that says where to look."""
    wrong = [("rnu",), ("run",), ("run", "x.jsonl", "--nope"), ("run", "x.jsonl", "--shard-seconds", "0")]
    wrong += [("run", "x.jsonl", "-m", "minilm", "-o", "o", "--dtype", "float17")]

    for words in wrong:
        done = embedmill(*words)

        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "--help" in done.stderr
        assert ".;" not in done.stderr and "Value error" not in done.stderr  # a library's own words


def test_every_command_takes_the_short_word_for_help() -> None:
    """`-h` says what `--help` says, also of a command below another."""
    from typer.testing import CliRunner

    from producer.cli import app

    for words in ([], ["run"], ["search"], ["models"], ["models", "list"]):
        short, long = (CliRunner().invoke(app, [*words, option]) for option in ("-h", "--help"))

        assert (short.exit_code, short.output) == (0, long.output)
        assert "-h, --help" in short.output


def test_models_are_listed_and_shown() -> None:
    """The short names, and what is known of one, for people and for scripts."""
    listed = json.loads(embedmill("models", "list", "--json").stdout)
    shown = json.loads(embedmill("models", "show", "minilm", "--json").stdout)

    assert {"minilm", "demo", "hash", "sounds", "qwen3-vl-embedding-2b"} <= {model["name"] for model in listed}
    assert (shown["dim"], shown["modalities"], shown["max_tokens"]) == (384, ["text"], 256)
    assert "384" in embedmill("models", "show", "demo").stdout


def test_a_card_says_what_device_its_model_needs_and_why() -> None:
    """Before a file of it is here."""
    told = json.loads(embedmill("models", "show", "qwen3-vl-embedding-8b", "--json").stdout)
    said = embedmill("models", "show", "qwen3-vl-embedding-8b").stdout

    assert told["size"] == "gpu24"
    assert "8.14 B parameters in bfloat16" in told["size_reason"]
    assert "a GPU of 24 GiB (gpu24)" in said


def test_a_folder_is_inspected_without_its_weights() -> None:
    """What it takes, and that its tokenizer can be built here."""
    done = embedmill("models", "inspect", "minilm")

    assert done.returncode == 0
    assert "it can be fed on this machine" in done.stdout


def test_doctor_names_a_fix_for_what_is_wrong(tmp_path: Path) -> None:
    """All is well here but for the Redis that is not there."""
    well = embedmill("doctor", "--out", tmp_path / "store", "--model", "minilm", "--json")
    ill = embedmill("doctor", "--broker-url", "redis://127.0.0.1:1/0", "--model", "minilm")

    findings = {finding["what"]: finding for finding in json.loads(well.stdout)}
    assert findings["store"]["ok"]
    assert findings["Redis"]["ok"]
    assert ill.returncode == 2
    assert "BAD  Redis" in ill.stdout
    assert "fix: start it" in ill.stdout


def test_a_pipe_that_closes_is_no_error(tmp_path: Path) -> None:
    """`embedmill plan ... | head -0` prints no traceback."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(3))
    command = " ".join(
        [*(f"'{word}'" for word in ENTRY), "plan", str(manifest), "-m", "hash", "-o", str(tmp_path / "o")]
    )

    done = subprocess.run(f"{command} | true", shell=True, capture_output=True, text=True, check=False)

    assert done.stderr == ""


def test_a_library_that_aborts_at_the_end_changes_no_exit_code() -> None:
    """The destructors of C++ libraries, which abort where a thread of theirs still runs, are not run at all."""
    code = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.__cxa_atexit(libc.abort, None, None)\n"
        "from producer.cli import main\n"
        "sys.argv = ['embedmill', 'models', 'list']\n"
        "main()"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "minilm" in done.stdout


def test_a_misspelt_column_is_refused_before_the_job_is_made(tmp_path: Path) -> None:
    """No row of a JSONL manifest has it: exit 2, and the folder can be used for the corrected call."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(3))

    wrong = embedmill("plan", manifest, "-m", "hash", "-o", tmp_path / "o", "--keep", "lable")
    right = embedmill("plan", manifest, "-m", "hash", "-o", tmp_path / "o", "--keep", "label")

    assert wrong.returncode == 2
    assert "--keep lable" in wrong.stderr
    assert right.returncode == 0


def test_a_media_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    """Before every image becomes a failure."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(3))

    done = embedmill("plan", manifest, "-m", "hash", "-o", tmp_path / "o", "--media-root", tmp_path / "none")

    assert done.returncode == 2
    assert "is no folder" in done.stderr
