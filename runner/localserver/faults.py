"""Misbehaviour by order: which kinds there are, which are armed, and when one fires.

A fault is armed by settings (`faults`) or over HTTP (`POST /faults`), kept in the database (so that it is
shared by every process of the state folder and survives a restart), and asked for at a named point:

    before   a request has arrived, nothing has happened yet     (fault_gate)
    after    the effect is committed, the reply is about to go   (fault_gate)
    body     the reply's body is being sent                      (fault_gate)
    read     a reader asks for the state of files and batches    (site.as_of_us)
    record   the executor is about to record results             (executor)

To add a kind: one entry in KINDS; one in the table of the module that acts at its point.
A fault fires for requests whose route matches (`POST /v1/batches`, wildcards allowed) and whose text
(path, query; for uploads and creates after the effect also filename, file id and metadata) contains
`token`, from the `nth` such request on, `times` times (0: for ever).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from runner.core.wire import decode_json, encode_json
from runner.localserver.database import Connection, Database


class Point(Enum):
    """Where the server asks whether to misbehave."""

    BEFORE = "before"
    AFTER = "after"
    BODY = "body"
    READ = "read"
    RECORD = "record"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """What a kind does, where, to which routes by default, and its parameters with their defaults."""

    point: Point
    summary: str
    route: str = "*"
    params: Mapping[str, Any] = field(default_factory=dict)


_CREATE = "POST /v1/batches"
_UPLOAD = "POST /v1/files"
KINDS: Mapping[str, FaultKind] = {
    "capacity-429": FaultKind(
        point=Point.BEFORE,
        route=_CREATE,
        summary="429: insufficient capacity",
        params={"window": "24h", "models": "local"},
    ),
    "volume-429": FaultKind(
        point=Point.BEFORE, route=_CREATE, summary="429: volume cap of an unverified account"
    ),
    "upload-queue-429": FaultKind(point=Point.BEFORE, route=_UPLOAD, summary="429: too many uploads at once"),
    "balance-402": FaultKind(point=Point.BEFORE, route=_CREATE, summary="402: balance below zero"),
    "unauthorized-401": FaultKind(
        point=Point.BEFORE, route="* /v1/*", summary="401: as if the key were wrong"
    ),
    "internal-500": FaultKind(point=Point.BEFORE, route="* /v1/*", summary="500 without any effect"),
    "unavailable-503": FaultKind(point=Point.BEFORE, route="* /v1/*", summary="503 without any effect"),
    "gateway-502": FaultKind(point=Point.BEFORE, route="* /v1/*", summary="502 with an HTML body, no effect"),
    "gateway-504": FaultKind(point=Point.BEFORE, route="* /v1/*", summary="504 with an HTML body, no effect"),
    "slow-request": FaultKind(
        point=Point.BEFORE, route="* /v1/*", summary="wait before handling", params={"seconds": 1.0}
    ),
    "reset": FaultKind(
        point=Point.BEFORE, route="* /v1/*", summary="the connection closes at once; nothing has happened"
    ),
    "late-effect": FaultKind(
        point=Point.BEFORE,
        route="POST /v1/*",
        summary="the client gets a closed connection, the effect comes seconds later",
        params={"seconds": 1.0},
    ),
    "lost-reply": FaultKind(
        point=Point.AFTER,
        route="POST /v1/*",
        summary="the effect happens, the connection closes without a reply",
    ),
    "error-after-effect": FaultKind(
        point=Point.AFTER,
        route="POST /v1/*",
        summary="the effect happens, the reply is an error (500, 502, 503 or 504)",
        params={"status": 500},
    ),
    "abort-download": FaultKind(
        point=Point.BODY,
        route="GET /v1/files/*/content",
        summary="the connection closes in the middle of the body",
        params={"after_bytes": 300},
    ),
    "foreign-ids": FaultKind(
        point=Point.BODY,
        route="GET /v1/files/*/content",
        summary="the file begins with a line whose custom_id nobody sent",
    ),
    "replica-lag": FaultKind(
        point=Point.READ,
        route="GET /v1/*",
        summary="reads of files and batches see the state of some seconds ago",
        params={"seconds": 1.0},
    ),
    "late-row": FaultKind(
        point=Point.RECORD,
        summary="one result is committed after later ones, and sorts before them",
        params={"delay_s": 0.5},
    ),
}


class FaultError(ValueError):
    """A fault that can't be armed. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An armed fault; `seen` counts matching requests, `fired` how often it acted."""

    id: int
    kind: str
    route: str
    nth: int
    times: int
    token: str
    params: Mapping[str, Any]
    seen: int
    fired: int

    def concerns(self, point: Point, route: str, text: str) -> bool:
        """Is this its point, and this request one of its own? A kind of a newer version is left alone."""
        kind = KINDS.get(self.kind)
        return (
            kind is not None and kind.point is point and fnmatchcase(route, self.route) and self.token in text
        )


