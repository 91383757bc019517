"""A process that has imported the program and forks for every order: what `tests.warm_program` talks to.

Theory. Most of the time of `python -m runner` goes into imports. A fork of a process that has imported it,
turned the ledger's statements into SQLite's text, made empty databases of DuckDB, which always give the same,
and validated one small project, so that patterns are compiled, is the same program a moment later: one
thread, no open file, no event loop, no random state in use (Python reseeds after a fork). The child takes
over folder, environment, standard streams and signals as a fresh interpreter would, and leaves as the
interpreter does, but for DuckDB's part in it and the teardown of its modules, which cost more than many a
test. What a warm start can't show is how the program starts, and what it does for the first time: tests of
that use a fresh interpreter.

A program that starts the local server orders it here too, over a socket that every child inherits.

Started with the number of one socket. An order is one packet of JSON (module, arguments, folder,
environment) with four descriptors: stdin, stdout, stderr and a pipe, on which the child's pid and then its
wait status are written. It ends when the socket's other end is closed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import logging
import multiprocessing.util
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy.dialects import sqlite

from runner import failpoints
from runner.commands import local
from runner.commands.options import ManifestOptions
from runner.commands.validate import validate
from runner.dataset import close_snapshots
from runner.ledger.bulk import Bulk, Lookup
from tests import warm_duckdb, warm_program

_PRELOADED = (
    *("runner.__main__", "runner.cli.app", "runner.commands.run", "runner.commands.plan", "runner.interface"),
    *("runner.commands.carrying_out", "runner.commands.committing", "runner.commands.going_on"),
    *("runner.commands.validate", "runner.commands.gc", "runner.commands.explain", "runner.commands.history"),
    *("runner.commands.results", "runner.commands.status", "runner.commands.cancel", "runner.cli.json_lines"),
    *("runner.cli.live", "runner.cli.plain", "runner.localserver.__main__", "runner.localserver.serve"),
    *("duckdb", "httpx", "jinja2", "jsonschema", "orjson"),
    *("multiprocessing", "concurrent.futures", "rich.live", "sqlalchemy.dialects.sqlite", "tempfile"),
    *("tenacity", "uuid", "yaml", "h11", "httpcore", "uvicorn.protocols.http.h11_impl", "encodings.idna"),
    *("runner.schedule.ticking", "runner.schedule.listing", "runner.cli.schedule_text", "cronsim.explain"),
    *("runner.schedule.serving", "runner.schedule.emitting", "runner.cli.json_log", "apprise"),
    *("runner.cli.status_text", "runner.cli.columns", "runner.cli.sides_text", "runner.cli.explain_text"),
    *("runner.cli.history_text", "runner.cli.watching", "runner.commands.resolve", "runner.commands.diffing"),
    *("anyio._backends._asyncio", "anyio.streams.stapled", "uvicorn.lifespan.on", "uvicorn.loops.asyncio"),
    *("encodings.utf_8_sig", "stringprep", "concurrent.futures.thread"),
    "tests.kills.hurried.__main__",
)


def main() -> None:
    """Serve orders until the socket is closed; in a child: be the program."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    _warm_up()
    inner, from_children = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    noted, written = os.pipe()
    for end in (noted, written):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    reports: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([channel.fileno(), from_children.fileno(), noted], [], [])
        if noted in readable:
            os.read(noted, 4096)
            _reap(reports)
        for source in (channel, from_children):
            if source.fileno() not in readable:
                continue
            data, descriptors, _, _ = socket.recv_fds(source, warm_program.MAX_ORDER_BYTES, 4)
            if not data:
                _reap(reports)
                for pid in reports:  # the tests died before them: nobody would ever end these
                    os.kill(pid, signal.SIGKILL)
                return
            _fork(json.loads(data), descriptors, reports, (channel, from_children), (noted, written), inner)


