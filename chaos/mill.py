"""The mill under test: real processes in a private folder, started again when they die, none of which outlives it."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from celery.platforms import set_pdeathsig  # type: ignore[attr-defined]  # missing in celery-types

from chaos.guard import end_all, start_guard
from chaos.processes import children, command_of, family, kill
from chaos.proxy import Proxy, target_of, url_through
from chaos.published import Published, published_at
from chaos.server import Server
from chaos.truth import Truth, write_truth
from schemas.errors import StoreError
from storage import layout
from storage.faulty_store import StoreFaults
from storage.jobs import Job, find_job
from storage.store import open_store

_ENTRY = (sys.executable, "-c", "from producer.cli import main; main()")
#: Seconds that a worker may take to end after SIGTERM: its own grace, and a little.
_END_S = 25.0
#: A job that is refused so often is never taken: Redis comes back within a few.
_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MillOptions:
    """What the mill is made of, and what it works on."""

    location: str  # where jobs are made: a folder or s3:// prefix
    workers: int = 3
    rows: int = 4000  # of a job
    seed: int = 0
    model: str = "hash"
    images: bool = True  # rows of images too
    shard_seconds: float = 0.02
    lease_s: float = 2.0
    row_ms: float = 8.0  # that the model `hash` takes for a row


class Post:
    """One command that is always running: started again, whenever it ended."""

    def __init__(self, name: str, words: tuple[str, ...], env: dict[str, str], logs: Path) -> None:
        self.name, self._words, self._env, self._log = name, words, env, logs / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._told_to_end: float | None = None
        self.hit = False  # a lasting fault is upon it
        self.exits: list[float] = []  # seconds from each SIGTERM to its end

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def ending(self) -> bool:
        """Whether it was told to end, and has not yet."""
        return self._told_to_end is not None

    def fill(self) -> None:
        """Start it unless it runs. From the main thread only: the kernel ends it with the thread that started it."""
        if self.pid is not None:
            return
        if self._told_to_end is not None:
            self.exits.append(time.monotonic() - self._told_to_end)
            self._told_to_end = None
        self._process = started(self._words, self._env, self._log)

    def terminate(self) -> None:
        """SIGTERM to the process itself."""
        if self.pid is not None:
            self._told_to_end = time.monotonic()
            kill(self.pid, signal.SIGTERM)

    def wait(self, timeout_s: float) -> None:
        """Until it has ended, at most so long."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, timeout_s))
            except subprocess.TimeoutExpired:
                return
            if self._told_to_end is not None:
                self.exits.append(time.monotonic() - self._told_to_end)
                self._told_to_end = None


class WorkerPost(Post):
    """A worker with its own way to Redis."""

    def __init__(self, name: str, words: tuple[str, ...], env: dict[str, str], logs: Path, proxy: Proxy) -> None:
        super().__init__(name, words, env, logs)
        self.proxy = proxy

    @property
    def main(self) -> int | None:
        """Celery's main process."""
        found = children(self.pid) if self.pid is not None else []
        return next((pid for pid in found if "celery" in command_of(pid)), None)

    @property
    def child(self) -> int | None:
        """The process that computes."""
        main = self.main
        found = children(main) if main is not None else []
        return next((pid for pid in found if "billiard.spawn" in command_of(pid)), None)

    @property
    def everyone(self) -> list[int]:
        return family(self.pid) if self.pid is not None else []


@dataclass(slots=True)
class MillJob:
    """A job of the mill, from its submission to its end."""

    url: str
    truth: Truth
    files: Published
    submission: subprocess.Popen[bytes]
    job: Job | None = None  # once it is submitted
    done: bool = False
    tries: int = 1  # to submit it
    given_up: bool = False  # by the coordinator, or nobody takes it

    @property
    def shards(self) -> int:
        return self.job.record.plan.shards if self.job else 0


