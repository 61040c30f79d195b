"""The jail: what a process gives up before it looks at hostile bytes. Linux; elsewhere limits alone.

seccomp-bpf by prctl(2), the program put together here: https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 22, 4, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_DENY = 0x00050000 | 1  # SECCOMP_RET_ERRNO, EPERM
_MISSING = 0x00050000 | 38  # ENOSYS: libc then uses clone, whose flags can be looked at
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000

#: The kernel's name of each machine, and the numbers of the calls that a decoder has no use for.
_MACHINES: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        56,  # clone
        435,  # clone3
        (
            *(2, 85, 257, 437, 303, 304),  # open, creat, openat, openat2, name_to_handle_at, open_by_handle_at
            *(41, 42, 43, 44, 46, 49, 50, 53, 288, 307),  # sockets
            *(57, 58, 59, 322),  # fork, vfork, execve, execveat
            *(62, 101, 129, 200, 310, 311, 424, 434, 438),  # kill, ptrace, tkill, process_vm_*, pidfd_*
            *(82, 83, 84, 86, 87, 88, 90, 92, 94, 133, 258, 259, 260, 263, 264, 265, 266, 268, 316),  # names and rights
            *(76, 77, 160, 319),  # truncate, ftruncate, setrlimit, memfd_create
            *(155, 161, 165, 166, 175, 246, 248, 249, 250, 272, 298, 308, 313, 321, 323, 425, 426, 427),  # the system's
        ),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        435,
        (
            *(56, 437, 264, 265),
            *(198, 199, 200, 201, 202, 203, 206, 211, 242, 269),
            *(221, 281),
            *(117, 129, 130, 240, 270, 271, 424, 434, 438),
            *(33, 34, 35, 36, 37, 38, 52, 53, 54, 55, 276),
            *(45, 46, 164, 279),
            *(39, 40, 41, 51, 97, 104, 105, 217, 218, 219, 241, 268, 273, 280, 282, 425, 426, 427),
        ),
    ),
}
_NOBODY = 65534
_FILES = 16


def die_with_parent() -> None:
    """End when the parent does, however it ends; also where it has ended already."""
    parent = os.getppid()
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent == 1 or os.getppid() != parent:
        os._exit(1)


def lock_in(memory_bytes: int) -> bool:
    """Give up files, network, other processes, and memory beyond `memory_bytes` more; False where only limits hold.

    What the process has open stays open. Everything that it will run must have been imported and used once.
    """
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
    die_with_parent()  # the change of user has cleared it
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return _install_filter()


def _become_nobody() -> None:
    """Root owns every file: a decoder of root's gives that up."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _address_space() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 2**32
    return pages * resource.getpagesize()


def _install_filter() -> bool:
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    program = _program(*machine)
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(header, len(header))
    try:
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(pointer))
    except OSError:  # a kernel without seccomp, or one that is told not to
        return False
    return True


def _program(architecture: int, clone: int, clone3: int, denied: tuple[int, ...]) -> bytes:
    """The filter: struct sock_filter { code, jump if true, jump if false, operand }, eight bytes each."""
    checks = [(number, "deny") for number in denied] + [(clone3, "missing"), (clone, "clone")]
    # After the checks: allow, deny, missing, kill, then the look at clone's flags.
    tail = {"allow": 0, "deny": 1, "missing": 2, "kill": 3, "clone": 4}
    code = [
        _instruction(_LOAD, 0, 0, _ARCHITECTURE_AT),
        _instruction(_JUMP_EQUAL, 0, 2 + len(checks) + tail["kill"], architecture),
        _instruction(_LOAD, 0, 0, _NUMBER_AT),
        _instruction(_JUMP_AT_LEAST, len(checks) + tail["deny"], 0, _X32),
    ]
    for at, (number, where) in enumerate(checks):
        code.append(_instruction(_JUMP_EQUAL, len(checks) - at - 1 + tail[where], 0, number))
    code += [_instruction(_RETURN, 0, 0, value) for value in (_ALLOW, _DENY, _MISSING, _KILL)]
    code += [
        _instruction(_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        _instruction(_JUMP_ANY_BIT, 0, 1, _CLONE_THREAD),
        _instruction(_RETURN, 0, 0, _ALLOW),
        _instruction(_RETURN, 0, 0, _DENY),
    ]
    return b"".join(code)


def _instruction(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def _prctl(option: int, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *words) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")
