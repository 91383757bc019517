"""The armed faults of a state folder: kept in its database, counted there, asked for at each point.

So they are shared by every process of the folder and survive a restart. A fault fires for requests whose
route matches and whose text contains its token, from the `nth` such request on, `times` times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from runner.core.wire import decode_json, encode_json
from runner.localserver.database import Connection, Database
from runner.localserver.faults.checking import FaultError, mistakes_of
from runner.localserver.faults.kind import Point
from runner.localserver.faults.table import KINDS


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
        return kind is not None and kind.point is point and self.fits(route) and self.token in text

    def fits(self, route: str) -> bool:
        """Whether the route is one of its own, whatever the point."""
        return fnmatchcase(route, self.route)


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

    def arm_instead(self, values: Iterable[Mapping[str, Any]]) -> None:
        """Arm these in place of all that were armed, or none of them. Raises FaultError."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM fault")
            for value in values:
                _arm(connection, value)

    def disarm(self) -> None:
        """Remove all."""
        self.arm_instead(())

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

    def has_any_for(self, route: str) -> bool:
        """Whether any fault is armed for this route, spent or not, whatever its point."""
        return any(fault.fits(route) for fault in self.armed())

    def has_any(self, point: Point) -> bool:
        """Whether any fault of this point is armed, spent or not."""
        return any(fault.kind in KINDS and KINDS[fault.kind].point is point for fault in self.armed())

    def _concerned(self, point: Point, route: str, text: str) -> bool:
        return any(fault.concerns(point, route, text) for fault in self.armed())


def _arm(connection: Connection, value: Mapping[str, Any]) -> Fault:
    mistakes = mistakes_of(value)
    if mistakes:
        raise FaultError("; ".join(mistakes))
    kind = KINDS[value["kind"]]
    row = connection.execute(
        "INSERT INTO fault (kind, route, nth, times, token, params) VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
        (
            value["kind"],
            value.get("route", kind.route),
            value.get("nth", 1),
            value.get("times", 1),
            value.get("token", ""),
            encode_json({**kind.params, **value.get("params", {})}).decode(),
        ),
    ).fetchone()
    return _read(row)
