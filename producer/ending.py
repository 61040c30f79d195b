"""The end of the process: Python's own handlers run, and then nothing else does."""

import atexit
import os
import sys

_BUG = 1


class Ending:
    """Ends this process with `code` once Python's exit handlers have run, without the destructors of C++ libraries.

    Their threads may still run then, and a joinable one aborts a process whose work is done
    (`terminate called without an active exception`). To be made before anything else is imported:
    exit handlers run last in, first out, and this one must be the last.
    """

    def __init__(self) -> None:
        self.code = _BUG
        atexit.register(self._leave)

    def _leave(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # a closed pipe: nobody reads
                continue
        os._exit(self.code)
