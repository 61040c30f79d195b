"""The mill as its users run it: the command line and workers in processes of their own."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos.processes import alive as alive
from chaos.processes import children as children
from chaos.processes import command_of as command_of
from chaos.processes import kill as kill
from chaos.processes import parent_of as parent_of

ENTRY = [sys.executable, "-c", "from producer.cli import main; main()"]


Done = subprocess.CompletedProcess[str]
Running = subprocess.Popen[bytes]


def embedmill(
    *words: object,
    env: dict[str, str] | None = None,
    timeout_s: float = 300,
    cwd: Path | None = None,
    before: Sequence[str] = (),
) -> Done:
    """Run one command to its end; `before` are words in front of it."""
    return subprocess.run(
        [*before, *ENTRY, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=timeout_s,
        check=False,
        cwd=cwd,
    )


def without_network() -> list[str]:
    """The words before a command that take every network from it, loopback too; none where this user may not."""
    words = ["unshare", "--net"]
    try:
        return words if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0 else []
    except FileNotFoundError:
        return []


@contextmanager
def started(*words: object, env: dict[str, str] | None = None, log: Path | None = None) -> Iterator[Running]:
    """A command that runs beside the test, in a group of its own; killed at the end of the `with`."""
    output = log.open("wb") if log else subprocess.DEVNULL
    process = subprocess.Popen(
        [*ENTRY, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        if not isinstance(output, int):
            output.close()


def worker_pids(pid: int) -> list[int]:
    """The main processes of the workers below `pid`, and their children."""
    mains = [child for child in children(pid) if "celery" in command_of(child)]
    return mains + [grandchild for main in mains for grandchild in children(main)]


def server_pids(pid: int) -> list[int]:
    """The Redis server below `pid`."""
    return [child for child in children(pid) if "-server" in command_of(child)]


def events(log: Path) -> list[dict[str, Any]]:
    """What processes logged: one JSON object a line; other lines are passed over."""
    lines = log.read_text("utf-8", "replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]  # else half written


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(count: int, *, seed: int = 1, longest: int = 60) -> list[dict[str, Any]]:
    """Rows of mixed lengths, with a column to keep; the same for the same seed."""
    rng = random.Random(seed)
    words = "a cat sleeps on the sofa while rockets launch over the sea and people drink coffee in berlin".split()
    return [
        {"id": f"t{n:06d}", "text": " ".join(rng.choices(words, k=rng.randint(1, longest))), "label": f"l{n % 7}"}
        for n in range(count)
    ]
