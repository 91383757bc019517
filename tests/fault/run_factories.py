"""What the run engine's fault tests share: rows that can be told apart, faults armed ahead, and the judge.

The judge believes two things only: the witness (what the local server accepted and executed) and the
published table. A fault armed with `armed` lives in the server's database, so it acts when `run` starts
its own server over the same folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.localserver_process import ServerProcess, eventually, running_server
from tests.project_factory import Done, Project, finish, make_project

EXIT_DONE, EXIT_FAILED_ROWS, EXIT_REFUSED, EXIT_STILL_RUNNING, EXIT_INTERRUPTED = 0, 3, 4, 75, 130


def rows_of(count: int, token: str = "", name: str = "row") -> list[dict[str, str]]:
    """Rows whose texts share no prefix: an answer that repeats one names its row and no other."""
    return [{"id": f"k{number}", "text": f"{name}-{number}-end {token}".strip()} for number in range(count)]


def project_of(folder: Path, count: int = 6, *, shards: int = 1, token: str = "", **sections: Any) -> Project:
    """A project with so many rows in so many shards."""
    sections.setdefault("batch", {"max_requests_per_file": -(-count // shards)})
    return make_project(folder, rows=rows_of(count, token), **sections)


@contextmanager
def server_of(project: Project, **settings: Any) -> Iterator[ServerProcess]:
    """A server over the state folder that the project's own runs use."""
    with running_server(project.state, **settings) as server:
        yield server


def arm(project: Project, kind: str, **fault: Any) -> None:
    """Arm a fault for the runs to come."""
    with server_of(project) as server:
        server.arm(kind, **fault)


def work_off(server: ServerProcess) -> None:
    """Wait until every batch that the runs bought has its last word."""

    def all_ended() -> bool:
        batches = [
            server.get(f"/batches/{created['batch_id']}", key="local") for created in server.witness.creates()
        ]
        return all(batch["status"] in ("completed", "failed", "cancelled") for batch in batches)

    eventually(all_ended, what="the end of every batch")


# ---------------------------------------------------------------- judging


def executed(project: Project) -> Counter[str]:
    """How often each request was executed, by its custom_id, over all batches."""
    return Counter(execution["custom_id"] for execution in project.witness.executions())


def paid_once(project: Project) -> None:
    """No request was executed twice."""
    twice = {custom_id: count for custom_id, count in executed(project).items() if count > 1}
    assert not twice, f"executed more than once: {twice}"


def complete(project: Project, rows: Sequence[Mapping[str, Any]], results: Path | None = None) -> None:
    """Every row stands in the table once, in the dataset's order, with its own answer."""
    found = project.results() if results is None else read_table(results)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    for row in found:
        assert (row["_key"], row["_status"]) == (row["id"], "succeeded"), row
        assert row["text"].split()[0] in row["_answer"], row


def read_table(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def all_well(project: Project, rows: Sequence[Mapping[str, Any]]) -> None:
    """Complete, and each request executed exactly once."""
    complete(project, rows)
    paid_once(project)
    assert len(executed(project)) == len(rows)


# ---------------------------------------------------------------- processes


def watch(process: subprocess.Popen[str], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """Read the process's events until one is wanted; None if it ended before."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if wanted(event):
            return event
    return None


def named(name: str, nth: int = 1) -> Callable[[dict[str, Any]], bool]:
    """The nth event of this name."""
    seen = iter(range(1, 1_000_000))
    return lambda event: event["event"] == name and next(seen) == nth


def end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> Done:
    """Send a signal and wait for the end; no traceback."""
    process.send_signal(number)
    done = finish(process)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def children_of(folder: Path) -> list[int]:
    """Processes that work in this folder: the local server and the render workers inherit it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def all_gone(folder: Path) -> None:
    """No process is left in this folder after a moment."""
    eventually(lambda: not children_of(folder), wait_s=10, what=f"the end of {children_of(folder)}")


def until_done(project: Project, *options: str, most: int = 4) -> Done:
    """The same command until it is done."""
    done = project.run(*options)
    for _ in range(most - 1):
        if done.code == EXIT_DONE:
            break
        done = project.run(*options)
    assert done.code == EXIT_DONE, (done.code, done.stdout, done.stderr)
    return done
