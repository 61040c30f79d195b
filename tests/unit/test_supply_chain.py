"""What is installed is what was tested: locks say the versions that are pinned, and a hash of each file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "deploy/cpu.lock", "deploy/cuda.lock")
BY_VERSION = {"torch", "torchvision"}  # their build without CUDA has an index of its own


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pairs = (line.split(";")[0].split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {normal(name.strip()): version.strip() for name, version in pairs}


def parts(lock: str) -> dict[str, tuple[str, str]]:
    """Version and hashes of each package."""
    text = (ROOT / lock).read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)([^#]*?)(?=^[A-Za-z0-9]|\Z)", text, re.MULTILINE)
    return {normal(name): (version, rest) for name, version, rest in found}


def test_the_lock_is_of_the_pins() -> None:
    """Every pin but torch's, and nothing else: `python deploy/make_locks.py` after a change."""
    locked = {name: version for name, (version, _) in parts("requirements.lock").items()}

    assert locked == {name: version for name, version in pins().items() if name not in BY_VERSION}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_hashes(lock: str) -> None:
    """At least one sha256 each: pip refuses the whole file otherwise."""
    unhashed = [name for name, (_, rest) in parts(lock).items() if not re.search(r"--hash=sha256:[0-9a-f]{64}", rest)]

    assert len(parts(lock)) > 20
    assert unhashed == []


def test_images_run_what_was_tested() -> None:
    """Each version in an image is the pinned one; CUDA's libraries are torch's own choice."""
    image = parts("deploy/cpu.lock") | parts("deploy/cuda.lock")
    other = {name for name, (version, _) in image.items() if pins().get(name, version) != version}
    unpinned = {name for name in image if name not in pins() and not re.match("nvidia-|cuda-|triton$", name)}

    assert other == set()
    here = {name for name in unpinned if not image[name][1].lstrip().startswith(";")}  # not of other systems alone
    assert here <= {"setuptools"}  # torch names it; environments bring their own


def test_the_image_is_installed_from_locks_alone() -> None:
    """Each pip install of the Dockerfile is by hash, or without dependencies."""
    text = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]+)", text)

    assert len(installs) == 6
    assert all("--no-deps" in words for words in installs)
    assert [
        words for words in installs if "-r " in words and "--require-hashes" not in words and "torch" not in words
    ] == []
