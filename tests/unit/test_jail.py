"""The jail: what a process that has locked itself in can no longer do, tried in processes that are locked in."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workers import jail

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the jail is Linux's")
ROOT = Path(__file__).parents[2]

#: Tries everything, and prints what came of it: "done", or the name of the error.
SCRIPT = """
import ctypes, errno, json, mmap, os, resource, signal, socket, sys, threading
from workers.jail import lock_in

as_nobody, spare = sys.argv[1] == "nobody", sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
written = os.open(spare, os.O_WRONLY | os.O_CREAT)
listener = socket.create_server(("127.0.0.1", 0))
address = listener.getsockname()
already = socket.socket()
if as_nobody:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
jailed = lock_in(256 * 2**20)

def call(number, *arguments):
    if libc.syscall(number, *map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), "")

def limit(name, value):
    soft, hard = resource.getrlimit(name)
    resource.setrlimit(name, (value, value))

def thread():
    ran = []
    one = threading.Thread(target=ran.append, args=(1,)); one.start(); one.join()
    assert ran

def fork():
    if os.fork() == 0:
        os._exit(0)

def prlimit_parent():
    resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))

X86 = os.uname().machine == "x86_64"
attempts = {
    "open a file": lambda: open("/etc/hostname"),
    "open its own memory": lambda: open("/proc/self/mem"),
    "create a file": lambda: open("/tmp/created-in-jail", "w"),
    "look for a file": lambda: os.stat("/etc/hostname"),
    "list a folder": lambda: os.listdir("/"),
    "delete": lambda: os.unlink(spare),
    "rename": lambda: os.rename(spare, spare + "2"),
    "change rights by handle": lambda: os.fchmod(written, 0o777),
    "write a file that is open": lambda: os.write(written, b"x" * 10),
    "cut a file that is open": lambda: os.ftruncate(written, 10),
    "make a socket": socket.socket,
    "make a pair of sockets": socket.socketpair,
    "connect a socket it has": lambda: already.connect(address),
    "accept": listener.accept,
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "fork": fork,
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "kill its parent": lambda: os.kill(os.getppid(), 0),
    "kill a thread of its parent": lambda: call(234 if X86 else 131, os.getppid(), os.getppid(), 0),
    "kill its group": lambda: os.killpg(0, 0),
    "limit its parent": prlimit_parent,
    "trace its parent": lambda: call(101 if X86 else 117, 16, os.getppid(), 0, 0),
    "open its parent": lambda: os.pidfd_open(os.getppid()),
    "set its parent's priority": lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19),
    "raise its memory": lambda: limit(resource.RLIMIT_AS, resource.RLIM_INFINITY),
    "raise its files": lambda: limit(resource.RLIMIT_NOFILE, 1024),
    "lower its files": lambda: limit(resource.RLIMIT_NOFILE, 8),
    "become root": lambda: os.setuid(0),
    "be dumped": lambda: call(157 if X86 else 167, 4, 1, 0, 0, 0),
    "outlive its parent": lambda: call(157 if X86 else 167, 1, 0, 0, 0, 0),
    "be told by signals": lambda: __import__("fcntl").fcntl(0, 8, os.getppid()),
    "share memory": lambda: call(29 if X86 else 194, 0, 4096, 0o1600),
    "make a file of memory": lambda: os.memfd_create("x"),
    "use io_uring": lambda: call(425, 8, 0),
    "use bpf": lambda: call(321 if X86 else 280, 0, 0, 0),
    "use the keys of the kernel": lambda: call(250 if X86 else 219, 0, -3, 0),
    "mount": lambda: call(165 if X86 else 40, 0, 0, 0, 0, 0),
    "make a namespace": lambda: call(272 if X86 else 97, 0x10000000),
    "call what x32 calls": lambda: call(0x40000000 + 1, 1, 0, 0),
    "allocate 8 GiB": lambda: bytearray(8 * 2**30),
    "map 8 GiB": lambda: mmap.mmap(-1, 8 * 2**30),
    "allocate 64 MiB": lambda: bytearray(64 * 2**20),
    "read its limits": lambda: resource.getrlimit(resource.RLIMIT_AS),
    "make a thread": thread,
    "sleep": lambda: __import__("time").sleep(0.001),
    "signal itself": lambda: (signal.signal(signal.SIGUSR1, lambda *_: None), signal.raise_signal(signal.SIGUSR1)),
}
outcomes = {}
for name, attempt in attempts.items():
    try:
        attempt()
        outcomes[name] = "done"
    except OSError as err:
        outcomes[name] = errno.errorcode.get(err.errno, str(err.errno))
    except (MemoryError, ValueError) as err:
        outcomes[name] = type(err).__name__