class Mill:
    """Workers, coordinators and jobs; a context manager whose end nothing survives."""

    def __init__(self, options: MillOptions, *, server: Server, private: Path) -> None:
        self.options, self.server, self._private = options, server, private
        self.mark = f"embedmill-chaos-{secrets.token_hex(8)}"
        self.logs = private / "logs"
        self.faults = private / "store-faults.json"
        self.jobs: list[MillJob] = []
        self.workers: list[WorkerPost] = []
        self.coordinators: list[Post] = []
        self._proxies: list[Proxy] = []

    def __enter__(self) -> "Mill":
        self.logs.mkdir(parents=True)
        StoreFaults().write(self.faults)
        self._guard = start_guard(self.mark)
        for number in range(self.options.workers):
            proxy = self._proxy()
            words = ("worker", "--workers", "1", *self._roots(), "--device", "cpu")
            post = WorkerPost(f"worker-{number}", words, self._env(proxy), self.logs, proxy)
            self.workers.append(post)
        self.add_coordinator()
        self.tend()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_all(self.mark)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait(30)
        for proxy in self._proxies:
            proxy.__exit__(None, None, None)

    def add_coordinator(self) -> Post:
        """One more coordinator; it runs from the next `tend` on."""
        name = f"coordinator-{len(list(self.logs.glob('coordinator-*')))}"
        post = Post(name, ("coordinate", *self._roots()), self._env(self._proxy()), self.logs)
        self.coordinators.append(post)
        post.fill()
        return post

    def dismiss(self, post: Post) -> None:
        """End a coordinator for good."""
        self.coordinators.remove(post)
        post.terminate()

    def tend(self) -> None:
        """Start again what has ended, and look after the jobs."""
        for post in (*self.workers, *self.coordinators):
            post.fill()
        for job in self.jobs:
            if not job.done:
                with contextlib.suppress(StoreError):  # the store is away: the next look tells more
                    self._look_after(job)

    def submit(self) -> MillJob:
        """Hand in one more job; `tend` sees to it that it gets there."""
        number = len(self.jobs) + 1
        folder = self._private / "manifests" / f"job-{number:03d}"
        truth = write_truth(
            folder, rows=self.options.rows, seed=self.options.seed * 1000 + number, images=self.options.images
        )
        url = f"{self.options.location}/job-{number:03d}"
        job = MillJob(url, truth, published_at(url), self._submission(truth, url))
        self.jobs.append(job)
        return job

    def stop(self) -> None:
        """SIGTERM to everyone, as a user does; what does not end in its time is killed at the end of the `with`."""
        posts: list[Post] = [*self.coordinators, *self.workers]
        for post in posts:
            post.terminate()
        deadline = time.monotonic() + _END_S
        for post in posts:
            post.wait(deadline - time.monotonic())

    def _look_after(self, job: MillJob) -> None:
        if job.job is None:
            if (code := job.submission.poll()) is None:
                return
            if code != 0:  # Redis was away: a user would do it again
                job.tries += 1
                job.given_up = job.tries > _TRIES
                job.submission = self._submission(job.truth, job.url)
                return
            job.job = find_job(open_store(job.url))
        assert job.job is not None
        driven = job.job.store.size(layout.SUBMITTED) is not None
        job.done = job.job.is_finished(job.job.record.plan)
        job.given_up = not driven and not job.done

    def _submission(self, truth: Truth, url: str) -> subprocess.Popen[bytes]:
        words = ("submit", str(truth.manifest), "--model", self.options.model, "--out", url, "--keep", "label")
        cut = ("--shard-seconds", str(self.options.shard_seconds), "--size", "cpu", "--json")
        return started((*words, *cut), self._env(None), self.logs / "submit.log")

    def _roots(self) -> tuple[str, ...]:
        return "--root", self.options.location, "--root", str(self._private)

    def _proxy(self) -> Proxy:
        proxy = Proxy(target_of(self.server.url))
        proxy.__enter__()
        self._proxies.append(proxy)
        return proxy

    def _env(self, proxy: Proxy | None) -> dict[str, str]:
        """The environment of a process: none of the user's own settings, and the mark by which it is found."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDMILL_")}
        return kept | {
            "EMBEDMILL_BROKER_URL": url_through(self.server.url, proxy.port) if proxy else self.server.url,
            "EMBEDMILL_INSECURE_BROKER": "1",  # refused or allowed by `embedmill chaos` itself
            "EMBEDMILL_LEASE_S": str(self.options.lease_s),
            "EMBEDMILL_HASH_DELAY_MS": str(self.options.row_ms),
            "EMBEDMILL_STORE_FAULTS": str(self.faults),
            "EMBEDMILL_CHAOS": self.mark,
        }


def started(words: tuple[str, ...], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """An embedmill command whose output goes to the end of `log`, and which dies with us."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*_ENTRY, *words],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the terminal is the runner's to pass on
            preexec_fn=partial(set_pdeathsig, "SIGKILL"),
        )
