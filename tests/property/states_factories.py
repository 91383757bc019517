"""What the histories of the submission protocol are made of: edits, troubles, clocks, and the books.

The books are what a history is judged by: the witness of one long-lived server (each history has keys, and
so owners, of its own), its log of HTTP requests, and as evidence the ledger and the journal.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import strategies as st

from runner.commands.clock import SteadyClock
from runner.commands.tracks import Surroundings
from runner.core import states
from runner.failpoints import POINTS, VARIABLE
from runner.ledger import Ledger
from tests.kills.judge import Mark, ServerBooks
from tests.kills.short_waits import shorten_waits
from tests.localserver_process import ServerProcess, eventually
from tests.property.edit_factories import MANIFESTS, Edit, Row, Settings
from tests.warm_program import WarmPopen

ATTEMPTS = 3
SETTLE_S = 0.3
PATIENCE_S = 0.6
LATE_S = 0.4
MOST_ROWS = 7
KEY_VARIABLE = "STATES_KEY"
CREATE, UPLOAD, POLL, CONTENT, LIST = (
    *("POST /v1/batches", "POST /v1/files", "GET /v1/batches/*", "GET /v1/files/*/content"),
    "GET /v1/batches",
)

# ---------------------------------------------------------------- edits

SLOW = " [[local:slow 0.4]]"
ORDERS = ("", "", SLOW, SLOW, " [[local:fail 503]]", " [[local:fail 400]]", " [[local:refuse]]")
"""What a row's text orders from the server; most rows order nothing."""
TEXTS = st.one_of(
    st.builds("word {}{}".format, st.integers(0, 40), st.sampled_from(ORDERS)), st.sampled_from(["", "007"])
)
_PLACES = st.integers(0, MOST_ROWS)
EDITS = st.one_of(
    st.builds(Edit, st.just("change text"), TEXTS, _PLACES),
    st.builds(Edit, st.just("add"), st.tuples(TEXTS, st.just("one")), _PLACES),
    st.builds(Edit, st.just("remove"), st.none(), _PLACES),
    st.builds(Edit, st.just("duplicate"), st.none(), _PLACES),
    st.builds(Edit, st.just("template"), st.sampled_from(["plain", "system"])),
    st.builds(Edit, st.just("model"), st.sampled_from(["m", "n"])),
    st.builds(Edit, st.just("max_requests_per_file"), st.sampled_from([1, 2, 3])),
)
WHICH = st.sampled_from(MANIFESTS)
SOME_EDITS = st.lists(EDITS, max_size=2)
FRESH = st.lists(EDITS, min_size=1, max_size=3)
POINT = st.one_of(
    st.builds("*:{}".format, st.integers(1, 160)),
    st.builds(
        "{}:{}".format,
        st.sampled_from(
            [p for p in POINTS if p.startswith(("create.", "upload.", "scan.", "fence.", "save."))]
        ),
        st.sampled_from([1, 1, 2]),
    ),
    st.sampled_from(sorted(POINTS)),
)


def first_settings(server: int) -> Settings:
    """Where both manifests begin: two rows they share, three shards at most. `server` 0 has a fence."""
    rows = (*(Row(f"k{number}", f"word {number}", "one") for number in range(4)),)
    return replace(Settings(), rows=rows, max_requests_per_file=2, server=server)


def write_project(wanted: Settings, folder: Path, name: str, address: str) -> Path:
    """As the edits' factory writes it; with attempts, short waits, and a key of ours."""
    path = wanted.write(folder, name, (address, address))
    manifest = yaml.safe_load(path.read_bytes())
    manifest["model"]["provider"] |= {"settle_s": SETTLE_S, "api_key_env": KEY_VARIABLE}
    manifest["retry"] = {"attempts": ATTEMPTS, "backoff": {"initial": 0}}
    manifest["allow_failures"] = "100%"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return path


# ---------------------------------------------------------------- troubles


class Trouble(NamedTuple):
    """A fault that costs no answer and no money where the protocol is right."""

    kind: str
    route: str = "*"
    params: Mapping[str, Any] = {}
    times: int = 1

    @property
    def fault(self) -> dict[str, Any]:
        """As the server takes it."""
        return {"kind": self.kind, "route": self.route, "params": dict(self.params), "times": self.times}


