"""The fleet: worker processes of this machine, started, watched, restarted and stopped."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

from celery.platforms import set_pdeathsig  # type: ignore[attr-defined]  # missing in celery-types

from schemas.errors import DeviceFailed, WorkerUnfit
from schemas.settings import Settings
from workers.metrics import FOLDER

#: A worker that ends by itself is started again after so many seconds, doubled at each fast death.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
#: A worker that lived so long did not die fast.
_LIVED_S = 60.0
#: A worker that takes itself out so often within so many seconds is not started again.
_MOST_UNFIT, _UNFIT_WITHIN_S = 3, 600.0


class Worker:
    """One Celery worker process with one child, and its restarts."""

    def __init__(self, settings: Settings, log: Path | None, counts: Path | None = None) -> None:
        self.settings = settings
        self._counts = counts
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._start_at = 0.0
        self.deaths = 0
        self.unfit = 0  # the exit code with which it is left alone for good
        self._unfit_at: list[float] = []

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        # Never our own stdout: that is for data.
        output: IO[bytes] | int = self._log.open("ab") if self._log else sys.stderr.fileno()
        self._process = subprocess.Popen(
            _command(self.settings),
            env=_environ(self.settings, self._counts),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the terminal is the supervisor's to pass on
            preexec_fn=partial(set_pdeathsig, "SIGKILL"),  # no worker outlives its supervisor
        )
        if not isinstance(output, int):
            output.close()
        self._started = time.monotonic()

    def watch(self) -> None:
        """Start the process again where it has ended."""
        if self._process is None or self._process.poll() is None or self.unfit:
            return
        now = time.monotonic()
        if self._start_at == 0.0:
            self.deaths += 1
            self._judge(self._process.returncode, now)
            lived = now - self._started > _LIVED_S
            self._pause_s = _FIRST_PAUSE_S if lived else min(self._pause_s * 2, _LONGEST_PAUSE_S)
            self._start_at = now + (0.0 if lived else self._pause_s)
        if now >= self._start_at:
            self._start_at = 0.0
            self.start()

    def _judge(self, code: int, now: float) -> None:
        """Leave a worker alone whose device is at fault, or that takes itself out again and again."""
        if code == WorkerUnfit.exit_code:
            self._unfit_at = [at for at in self._unfit_at if now - at < _UNFIT_WITHIN_S] + [now]
        if code == DeviceFailed.exit_code or len(self._unfit_at) >= _MOST_UNFIT:
            self.unfit = code

    def signal(self, number: int) -> None:
        """Signal the main process alone: its group's children would lose their message."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """True when the process has ended within the time."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


class Fleet:
    """One worker for each of `crew`."""

    def __init__(
        self, crew: list[Settings], *, logs: Path | None = None, name: str = "", counts: Path | None = None
    ) -> None:
        """With `counts`, a folder, the processes leave their metrics there."""
        # Random too: containers may share a host's name and have equal pids, and a name owns its leases.
        base = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._logs = logs
        self._crumbs = tempfile.TemporaryDirectory(prefix="embedmill-crumbs-")
        crew = [replace(settings, crumb_dir=settings.crumb_dir or self._crumbs.name) for settings in crew]
        self.workers = [
            Worker(replace(settings, worker_name=f"w{n}@{base}"), logs / f"worker-{n}.log" if logs else None, counts)
            for n, settings in enumerate(crew)
        ]

    def start(self) -> None:
        for worker in self.workers:
            worker.start()

    def watch(self) -> None:
        """Start again what has ended; call it every second or so.

        Raises WorkerUnfit, or DeviceFailed, when every worker has taken itself out for good.
        """
        for worker in self.workers:
            worker.watch()
        codes = [worker.unfit for worker in self.workers]
        if all(codes):
            at_fault = DeviceFailed if DeviceFailed.exit_code in codes else WorkerUnfit
            raise at_fault("all workers of this machine took themselves out, again and again; see their log")

    @property
    def size(self) -> int:
        return len(self.workers)

    @property
    def deaths(self) -> int:
        return sum(worker.deaths for worker in self.workers)

    def stop(self, *, grace_s: float) -> None:
        """Let each worker end its shard for up to `grace_s` seconds, then end it."""
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        for worker in self.workers:
            if not worker.wait(max(0.0, deadline - time.monotonic())):
                worker.signal(signal.SIGKILL)
        for worker in self.workers:
            worker.wait(10.0)
        self._crumbs.cleanup()


def usable_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _command(settings: Settings) -> list[str]:
    options = ["--without-gossip", "--without-mingle", "--task-events", "--loglevel=WARNING"]
    queues = f"--queues={','.join(settings.queues)}"
    return [
        sys.executable,
        "-m",
        "celery",
        "--quiet",
        "--app=workers.app",
        "worker",
        f"-n{settings.worker_name}",
        queues,
        *options,
    ]


def _environ(settings: Settings, counts: Path | None) -> dict[str, str]:
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    # GPUs counted as nvidia-smi lists them, so that each worker gets the one that its size was read from.
    one_thread |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "DO_NOT_TRACK": "1"}
    counted = {FOLDER: str(counts)} if counts else {}
    return {**os.environ, **one_thread, **quiet, **counted, **settings.to_environ(), "PYTHONUNBUFFERED": "1"}
