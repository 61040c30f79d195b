"""The jail: what a process gives up before it looks at hostile bytes. Linux; elsewhere limits alone.

seccomp-bpf, the program put together here: https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1  # seccomp(2): SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_DENY = 0x00050000 | 1  # SECCOMP_RET_ERRNO, EPERM
_MISSING = 0x00050000 | 38  # ENOSYS: libc then uses clone, whose flags can be looked at
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_CLONE_THREAD = 0x00010000


#: The kernel's names of the machines that the filter is known for: AUDIT_ARCH_*, and the place in the table below.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

#: The system calls that a decoder has a use for, x86_64 and aarch64: what it has open, memory, threads, clocks, itself.
#: All others are denied. It opens nothing, so that it needs no call that takes a path.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "poll": (7, None), "lseek": (8, 62),
    "readv": (19, 65), "writev": (20, 66), "ppoll": (271, 73),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "mincore": (27, 232), "madvise": (28, 233),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124), "futex": (202, 98), "sched_getaffinity": (204, 123), "set_tid_address": (218, 96),
    "set_robust_list": (273, 99), "getcpu": (309, 168), "membarrier": (324, 283), "rseq": (334, 293),
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "times": (100, 153), "time": (201, None),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip

#: Calls that are allowed in part.
_LIMITED: dict[str, tuple[int, int]] = {
    "clone": (56, 220),  # for threads
    "clone3": (435, 435),
    "tgkill": (234, 131),  # to itself: abort() is one
    "prlimit64": (302, 261),  # to read its limits
}
_SECCOMP = (317, 277)
_NOBODY = 65534
_FILES = 16
_CAP_KILL = 5


def die_with_parent(parent: int) -> None:
    """End when the process `parent` does, however it ends; also where it has ended already.

    The kernel looks at the thread that has started this process: that one must last as long as its process.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def lock_in(memory_bytes: int) -> bool:
    """Give up files, network, other processes, and memory beyond `memory_bytes` more; False where only limits hold.

    What the process has open stays open. Everything that it will run must have been imported and used once.
    """
    parent = os.getppid()
    _become_nobody()
    limits = {
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_AS: _address_space() + memory_bytes,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    if sys.platform != "linux":
        return False
    die_with_parent(parent)  # the change of user has cleared it
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return _install_filter()


def _become_nobody() -> None:
    """Root owns every file: a decoder of root's gives that up, unless its parent could then not end it."""
    if os.geteuid() != 0 or not _may_kill():
        return
    with contextlib.suppress(OSError):  # a container may hold root without this right, or without that user
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _may_kill() -> bool:
    """Whether this root may signal processes of other users, as its parent must; true where nobody tells."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return True
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "f" * 16)
    return bool(int(effective, 16) >> _CAP_KILL & 1)


def _address_space() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 2**32
    return pages * resource.getpagesize()


def _install_filter() -> bool:
    if platform.machine() not in _MACHINES:
        return False
    architecture, column = _MACHINES[platform.machine()]
    program = _program(architecture, column, os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(header, len(header))
    words = (_SECCOMP[column], _SET_MODE_FILTER, _ALL_THREADS, ctypes.addressof(pointer))
    # By seccomp(2), not prctl(2), which would leave threads that exist already outside.
    return int(ctypes.CDLL(None).syscall(*map(ctypes.c_long, words))) == 0  # not 0: a kernel that is told not to


def _program(architecture: int, column: int, process: int) -> bytes:
    """The filter: struct sock_filter { code, jump if true, jump if false, operand }, eight bytes each.

    The numbers that x86_64 keeps for x32 begin at 2**30: like any that is not named, they are denied.
    """
    allowed = [numbers[column] for numbers in _ALLOWED.values()]
    limited = {name: numbers[column] for name, numbers in _LIMITED.items()}
    reads_only = [*_low(2), (_JUMP_EQUAL, 0), *_high(2), (_JUMP_EQUAL, 0)]
    return b"".join(
        [
            _instruction(_LOAD, 0, 0, _ARCHITECTURE_AT),
            _instruction(_JUMP_EQUAL, 1, 0, architecture),
            _instruction(_RETURN, 0, 0, _KILL),
            _instruction(_LOAD, 0, 0, _NUMBER_AT),
            *(_case(number, []) for number in allowed if number is not None),
            _case(limited["clone"], [*_low(0), (_JUMP_ANY_BIT, _CLONE_THREAD)]),
            _case(limited["tgkill"], [*_low(0), (_JUMP_EQUAL, process)]),
            _case(limited["prlimit64"], reads_only),
            _instruction(_JUMP_EQUAL, 0, 1, limited["clone3"]),
            _instruction(_RETURN, 0, 0, _MISSING),
            _instruction(_RETURN, 0, 0, _DENY),
        ]
    )


def _case(number: int, conditions: list[tuple[int, int]]) -> bytes:
    """Allow the call `number` where all of `conditions` hold, and deny it else; go on for another call."""
    tests = len(conditions)
    body = []
    for at, (code, operand) in enumerate(conditions):
        failed = 0 if code == _LOAD else tests - at  # beyond the conditions that follow, and the `allow`
        body.append(_instruction(code, 0, failed, operand))
    body.append(_instruction(_RETURN, 0, 0, _ALLOW))
    if conditions:
        body.append(_instruction(_RETURN, 0, 0, _DENY))
    return _instruction(_JUMP_EQUAL, 0, len(body), number) + b"".join(body)


def _low(argument: int) -> list[tuple[int, int]]:
    """Load the lower half of an argument; both machines keep it first."""
    return [(_LOAD, _ARGUMENTS_AT + 8 * argument)]


def _high(argument: int) -> list[tuple[int, int]]:
    return [(_LOAD, _ARGUMENTS_AT + 8 * argument + 4)]


def _instruction(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def _prctl(option: int, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *words) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")