TROUBLES = (
    *(Trouble("lost-reply", route) for route in (CREATE, CREATE, UPLOAD)),
    *(Trouble("error-after-effect", CREATE, {"status": status}) for status in (500, 504)),
    *(Trouble("late-effect", CREATE, {"seconds": seconds}) for seconds in (0.1, LATE_S)),
    *(Trouble("cut-reply", CREATE, {"after_bytes": bytes_}) for bytes_ in (20, 60)),
    *(Trouble("reset", route) for route in (CREATE, UPLOAD, POLL)),
    *(Trouble("gateway-502", route, times=2) for route in (CREATE, UPLOAD, POLL, CONTENT, LIST)),
    *(Trouble("internal-500", route) for route in (CREATE, POLL, CONTENT)),
    *(Trouble("id-missing", route) for route in (CREATE, UPLOAD)),
    *(Trouble("missing-404", route) for route in (POLL, CONTENT)),
    *(Trouble("replica-lag", "GET /v1/*", {"seconds": 0.05}, times) for times in (3, 20)),
    *(Trouble("html-200", route) for route in (CREATE, POLL, LIST, CONTENT)),
    *(Trouble("cut-json", route) for route in (POLL, LIST)),
    *(Trouble(kind, POLL, times=2) for kind in ("status-unknown", "status-missing", "counts-null")),
    *(Trouble(kind, POLL, times=2) for kind in ("counts-negative", "counts-lie", "object-of-another")),
    *(Trouble(kind, LIST, times=3) for kind in ("list-repeats", "list-backwards", "list-no-metadata")),
    Trouble("abort-download", CONTENT, {"after_bytes": 300}, 2),
    *(Trouble(kind, CONTENT) for kind in ("content-empty", "torn-line", "lines-late", "line-not-json")),
    *(Trouble(kind, CONTENT, times=4) for kind in ("lines-backwards", "lines-repeated", "second-answer")),
    *(Trouble(kind, CONTENT, times=4) for kind in ("rows-in-both", "unended-line", "foreign-ids")),
    *(Trouble(kind, CONTENT, times=4) for kind in ("lines-crlf", "lines-odd", "line-separators")),
    Trouble("row-retriable-status"),
)
NO_CREDIT = Trouble("balance-402", CREATE, {"openai": True}, times=0)
"""In the shape that says something definite to every profile."""
NO_CREDIT_FOR_ROWS = Trouble(
    "row-final-status", params={"status": 402, "body": '{"error":{"message":"balance below zero"}}'}, times=1
)

# ---------------------------------------------------------------- processes

KILLED = -9
RUN_TIMEOUT_S = 60.0


