"""What one tick did, as values: who writes it down, sends it on or counts it decides nothing here.

`manifest` is the absolute path of the manifest, `name` its name (the path where it can't be read). `due_at`
is the due time (aware, UTC), None for a run that no schedule started. `run` is the run's uid, None where
there is none (yet).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from runner.commands.moments import Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedDue:
    """A due time whose run this tick started. `finished` is set where there was nothing to wait for: the
    table is written already; else `exit_code` is 75 and a later tick advances it. `warnings`: what is perhaps
    not meant of it."""

    manifest: str
    name: str
    due_at: datetime
    run: str | None
    exit_code: int
    finished: Finished | None
    message: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvancedRun:
    """A run under way that this tick brought on. `finished` is set where it came to its end in this tick:
    counts, cost and the paths of its tables; else `exit_code` is 75."""

    manifest: str
    name: str
    due_at: datetime | None
    run: str | None
    exit_code: int
    finished: Finished | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedDue:
    """A due time that is not carried out: its predecessor was still running (`overlap: skip`), or it could
    not be started within `start_within`."""

    manifest: str
    name: str
    due_at: datetime
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedDue:
    """A due time at which nothing ran, and that `missed` says to leave."""

    manifest: str
    name: str
    due_at: datetime
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedManifest:
    """What needs somebody: a manifest that can't be read, a run that the provider refused, one that ended
    with more failed rows than `allow_failures` (exit code 3: `finished` is set and it also stands among the
    started or advanced ones), one over its budget.

    `is_new` is False where the tick before said the same of the same manifest: nobody needs telling twice.
    `is_budget`: refused because it would cost more than `budget.max_cost`.
    """

    manifest: str
    name: str
    due_at: datetime | None
    run: str | None
    exit_code: int
    finished: Finished | None
    message: str
    next_step: str
    is_new: bool = True
    is_budget: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TickReport:
    """Everything one tick did, in the order in which it did it. `at` is its moment (aware, UTC)."""

    at: datetime
    started: tuple[StartedDue, ...] = ()
    advanced: tuple[AdvancedRun, ...] = ()
    skipped: tuple[SkippedDue, ...] = ()
    missed: tuple[MissedDue, ...] = ()
    failed: tuple[FailedManifest, ...] = ()
    open_runs: int = 0
    """Runs still under way after this tick."""
    next_due_at: datetime | None = None
    """The earliest due time to come, of all schedules looked at; None where there is none."""
    next_start_at: datetime | None = None
    """The earliest moment at which one may be started: its `jitter` after it."""