def _read(row: Any) -> Fault:
    return Fault(**{**dict(row), "params": decode_json(row["params"])})


class FaultPlan:
    """The armed faults of a state folder."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def arm(self, value: Mapping[str, Any]) -> Fault:
        """Arm one: `{kind, route?, nth?, times?, token?, params?}`. Raises FaultError."""
        with self._database.write() as connection:
            return _arm(connection, value)

    def arm_once(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Arm those of the settings at the first start over a state folder only. Raises FaultError."""
        wanted = list(values)
        if not wanted:
            return
        word = "faults:" + encode_json(wanted, sort_keys=True).decode()
        with self._database.write() as connection:
            added = connection.execute("INSERT OR IGNORE INTO once (word) VALUES (?)", (word,))
            if added.rowcount == 1:
                for value in wanted:
                    _arm(connection, value)

    def disarm(self) -> None:
        """Remove all."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM fault")

    def armed(self) -> Sequence[Fault]:
        """All, spent ones included, oldest first."""
        with self._database.read() as connection:
            return [_read(row) for row in connection.execute("SELECT * FROM fault ORDER BY id")]

    def take(self, point: Point, route: str, text: str) -> Fault | None:
        """The fault that fires now, if any; counts the request for every fault that it concerns."""
        if not self._concerned(point, route, text):
            return None
        with self._database.write() as connection:
            rows = connection.execute("SELECT * FROM fault ORDER BY id").fetchall()
            firing: Fault | None = None
            for fault in map(_read, rows):
                if not fault.concerns(point, route, text):
                    continue
                due = fault.seen + 1 >= fault.nth and (fault.times == 0 or fault.fired < fault.times)
                fires = due and firing is None
                connection.execute(
                    "UPDATE fault SET seen = seen + 1, fired = fired + ? WHERE id = ?", (int(fires), fault.id)
                )
                firing = fault if fires else firing
            return firing

    def _concerned(self, point: Point, route: str, text: str) -> bool:
        return any(fault.concerns(point, route, text) for fault in self.armed())


def _arm(connection: Connection, value: Mapping[str, Any]) -> Fault:
    name = value.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise FaultError(f"unknown kind {name!r}; known are {', '.join(KINDS)}")
    unknown = set(value) - {"kind", "route", "nth", "times", "token", "params"}
    params = value.get("params", {})
    if unknown or not isinstance(params, dict) or not set(params) <= set(kind.params):
        raise FaultError(f"{name}: unknown keys; params are {', '.join(kind.params) or 'none'}")
    nth, times = value.get("nth", 1), value.get("times", 1)
    if not isinstance(nth, int) or not isinstance(times, int) or nth < 1 or times < 0:
        raise FaultError(f"{name}: nth counts from 1, times from 0 (for ever)")
    row = connection.execute(
        "INSERT INTO fault (kind, route, nth, times, token, params) VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
        (
            name,
            str(value.get("route", kind.route)),
            nth,
            times,
            str(value.get("token", "")),
            encode_json({**kind.params, **params}).decode(),
        ),
    ).fetchone()
    return _read(row)