def started(folder: Path, which: str, environ: Mapping[str, str], point: str) -> subprocess.Popen[bytes]:
    """The program in a process of its own, perhaps to be killed at a point."""
    command = [sys.executable, "-m", "tests.kills.hurried", "run", f"{which}.yaml", "--json", "--yes"]
    with (folder / "stdout").open("ab") as out, (folder / "stderr").open("ab") as err:
        return WarmPopen(
            [*command, "--wait", "20"],
            cwd=folder,
            env={**os.environ, **environ, **({VARIABLE: point} if point else {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )


def left_well(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """It was killed, or left with a code of its own and without a traceback."""
    try:
        code = process.wait(RUN_TIMEOUT_S)
    finally:
        process.kill()
    errors = (folder / "stderr").read_text(errors="replace")
    assert code in (KILLED, 0, 3, 4, 75), (code, errors)
    assert "Traceback" not in errors, errors
    assert "internal error" not in errors, errors


# ---------------------------------------------------------------- waits and clocks


@contextmanager
def short_waits() -> Iterator[None]:
    """The program's own waits made short, in this process, for the length of a block."""
    from runner.commands import tracks
    from runner.provider import client

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (states, "SHORTEST_SEND_WINDOW_S"),
            (states, "_backoff_s"),
            (tracks, "POLLS_PER_MINUTE"),
            (client, "Patience"),
        ):
            patch.setattr(module, name, getattr(module, name))  # put back at the end
        shorten_waits()
        patch.setattr(Surroundings, "patience_s", PATIENCE_S)
        yield


@contextmanager
def clock_set(by_s: float) -> Iterator[None]:
    """The wall clock of this process is so far off. Clocks that only go forward are not touched."""
    if not by_s:
        yield
        return
    real = time.time

    def wall() -> float:
        return real() + by_s

    class LedgerThen:
        """The ledger, opened at that time."""

        open = staticmethod(partial(Ledger.open, clock=wall))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", wall)
        patch.setattr("runner.commands.run.Ledger", LedgerThen)
        patch.setattr("runner.commands.run.SteadyClock", partial(SteadyClock, wall=wall))
        patch.setattr("runner.commands.carrying_out.Surroundings", partial(Surroundings, wall=wall))
        yield


# ---------------------------------------------------------------- books


class Executed(NamedTuple):
    """A request that the server executed. `retries`: so often somebody had its batch run again."""

    batch_id: str
    custom_id: str
    body_sha256: str
    result: str
    retries: int


class Created(NamedTuple):
    """A batch that the server made; `is_fenced`: its input file was deleted."""

    batch_id: str
    input_file_id: str
    owner: str
    run: str
    slot: int
    attempt: int
    at_s: float
    is_fenced: bool


_EXECUTED = """
SELECT e.batch_id, e.custom_id, e.body_sha256, e.result,
    (SELECT count(*) FROM witness_change h WHERE h.id = e.batch_id AND h.action = 'retry')
FROM witness_execution e JOIN witness_create c USING (batch_id) WHERE c.seq > ? AND c.owner IN ({})
"""
_CREATED = """
SELECT batch_id, input_file_id, owner, metadata, at_us,
    EXISTS (SELECT 1 FROM witness_change h WHERE h.id = c.input_file_id AND h.action = 'delete_file')
FROM witness_create c WHERE seq > ? AND owner IN ({}) ORDER BY seq
"""


def owner_of(key: str) -> str:
    """As the witness writes it."""
    return sha256(b"owner:" + key.encode()).hexdigest()[:16]


@dataclass
class Books:
    """What one server wrote down since the books were opened, for some keys."""

    server: ServerProcess
    keys: tuple[str, ...]
    _mark: Mark = field(init=False)
    _ends: dict[Path, int] = field(init=False)
    _posts: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._mark = ServerBooks(self.server.state_dir).mark()
        self._ends = {path: path.stat().st_size for path in self._logs()}

    def executed(self) -> list[Executed]:
        return [Executed(*found) for found in self._ask(_EXECUTED)]

    def created(self) -> list[Created]:
        """In order."""
        found = []
        for batch_id, file_id, owner, metadata, at_us, is_fenced in self._ask(_CREATED):
            tags = json.loads(metadata)
            place = (tags["runner-run"], int(tags["runner-slot"]), int(tags["runner-attempt"]))
            found.append(Created(batch_id, file_id, owner, *place, at_us / 1e6, bool(is_fenced)))
        return found

    def owner_of_file(self, file_id: str | None) -> str | None:
        """Whose upload it is."""
        sql = "SELECT file_id, owner FROM witness_upload WHERE seq > ? AND owner IN ({})"
        return dict(self._ask(sql, since=0)).get(file_id)

    def posts(self) -> list[str]:
        """The path of every POST on the wire, in order, also of those without a reply."""
        for path in self._logs():
            with path.open("rb") as stream:
                stream.seek(self._ends.get(path, 0))
                data = stream.read()
            whole = data.rfind(b"\n") + 1
            self._ends[path] = self._ends.get(path, 0) + whole
            lines = (json.loads(line) for line in data[:whole].split(b"\n") if line)
            self._posts += [line["path"] for line in lines if line.get("method") == "POST"]
        return self._posts

    def wait_until_quiet(self) -> None:
        """Until every batch has its last word, those too that come late."""
        until = time.monotonic() + LATE_S + 0.1
        eventually(lambda: time.monotonic() > until, what="late effects")
        ServerBooks(self.server.state_dir).wait_until_idle(self._mark)

    def _logs(self) -> list[Path]:
        return sorted(self.server.state_dir.glob("http-*.jsonl"))

    def _ask(self, sql: str, since: int | None = None) -> list[tuple[Any, ...]]:
        owners = [owner_of(key) for key in self.keys]
        statement = sql.format(", ".join("?" * len(owners)))
        with closing(sqlite3.connect(self.server.state_dir / "server.db", timeout=30)) as connection:
            return connection.execute(
                statement, (self._mark.creation if since is None else since, *owners)
            ).fetchall()


@dataclass(frozen=True)
class Evidence:
    """The ledger and the journal of one project, read by others than the program."""

    folder: Path

    def ledger(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """A query; nothing where there is no ledger yet."""
        path = self.folder / ".runner" / "ledger.db"
        if not path.exists() or not path.stat().st_size:
            return []
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            try:
                return connection.execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # killed before it had its tables
                    return []
                raise

    def journal(self) -> list[dict[str, Any]]:
        """Its whole lines."""
        path = self.folder / ".runner" / "ids.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:  # torn by a kill
                continue
        return found

    def table(self, which: str) -> list[dict[str, Any]] | None:
        """The published rows; None where there is no table."""
        path = self.folder / f"{which}-results.jsonl"
        if not path.exists():
            return None
        return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]

    def files(self) -> set[str]:
        """Every file of the project, by its path in it; SQLite's own beside the ledger left out."""
        return {
            str(Path(where, name).relative_to(self.folder))
            for where, _, names in os.walk(self.folder)
            for name in names
            if not name.endswith(("-wal", "-shm"))
        }
