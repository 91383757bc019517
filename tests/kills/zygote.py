"""`python -m tests.kills.zygote`: a process with the program imported, which forks one child for each run.

Why a child is the same program as `python -m runner ...`: importing is all that the parent has done. It
has one thread, no connection, no open file but its orders and its replies, and it never called the
program. After the fork the child gives up what it inherited (standard streams, signals), takes
the environment, the folder and the arguments it was told, reads RUNNER_FAILPOINT as an import would, and
calls the program's own `main`. It ends with `os._exit`, which leaves out the interpreter's teardown and
nothing else: what the program must do before it ends, it has done when `main` returns. A killed child
dies as any process does, with its locks, its threads and its half-written files.

Orders come as lines of JSON on standard input: {"id", "argv", "cwd", "environ", "out", "err", "weakness"}
starts a child, {"kill": id} kills one that still lives. Replies are lines too: {"id", "code"}; a negative
code is the signal. The end of the orders kills every child.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import sys
from contextlib import suppress
from typing import Any

import runner

_NEEDED_LATER = (
    # What the program and its libraries import only when they work; nothing is called.
    *("alembic.command", "alembic.config", "alembic.autogenerate", "alembic.runtime.environment"),
    *("sqlalchemy.dialects.sqlite.pysqlite", "httpcore", "httpcore._backends.auto", "certifi"),
    *("encodings.idna", "encodings.utf_8_sig", "stringprep"),
)


def import_program() -> None:
    """Every module of the program but the server, and what it would import at work."""
    for module in pkgutil.walk_packages(runner.__path__, "runner."):
        if ".localserver" not in module.name and ".migrations." not in module.name:
            importlib.import_module(module.name)
    for name in _NEEDED_LATER:
        importlib.import_module(name)


def become_program(order: dict[str, Any], inherited: list[int]) -> None:
    """In the child: be `python -m runner` with these arguments. Never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in inherited:
            os.close(descriptor)
        for place, path in enumerate(("/dev/null", order["out"], order["err"])):
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(opened, place)
            os.close(opened)
        os.environ.clear()
        os.environ.update(order["environ"])
        os.chdir(order["cwd"])
        code = _run(order)
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(order: dict[str, Any]) -> int:
    from runner import failpoints
    from runner.__main__ import main
    from tests.kills.short_waits import shorten_waits
    from tests.kills.weaknesses import WEAKNESSES

    shorten_waits()
    if order["weakness"]:
        WEAKNESSES[order["weakness"]]()
    failpoints.arm(os.environ)
    sys.argv = ["run", *order["argv"]]
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


class Zygote:
    """Takes orders and forks; one thread, one loop."""

    def __init__(self) -> None:
        self._children: dict[int, int] = {}
        self._ends = os.pipe()
        for end in self._ends:
            os.set_blocking(end, False)

    def serve(self) -> None:
        """Until the orders end."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
        orders = b""
        try:
            while True:
                ready, _, _ = select.select([0, self._ends[0]], [], [])
                if self._ends[0] in ready:
                    os.read(self._ends[0], 4096)
                self._reap()
                if 0 in ready:
                    data = os.read(0, 1 << 16)
                    if not data:
                        return
                    *lines, orders = (orders + data).split(b"\n")
                    for line in lines:
                        self._obey(json.loads(line))
        finally:
            for child in self._children:
                os.kill(child, signal.SIGKILL)

    def _obey(self, order: dict[str, Any]) -> None:
        if "kill" in order:
            for child, number in self._children.items():
                if number == order["kill"]:
                    os.kill(child, signal.SIGKILL)
            return
        child = os.fork()
        if child == 0:
            become_program(order, list(self._ends))
        self._children[child] = order["id"]

    def _reap(self) -> None:
        while self._children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                return
            reply = {"id": self._children.pop(child), "code": os.waitstatus_to_exitcode(status)}
            os.write(1, json.dumps(reply).encode() + b"\n")


def main() -> None:
    """Import, prove that a fork is clean, serve."""
    import_program()
    gc.collect()
    gc.freeze()  # the children share these pages
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names only
    if threads != 1:
        raise SystemExit(f"the parent has {threads} threads: a fork of it would not be the program")
    Zygote().serve()


if __name__ == "__main__":
    main()
