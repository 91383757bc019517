"""What every part of one server process shares: settings, folder, database, faults, a bell for the executor.

It holds no state of the API itself: that is in the database, because other processes serve the same folder.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

from runner.localserver.database import Database, now_us
from runner.localserver.faults import FaultPlan, Point
from runner.localserver.settings import ServerSettings

FILES_FOLDER = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One process's view of a state folder."""

    state_dir: Path
    settings: ServerSettings
    database: Database
    faults: FaultPlan
    bell: threading.Event = field(default_factory=threading.Event)

    def input_path(self, file_id: str) -> Path:
        """Where the lines of an input file are kept."""
        return self.state_dir / FILES_FOLDER / f"{file_id}.jsonl"


def open_site(state_dir: Path, settings: ServerSettings) -> Site:
    """Make the folder (0700) and the database, arm the faults of the settings. Raises FaultError, OSError."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    (state_dir / FILES_FOLDER).mkdir(mode=0o700, exist_ok=True)
    database = Database(state_dir)
    faults = FaultPlan(database)
    faults.arm_once(settings.faults)
    return Site(state_dir=state_dir, settings=settings, database=database, faults=faults)


def site_of(request: Request) -> Site:
    """The site of the application that got this request."""
    site: Site = request.app.state.site
    return site


def owner_of(request: Request) -> str:
    """Whose key the request carries."""
    return str(request.state.owner)


def as_of_us(request: Request) -> int:
    """The moment that a read of this request sees: now, less the replica's lag."""
    site = site_of(request)
    lag_s = site.settings.replica_lag_s
    fault = site.faults.take(Point.READ, f"{request.method} {request.url.path}", str(request.url.query))
    if fault is not None:
        lag_s = max(lag_s, float(fault.params["seconds"]))
    return now_us() - round(lag_s * 1_000_000)