def _warm_up() -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    for found in gc.get_objects():
        if isinstance(found, Bulk | Lookup):
            found.compiled(sqlite.dialect())
    warm_duckdb.make_ahead()
    _check_a_project()
    _keep_own_exits()
    gc.collect()
    gc.freeze()
    threads = Path("/proc/self/task")  # those of DuckDB too, where the system shows them
    count = len(list(threads.iterdir())) if threads.exists() else threading.active_count()
    assert count == 1, "a fork of several threads may hang"


def _keep_own_exits() -> None:
    """Only what Python's own modules do at the end of a process. What DuckDB's binding does there is to look
    for leaks: 5 ms and a thousand copied pages in each child."""
    atexit._clear()
    for own in (logging.shutdown, weakref.finalize._exitfunc, multiprocessing.util._exit_function):  # type: ignore[attr-defined]
        atexit.register(own)


def _check_a_project() -> None:
    """What `run validate` does with the smallest of projects: patterns are compiled at their first use, and
    the readers of manifests and templates make their tables then."""
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        home = Path(folder)
        (home / "prompt.j2").write_text("{{ text }}", encoding="utf-8")
        (home / "rows.jsonl").write_text('{"id": "a", "text": "b"}\n', encoding="utf-8")
        manifest = {
            "version": 1,
            "name": "warm",
            "dataset": {"path": "rows.jsonl", "key": "id"},
            "prompt": {"template": "prompt.j2"},
            "model": {"provider": "local", "name": "m"},
            "output": {"path": "results.jsonl"},
        }
        (home / "manifest.yaml").write_text(json.dumps(manifest), encoding="utf-8")
        validate(ManifestOptions(path=str(home / "manifest.yaml")), environ={})
        close_snapshots()
    tempfile.tempdir = None  # a child's own TMPDIR counts


def _fork(
    order: dict[str, Any],
    descriptors: list[int],
    reports: dict[int, int],
    sources: tuple[socket.socket, ...],
    own: tuple[int, int],
    inner: socket.socket,
) -> None:
    """One child; it keeps nothing of what is ours."""
    report = descriptors.pop()
    pid = os.fork()
    if pid == 0:
        for descriptor in (*(one.detach() for one in sources), *own, report, *reports.values()):
            os.close(descriptor)
        _become(order, descriptors, inner)
    for descriptor in descriptors:
        os.close(descriptor)
    with suppress(BrokenPipeError):  # who ordered it was killed since; it ends as a child of such a one does
        os.write(report, b"%d\n" % pid)
    reports[pid] = report


def _reap(reports: dict[int, int]) -> None:
    for pid in list(reports):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            report = reports.pop(pid)
            with suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(report, b"%d\n" % status)
            os.close(report)


def _become(order: dict[str, Any], descriptors: list[int], inner: socket.socket) -> NoReturn:
    """Everything that a new interpreter takes from its parent; then the module's `main`."""
    if order["session"]:
        os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in order["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environ"])
    failpoints.arm(os.environ)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        if descriptor > 2:
            os.close(descriptor)
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8")  # noqa: SIM115
    sys.stdout = _text(1, errors="strict", line_buffering=os.isatty(1))
    sys.stderr = _text(2, errors="backslashreplace", line_buffering=True)
    if order["module"] == "runner.localserver":
        inner.close()
    else:
        warm_program.order_over(inner)
        setattr(local, "subprocess", warm_program.LikeSubprocess)  # noqa: B010 - mypy knows better
        warm_duckdb.hand_out()
    sys.argv = [order["module"], *order["arguments"]]
    module = sys.modules[f"{order['module']}.__main__"]
    sys.modules["__main__"] = module
    try:
        sys.exit(module.main())
    except SystemExit as left:
        if left.code is not None and not isinstance(left.code, int):
            raise
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit((left.code or 0) & 0xFF)


def _text(number: int, *, errors: str, line_buffering: bool) -> io.TextIOWrapper:
    stream = open(number, "wb", closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(stream, encoding="utf-8", errors=errors, line_buffering=line_buffering)


if __name__ == "__main__":
    main()
