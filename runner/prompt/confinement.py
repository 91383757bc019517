"""A process shuts itself in, for good: what runs in it afterwards reads a few folders and computes.

Theory
------
The sandbox in which templates run (`environment`) is a wall of Python in Python, and such walls have had
holes. `confine` puts the kernel's behind it, without privileges, and nothing can be taken back:

    limits       no file may grow (RLIMIT_FSIZE 0), no core file, so much memory and no more
    Landlock     files are read below the named folders alone; other processes can't be traced, signalled, or
                 looked into (the parent's environment holds keys)
    seccomp      a list of the system calls that computing and reading take. All others fail with EPERM:
                 sockets, programs, processes, signals, files to be written, memory to be executed

`probe` then tries what must not work. The walls count only where it finds them standing, so a kernel or a
machine on which a number is another one is found out by the process itself.

Linux 5.13 and later (Landlock), on x86-64 and AArch64. Everywhere else `confine` raises.
Sources: Linux, Documentation/userspace-api/{landlock,seccomp_filter}.rst; system call numbers from the
kernel's asm/unistd.h of the two machines.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class ConfinementError(Exception):
    """This system can't shut a process in, or not wholly. The text says what is lacking."""


class _Machine(NamedTuple):
    """`audit` is the kernel's number of a machine, `calls` those of system calls that may always be made,
    `watched` calls whose third argument is looked at: bits that it must not have."""

    audit: int
    calls: tuple[int, ...]
    watched: tuple[tuple[int, int], ...]


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PROT_EXEC = 4
# In this order: read write close fstat lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64
# readv writev sched_yield mremap madvise nanosleep getpid exit setitimer getdents64 futex set_robust_list
# clock_gettime clock_nanosleep exit_group newfstatat readlinkat getrandom gettid rseq sched_getaffinity
# statx ppoll faccessat faccessat2 membarrier; on x86-64 also the older stat lstat poll access readlink.
# Watched: openat, mmap, mprotect.
_MACHINES = {
    "x86_64": _Machine(
        audit=0xC000003E,
        calls=(
            *(0, 1, 3, 5, 8, 11, 12, 13, 14, 15, 17, 19, 20, 24, 25, 28, 35, 39, 60, 38, 217, 202, 273),
            *(228, 230, 231, 262, 267, 318, 186, 334, 204, 332, 271, 269, 439, 324),
            *(4, 6, 7, 21, 89),
        ),
        watched=((257, _WRITING), (9, _PROT_EXEC), (10, _PROT_EXEC)),
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        calls=(
            *(63, 64, 57, 80, 62, 215, 214, 134, 135, 139, 67, 65, 66, 124, 216, 233, 101, 172, 93, 103, 61),
            *(98, 99, 113, 115, 94, 79, 78, 278, 178, 293, 123, 291, 73, 48, 439, 283),
        ),
        watched=((56, _WRITING), (222, _PROT_EXEC), (226, _PROT_EXEC)),
    ),
}


def end_with(parent: int) -> None:
    """Have the kernel end this process with the thread that started it; at once where that has gone. What
    runs here later can't take it back: `prctl` is not among its calls. Linux; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)


def confine(readable: Iterable[str], *, memory_bytes: int) -> None:
    """Shut this process in, for good. Call it with everything imported, and before any other thread.

    `readable`: folders below which files may be read. `memory_bytes`: of its whole address space.
    Raises ConfinementError where that can't be done.
    """
    machine = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    if machine is None:
        raise ConfinementError(f"{platform.system()} on {platform.machine()} has no way to do it; Linux has")
    for limit, most in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _restrict_files(libc, readable)
    _filter_calls(libc, machine)


# ---------------------------------------------------------------- Landlock

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every machine
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""From which version on the kernel knows so many rights on files."""


class _Ruleset(ctypes.Structure):
    """`struct landlock_ruleset_attr`: what is forbidden unless a rule allows it."""

    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    """`struct landlock_path_beneath_attr`: rights below a folder."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _restrict_files(libc: ctypes.CDLL, readable: Iterable[str]) -> None:
    version = libc.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if version < 1:
        raise ConfinementError("the kernel has no Landlock; Linux 5.13 and later has it where it is enabled")
    rights = max(count for since, count in _FILE_RIGHTS.items() if since <= version)
    # Bits: 16 rights on files at most; bind and connect (version 4); abstract sockets and signals (6).
    wanted = _Ruleset((1 << rights) - 1, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(wanted), size, 0), "Landlock")
    for folder in readable:
        try:
            parent = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # not there, so nothing in it can be read
        rule = _PathBeneath(_READ_FILE | _READ_DIR, parent)
        added = libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
        os.close(parent)
        _checked(added, f"Landlock on {folder}")
    _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


# ---------------------------------------------------------------- seccomp

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: load a word, jump if equal, if a bit is set
_KILL, _FAIL, _ALLOW = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
_CALL_AT, _MACHINE_AT, _THIRD_ARGUMENT_AT = 0, 4, 32  # bytes into `struct seccomp_data`, little-endian


class _Instruction(ctypes.Structure):
    """`struct sock_filter`: what to do, how far to jump if it holds and if not, a value."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("holds", ctypes.c_uint8),
        ("fails", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def _filter_calls(libc: ctypes.CDLL, machine: _Machine) -> None:
    steps: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _CALL_AT),
    ]
    for call in machine.calls:
        steps += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _ALLOW)]
    for call, forbidden in machine.watched:
        steps += [
            (_EQUAL, 0, 4, call),
            (_LOAD, 0, 0, _THIRD_ARGUMENT_AT),
            (_ANY_BIT, 0, 1, forbidden),
            (_RETURN, 0, 0, _FAIL),
            (_RETURN, 0, 0, _ALLOW),
        ]
    steps.append((_RETURN, 0, 0, _FAIL))
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), instructions)
    done = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    _checked(done, "seccomp")


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise ConfinementError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


# ---------------------------------------------------------------- does it hold


def probe() -> None:
    """Try what must not work now. Raises ConfinementError with what did."""
    attempts: Sequence[tuple[str, Callable[[], object]]] = (
        ("open a socket", socket.socket),
        ("connect two sockets", socket.socketpair),
        ("read a file elsewhere", lambda: os.open("/proc/self/status", os.O_RDONLY)),
        ("open a file to write", lambda: os.open(os.devnull, os.O_WRONLY)),
        ("send a signal", lambda: os.kill(os.getpid(), 0)),
        ("start a process", _fork),
    )
    worked = [what for what, attempt in attempts if not _is_forbidden(attempt)]
    if worked:
        raise ConfinementError(f"the walls do not hold: it can {', '.join(worked)}")
    if not _is_forbidden(lambda: os.execv(sys.executable, [sys.executable, "-c", ""])):  # noqa: S606
        raise ConfinementError("the walls do not hold: it can start a program")  # if it is still here


def _is_forbidden(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except PermissionError:
        return True
    except OSError:
        pass  # for another reason, which proves nothing
    return False


def _fork() -> None:
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
