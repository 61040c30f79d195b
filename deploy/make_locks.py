"""Writes the locks: every package of requirements.txt by the sha256 of its files. `pip install uv` first.

requirements.lock   the whole environment of tests and CI, without torch, whose build depends on the machine
deploy/cpu.lock     what an image runs, without torch
deploy/cuda.lock    torch from PyPI, with CUDA's libraries: of that image alone, beside cpu.lock
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: torch's own part of what is installed; its CPU build comes from an index of its own, which has other files.
TORCH = re.compile(r"^(torch|torchvision|triton|nvidia-.*|cuda-.*)$")
_HEAD = "# Made by deploy/make_locks.py from requirements.txt; do not edit. pip install --require-hashes --no-deps -r\n"


def locked(*words: str) -> dict[str, str]:
    """The lock's part of each package, by name, as uv resolves `words`."""
    common = ["--generate-hashes", "--universal", "--python-version=3.11", "--no-annotate", "--no-header", "--quiet"]
    command = ["uv", "pip", "compile", *words, *common]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    parts = re.split(r"^(?=[A-Za-z0-9])", done.stdout, flags=re.MULTILINE)
    return {part.partition("==")[0]: part for part in parts if "==" in part}


def write(path: str, parts: dict[str, str], *, torch: bool) -> None:
    """The packages of torch's own part, or all others."""
    chosen = (part for name, part in sorted(parts.items()) if bool(TORCH.match(name)) is torch)
    (ROOT / path).write_text(_HEAD + "".join(chosen))


def main() -> None:
    write("requirements.lock", locked("requirements.txt", "--no-deps"), torch=False)
    image = locked("pyproject.toml", "--extra=monitor", "--constraints=requirements.txt")
    write("deploy/cpu.lock", image, torch=False)
    write("deploy/cuda.lock", image, torch=True)


if __name__ == "__main__":
    main()
