"""Ctrl-Z in a live view, on a terminal with a shell: the shell has its cursor, the view has it back after."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fault.run_hostile_server import HostileServer, Look
from tests.project_factory import Project

SHOWN, HIDDEN = b"\x1b[?25h", b"\x1b[?25l"
UNDER_WAY = Look(
    fields={"status": "in_progress", "request_counts": {"total": 2, "completed": 0, "failed": 0}}
)
SHELL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-m", "runner", *sys.argv[1:]])
_, status = os.waitpid(child, os.WUNTRACED)
os.write(1, b"STOPPED" if os.WIFSTOPPED(status) else b"ENDED")
os.kill(child, signal.SIGCONT)
os.waitpid(child, 0)
os.write(1, b"OVER")
"""


class Terminal:
    """What a person at a terminal sees and types."""

    def __init__(self, master: int) -> None:
        self._master = master

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, text: bytes) -> bytes:
        """Everything up to and including this text."""
        seen, end = b"", time.monotonic() + 30
        while text not in seen:
            assert time.monotonic() < end, seen
            if select.select([self._master], [], [], 1)[0]:
                seen += os.read(self._master, 1)
        return seen


@contextmanager
def shell(project: Project, *words: str) -> Iterator[Terminal]:
    """A command, started by a shell on a terminal of its own."""
    master, slave = pty.openpty()
    environ = {**project.environment(), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", SHELL, *words],
        cwd=project.folder,
        env=environ,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(master)
    finally:
        os.close(master)  # hangs up: what is left of the session ends
        process.send_signal(signal.SIGKILL)
        process.wait(30)


@pytest.mark.parametrize("view", ["run", "status"])
def test_the_shell_has_its_cursor_while_a_live_view_stands_still(tmp_path: Path, view: str) -> None:
    with HostileServer(lambda *_: UNDER_WAY) as server:
        project = server.project(tmp_path / "p", 2)
        assert project.run("--detach").code == 75
        words = ["status", "--watch"] if view == "status" else [str(project.manifest_path)]
        with shell(project, *words) as terminal:
            terminal.until(HIDDEN)
            terminal.type(b"\x1a")
            assert SHOWN in terminal.until(b"STOPPED")
            terminal.until(HIDDEN)
            terminal.type(b"\x03")
            assert SHOWN in terminal.until(b"OVER")
