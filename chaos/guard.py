"""The guard: a process that outlives the runner by a moment, and ends what the runner left behind.

A process that was stopped with SIGSTOP dies of nothing but SIGKILL, and its parent's death does not send that.
"""

import subprocess
import sys
from pathlib import Path

from chaos.processes import kill, marked

#: Waits for the end of its stdin, which is the runner's end, however it came; argv: the mark, the source's folder.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[2])
sys.stdin.read()
from chaos.guard import end_all
end_all(sys.argv[1])
"""


def start_guard(mark: str) -> subprocess.Popen[bytes]:
    """Start it; it ends when its stdin is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, mark, str(Path(__file__).parents[1])],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is not for it
    )


def end_all(mark: str) -> None:
    """SIGKILL to everything that carries `mark`, until there is nothing: what dies may have started something."""
    while found := marked(mark):
        for pid in found:
            kill(pid)
