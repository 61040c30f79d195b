"""Fuzz one parser by coverage: `python -m tests.fuzz job.json 60` for a minute, `python -m tests.fuzz` names them all.

Needs `pip install atheris`, which is in no list of requirements: it is run by hand. What ends it is a bug, printed with
its traceback and written to a file `crash-...` of the current folder: it belongs among the seeds, or in a test.
"""

import contextlib
import logging
import sys
import tempfile
from pathlib import Path


def main(words: list[str]) -> None:
    import atheris  # type: ignore[import-untyped]  # not among the requirements

    with atheris.instrument_imports(include=["schemas", "storage", "producer", "workers", "similarity"]):
        from tests.fuzz.targets import targets
    from schemas.sealed import sealed, unsealed

    found = targets()
    if not words:
        print("\n".join(found))
        return
    target = found[words[0]]
    logging.disable(logging.CRITICAL)

    def once(data: bytes) -> None:
        if target.is_sealed:  # a mutation breaks the seal; what is behind it is looked at by Hypothesis
            with contextlib.suppress(ValueError, RecursionError):
                data = sealed(unsealed(data))
        with contextlib.suppress(*target.refused):
            target.parse(data)

    with tempfile.TemporaryDirectory(prefix="corpus-") as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        seconds = words[1] if len(words) > 1 else "60"
        atheris.Setup(["fuzz", f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=3000", corpus], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