print(json.dumps({"jailed": jailed, "uid": os.getuid(), "outcomes": outcomes}))
"""

ALLOWED = {"allocate 64 MiB", "read its limits", "make a thread", "sleep", "signal itself"}
OUT_OF_MEMORY = {"allocate 8 GiB": "MemoryError", "map 8 GiB": "ENOMEM"}


def run(script: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_who_is_locked_in_can_compute_and_nothing_else(user: str, tmp_path: Path) -> None:
    """No file, socket, process or limit is within reach, whoever one was; memory is, up to the limit, and threads."""
    if user == "nobody" and os.geteuid() != 0:
        pytest.skip("only root can become somebody else")

    done = run(SCRIPT, user, str(tmp_path / "spare"))

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["jailed"] is True
    assert found["uid"] != 0
    outcomes = found["outcomes"]
    assert {name for name in outcomes if outcomes[name] == "done"} == ALLOWED
    assert {name: outcomes[name] for name in OUT_OF_MEMORY} == OUT_OF_MEMORY
    denied = {outcomes[name] for name in outcomes if name not in ALLOWED | set(OUT_OF_MEMORY)}
    assert denied <= {"EPERM", "EFBIG", "ValueError"}  # ValueError: Python's word for a limit that may not be raised
    assert not (tmp_path / "spare").read_bytes()


def test_threads_that_were_there_before_are_locked_in_too(tmp_path: Path) -> None:
    """A library's own threads, started before the filter is, are under it."""
    script = """
import os, threading
from workers.jail import lock_in
locked, tried, found = threading.Event(), threading.Event(), []
def later():
    locked.wait()
    try:
        os.open("/etc/hostname", os.O_RDONLY); found.append("opened")
    except OSError as err:
        found.append(err.errno)
    tried.set()
threading.Thread(target=later, daemon=True).start()
lock_in(2**28); locked.set(); tried.wait(); print(found[0], flush=True); os._exit(0)
"""
    done = run(script)

    assert done.stdout.strip() == "1", done.stderr


def test_a_process_that_aborts_ends_by_that_signal() -> None:
    """What a library does when it finds itself broken must end the process, not send it into a circle."""
    done = run("import os\nfrom workers.jail import lock_in\nlock_in(2**28)\nos.abort()")

    assert done.returncode == -signal.SIGABRT


def test_who_asks_for_another_parent_ends() -> None:
    """A process whose parent has died before it could ask the kernel for company is not left over."""
    done = run("import os\nfrom workers.jail import die_with_parent\ndie_with_parent(os.getpid())\nprint('left over')")

    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_of_system_calls_are_the_kernels(machine: str) -> None:
    """Each number is that of the kernel's headers, where they are installed."""
    header, pattern = {
        "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), r"#define __NR_(\w+)\s+(\d+)"),
        "aarch64": (Path("/usr/include/asm-generic/unistd.h"), r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
    }[machine]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    kernels = {name: int(number) for name, number in re.findall(pattern, header.read_text())}
    _, column = jail._MACHINES[machine]

    ours = {name: numbers[column] for name, numbers in {**jail._ALLOWED, **jail._LIMITED}.items()}

    assert {name: number for name, number in ours.items() if number not in (None, kernels.get(name))} == {}
    assert jail._SECCOMP[column] == kernels["seccomp"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_program_that_ends(machine: str) -> None:
    """Every jump leads forward, to an instruction that is there."""
    program = jail._program(*jail._MACHINES[machine], 4711)

    instructions = [program[at : at + 8] for at in range(0, len(program), 8)]
    assert len(program) % 8 == 0
    assert len(instructions) < 256
    for at, (code, _, if_true, if_false, *_) in enumerate(instructions):
        assert code == 0x06 or at + 1 + max(if_true, if_false) < len(instructions)
    assert instructions[-1][0] == 0x06
