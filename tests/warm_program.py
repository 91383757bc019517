"""`subprocess.Popen` and `subprocess.run` for the program, without the second that its imports take.

A `WarmPopen` of `python -m runner ...` or `python -m runner.localserver ...` is a process of its own, with
a pid, pipes and a wait status; it is forked from a zygote (see `tests.warm_zygote`) that this test process
starts once. How the program starts is tested with real interpreters, not with this.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

MODULES = ("runner", "runner.localserver", "tests.kills.hurried")
MAX_ORDER_BYTES = 200_000
INHERITED = (signal.SIGINT, signal.SIGTERM)
"""A child ignores those of these that its parent ignores, as after a fork and exec."""
_HOME = Path(__file__).parent.parent


class _Zygote:
    """The one zygote of this process; started at the first order."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def order(self, order: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """Have one process forked."""
        if self._channel is None:
            self._start()
        assert self._channel is not None
        data = json.dumps(order).encode()
        assert len(data) < MAX_ORDER_BYTES
        socket.send_fds(self._channel, [data], descriptors)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm_zygote", str(theirs.fileno())],
                cwd=_HOME,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._channel = ours
        atexit.register(self.close)

    def use(self, channel: socket.socket) -> None:
        """The zygote of another process, which that one ends."""
        self._channel, self._process = channel, None

    def close(self) -> None:
        """End it; it has nothing to lose."""
        if self._channel is not None and self._process is not None:
            self._channel.close()
            self._process.wait(10)
            self._channel = self._process = None


_zygote = _Zygote()


def order_over(channel: socket.socket) -> None:
    """From here on this process, itself forked by a zygote, has that one fork what it starts."""
    _zygote.use(channel)


class WarmPopen(subprocess.Popen[Any]):
    """A Popen whose child is forked from the zygote. `preexec_fn` and `shell` are not for it."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        """In the place of fork and exec; the order of these arguments is that of CPython 3.11 to 3.14."""
        _close_fds, _pass_fds, cwd, environ, _info, _flags, shell, *ends = rest[:13]
        has_session = rest[18]
        stdin_read, _, _, stdout_write, _, stderr_write = ends
        assert list(args[:2]) == [sys.executable, "-m"]
        assert args[2] in MODULES
        assert preexec_fn is None
        assert not shell
        self._report, report = os.pipe()
        self._status = b""
        order = {
            "module": args[2],
            "arguments": [os.fspath(word) for word in args[3:]],
            "cwd": os.fspath(cwd) if cwd is not None else str(Path.cwd()),
            "session": bool(has_session),
            "environ": dict(os.environ if environ is None else environ),
            "ignored": [int(number) for number in INHERITED if signal.getsignal(number) is signal.SIG_IGN],
        }
        given = [
            end if end != -1 else standard
            for end, standard in ((stdin_read, 0), (stdout_write, 1), (stderr_write, 2))
        ]
        try:
            _zygote.order(order, [*given, report])
        finally:
            os.close(report)
            self._close_pipe_fds(*ends)  # type: ignore[attr-defined]
        self._child_created = True
        self.pid = int(self._line())

    def _line(self) -> bytes:
        """The next line of the report; waits for it."""
        while b"\n" not in self._status:
            data = os.read(self._report, 64)
            assert data, "the zygote died"
            self._status += data
        line, _, self._status = self._status.partition(b"\n")
        return line

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._line()))
            os.close(self._report)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if end is None else max(end - time.monotonic(), 0)
            if not select.select([self._report], [], [], left)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._internal_poll()
        return self.returncode


class LikeSubprocess:
    """What `runner.commands.local` uses of `subprocess`."""

    PIPE = subprocess.PIPE
    TimeoutExpired = subprocess.TimeoutExpired
    Popen = WarmPopen


def run_warm(
    command: Sequence[str], *, timeout: float, stdin: int | IO[str] = subprocess.DEVNULL, **options: Any
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run(command, capture_output=True, text=True)`; killed where it takes too long."""
    with WarmPopen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
