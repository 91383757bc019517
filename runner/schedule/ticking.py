"""`run schedule tick`: one step of every schedule, safe to repeat and to be killed in.

Anything may call it: cron, systemd, a loop, two of them at once. Each manifest is looked at by one process at
a time, and its trouble stops no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from runner.commands.moments import Reporter
from runner.commands.options import AS_WRITTEN, ManifestOptions, with_manifest
from runner.commands.workplace import open_workplace
from runner.errors import EXIT_FAULT, EXIT_INPUT, InterruptedRunError, RunnerError
from runner.ledger import HeldElsewhereError
from runner.schedule.announcing import announce
from runner.schedule.finding import Books, Found, Gone, check_targets, find, find_gone
from runner.schedule.reports import (
    AdvancedRun,
    FailedManifest,
    MissedDue,
    SkippedDue,
    StartedDue,
    TickReport,
)
from runner.schedule.visit import Event, Visit


def wall_clock() -> float:
    """Now, in Unix seconds."""
    return time.time()


def tick(
    targets: Sequence[Path],
    *,
    environ: Mapping[str, str],
    reporter: Reporter,
    bent: ManifestOptions = AS_WRITTEN,
    clock: Callable[[], float] = wall_clock,
) -> TickReport:
    """Advance every open run of the targets' manifests and start what is due by `clock` (Unix seconds).

    `targets`: manifests, or folders whose `*.yaml` and `*.yml` files with a `schedule` block are meant; each
    is `bent` alike. One manifest's trouble is reported and stops no other; what is new of it is told as its
    `notify` says. Raises InputError for a target that is not there, InterruptedRunError.
    """
    now = datetime.fromtimestamp(clock(), UTC)
    with Books() as books:
        check_targets(targets, books, environ)
        ticking = _Tick(books, environ, reporter, bent, now)
        for found in find(targets, books, environ, bent):
            ticking.look(found)
        for gone in find_gone(targets, books, environ):
            ticking.look_after(gone)
    report = ticking.report()
    announce(report, bent, environ=environ, reporter=reporter)
    return report


class _Tick:
    """Goes from manifest to manifest and gathers what happened."""

    def __init__(
        self,
        books: Books,
        environ: Mapping[str, str],
        reporter: Reporter,
        bent: ManifestOptions,
        now: datetime,
    ) -> None:
        self._books = books
        self._environ = environ
        self._reporter = reporter
        self._bent = bent
        self._now = now
        self._events: list[Event] = []
        self._open_runs = 0
        self._next: list[datetime] = []
        self._next_start: list[datetime] = []

    def look(self, found: Found) -> None:
        """One manifest, whatever is wrong with it."""
        visit: Visit | None = None
        try:
            if found.error is not None:
                raise found.error
            visit = self._visit(found)
            if visit.next_due_at is not None:
                self._next.append(visit.next_due_at)
            if visit.next_start_at is not None:
                self._next_start.append(visit.next_start_at)
            visit.look()
        except InterruptedRunError:
            raise
        except HeldElsewhereError:
            self._open_runs += 1  # another tick is at it
        except (RunnerError, OSError) as error:
            self._fail(found, error)
        if visit is not None:
            self._events += visit.events
            self._open_runs += visit.is_open

    def _visit(self, found: Found) -> Visit:
        options = replace(self._bent, path=str(found.path))
        return Visit(
            open_workplace(options, self._environ),
            self._books,
            options,
            environ=self._environ,
            reporter=self._reporter,
            now=self._now,
        )

    def _fail(self, found: Found, error: RunnerError | OSError) -> None:
        what = error.what if isinstance(error, RunnerError) else f"{found.path}: {error.strerror or error}"
        name = found.manifest.name if found.manifest is not None else found.path.stem
        self._events.append(
            FailedManifest(
                manifest=str(found.path),
                name=name,
                due_at=None,
                run=None,
                exit_code=error.exit_code if isinstance(error, RunnerError) else EXIT_FAULT,
                finished=None,
                message=what,
                next_step=with_manifest(error.next_step, ManifestOptions(path=str(found.path)))
                if isinstance(error, RunnerError)
                else "",
                is_new=self._is_new(found, name, what),
            )
        )

    def _is_new(self, found: Found, name: str, what: str) -> bool:
        """Told once for as long as it stays so; always where no ledger remembers."""
        try:
            ledger = self._books.ledger(found.place)
            manifest_id = ledger.ensure_manifest(str(found.path), name)
            return ledger.schedules().note_problem(manifest_id, what, self._now)
        except (RunnerError, OSError):
            return True

    def look_after(self, gone: Gone) -> None:
        """A manifest that is gone: its batches wait for it, or for another that asks the same."""
        ledger = self._books.ledger(gone.place)
        schedules, manifest_id = ledger.schedules(), gone.record.id
        batches = len(ledger.open_submissions(manifest_id))
        what = f"{gone.path}: the manifest is gone"
        next_step = f"put it back, or see {gone.path.parent} for its new name"
        if batches:
            what += f"; {batches} of its files or batches are on their way"
            next_step = "put it back; under another name, its next run collects them without paying again"
            self._open_runs += 1
        is_new = schedules.note_problem(manifest_id, what, self._now)
        if not batches:
            schedules.end(manifest_id, what, is_gone=True)
        self._events.append(
            FailedManifest(
                manifest=str(gone.path),
                name=gone.record.name,
                due_at=None,
                run=None,
                exit_code=EXIT_INPUT,
                finished=None,
                message=what,
                next_step=next_step,
                is_new=is_new,
            )
        )

    def report(self) -> TickReport:
        """All of it."""
        events = self._events
        return TickReport(
            at=self._now,
            started=tuple(one for one in events if isinstance(one, StartedDue)),
            advanced=tuple(one for one in events if isinstance(one, AdvancedRun)),
            skipped=tuple(one for one in events if isinstance(one, SkippedDue)),
            missed=tuple(one for one in events if isinstance(one, MissedDue)),
            failed=tuple(one for one in events if isinstance(one, FailedManifest)),
            open_runs=self._open_runs,
            next_due_at=min(self._next, default=None),
            next_start_at=min(self._next_start, default=None),
        )
