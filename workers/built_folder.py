"""A model folder that is built once from installed packages, and looks like any model's from then on."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from schemas.errors import WorkerUnfit
from storage.model_digest import folder_digest

#: Beside the model's files: their digest, so that a damaged folder is noticed. No file that can change a vector.
_SEAL = ".digest"


def built_folder(folder: Path, build: Callable[[Path, Path], None], *, what: str) -> Path:
    """The folder, built where it is missing by `build(folder, folder for what is needed meanwhile)`.

    Any number of processes may ask at once: each sees a whole folder. Raises WorkerUnfit where it is damaged, or
    cannot be written; `what` names the model in the message.
    """
    if not folder.is_dir():
        try:
            _build_at(folder, build)
        except OSError as err:
            where = f"{what} cannot be built in {folder.parent} ({err.strerror})"
            raise WorkerUnfit(f"{where}; set EMBEDMILL_MODEL_CACHE to a folder that can be written") from err
    try:
        seal = (folder / _SEAL).read_text()
    except OSError:
        seal = ""
    if folder_digest(folder) != seal:
        raise WorkerUnfit(f"{what} in {folder} is damaged; delete that folder, it is built anew")
    return folder


def _build_at(folder: Path, build: Callable[[Path, Path], None]) -> None:
    """Build in a private folder, which gets its name when it is whole; whoever comes second drops theirs."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    private = Path(tempfile.mkdtemp(prefix=".demo-", dir=folder.parent))
    try:
        model = private / "model"
        build(model, private / "parts")
        _seal(model)
        try:
            model.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _seal(folder: Path) -> None:
    """Write the digest, let everybody read (saved weights are 0600), and flush it all to disk."""
    (folder / _SEAL).write_text(folder_digest(folder))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
