"""How a serving schedule is: what `/healthz` says. Written by the loop, read by the door's thread."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from runner.schedule.reports import TickReport


class Health:
    """Well, unless the last tick could do nothing at all; one manifest's trouble is not the loop's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"status": "starting"}

    @property
    def is_well(self) -> bool:
        """Whether a supervisor should leave it alone."""
        with self._lock:
            return bool(self._state["status"] != "failing")

    def as_json(self) -> dict[str, Any]:
        """The state as it is now. Times are UTC."""
        with self._lock:
            return dict(self._state)

    def tick_done(self, report: TickReport, ended_s: float) -> None:
        """A tick came to its end."""
        with self._lock:
            self._state = {
                "status": "ok",
                "last_tick_at": _utc(ended_s),
                "open_runs": report.open_runs,
                "next_due_at": _utc(report.next_due_at.timestamp()) if report.next_due_at else None,
                "failing_manifests": sorted({problem.name for problem in report.failed}),
            }

    def tick_failed(self, ended_s: float) -> None:
        """A tick could do nothing. Why is in the log: here anybody may read."""
        with self._lock:
            self._state = {**self._state, "status": "failing", "failed_at": _utc(ended_s)}


def _utc(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
