"""One look at one manifest's schedule: bring on what is under way, claim what came due, start it.

    look
      _advance     the run under way, if any: one step
      _claim       due times that came since the last one on record, each a row of the ledger
      _carry_out   the oldest claimed one, and those behind it as far as they come to their end at once

Whatever happens in between, the next look goes on: a claimed due time that is not started is started then,
with the same moments and the same policy, and `run` itself pays for nothing twice. One process at a time
looks at a schedule (a lock), so what is claimed and not started has nobody who is about to start it; but on
another machine, for a while (`TAKE_OVER_S`).

A start that fails before its run is planned (no key, no dataset yet, a mistake, a full disk) has sent
nothing, and what kept it may pass: such a due time stays claimed, with its problem, and each look tries it
again until it is too late or the next one takes its place. A refusal by the budget was a decision: an end.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from runner.commands.cancel import cancel
from runner.commands.gate import BudgetError
from runner.commands.moments import Finished, Moment, Reporter, Warned
from runner.commands.options import ManifestOptions, RunOptions, with_manifest
from runner.commands.run import RunResult, run
from runner.commands.times import times_of_due
from runner.commands.under_way import is_elsewhere, under_way
from runner.commands.workplace import Workplace
from runner.core import due
from runner.core.model import ScheduleSettings
from runner.errors import (
    EXIT_DONE,
    EXIT_STILL_RUNNING,
    InterruptedRunError,
    RunnerError,
    StillRunningError,
    UnreachedError,
)
from runner.ledger import Claim, DueRecord, HeldElsewhereError, Ledger, RunRecord, Schedules, hold
from runner.schedule.finding import Books
from runner.schedule.outage import Outage
from runner.schedule.reports import AdvancedRun, FailedManifest, MissedDue, SkippedDue, StartedDue

TAKE_OVER_S = 900.0
"""A due time that another machine claimed is left to it for so long."""

Event = StartedDue | AdvancedRun | SkippedDue | MissedDue | FailedManifest


class Unattended:
    """Hears what the reporter hears; nobody is there to be asked, so the gate's limits decide alone.

    `warnings` are those of the last run.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.warnings: list[str] = []

    def tell(self, moment: Moment) -> None:
        """Hand it on."""
        if isinstance(moment, Warned):
            self.warnings.append(moment.what)
        self._reporter.tell(moment)

    def confirm(self, question: str) -> bool:
        """Go on."""
        return True


def rule_of(schedule: ScheduleSettings) -> str:
    """What makes another schedule of it: changed, it counts from when that is seen."""
    return f"{schedule.cron} {schedule.timezone}"


class Visit:
    """One look. `events` is what happened, in order; `is_open` whether something is under way after it."""

    def __init__(
        self,
        workplace: Workplace,
        books: Books,
        options: ManifestOptions,
        *,
        environ: Mapping[str, str],
        reporter: Reporter,
        now: datetime,
    ) -> None:
        self._workplace = workplace
        self._books = books
        self._options = options
        self._environ = environ
        self._reporter = Unattended(reporter)
        self._now = now
        self._schedule = workplace.manifest.schedule
        self._path = workplace.manifest_path
        self._manifest_id = self._ledger.ensure_manifest(self._path, workplace.manifest.name)
        self.events: list[Event] = []
        self.is_open = False
        self._is_held_elsewhere = False

    @property
    def _ledger(self) -> Ledger:
        return self._books.ledger(self._workplace.place)

    @property
    def _schedules(self) -> Schedules:
        return self._ledger.schedules()

    @property
    def next_due_at(self) -> datetime | None:
        """The next due time to come."""
        times = due.upcoming(self._schedule, self._now, 1) if self._schedule is not None else ()
        return times[0] if times else None

    @property
    def next_start_at(self) -> datetime | None:
        """When the next due time may be started."""
        return due.next_start(self._schedule, self._now, self._path) if self._schedule is not None else None

    def look(self) -> None:
        """The whole look. Raises LedgerError, InterruptedRunError; HeldElsewhereError where somebody else
        looks at this moment."""
        with hold(self._workplace.place.schedule_lock(self._path)):
            self._advance()
            if self._schedule is not None:
                self._claim(self._schedule)
                self._carry_out(self._schedule)
            else:
                self._end()
            is_failing = any(isinstance(event, FailedManifest) for event in self.events)
            if not is_failing and not self._is_held_elsewhere:
                self._schedules.note_problem(self._manifest_id, "", self._now)
            self.is_open = bool(self._starting_dues()) or self._has_batches()
            if not self.is_open and not self._open_dues():
                self._outage().look_worked()  # nobody waits for the server any more

    def _open_dues(self) -> list[DueRecord]:
        """The oldest first."""
        return self._schedules.dues(self._manifest_id, states=("claimed", "started"))[::-1]

    def _starting_dues(self) -> list[DueRecord]:
        """The open ones without those that were kept from starting, and without what waits behind these."""
        open_dues = self._open_dues()
        if open_dues and self._is_unstarted(open_dues[0]):
            return [one for one in open_dues if one.begun_at is not None and not self._is_unstarted(one)]
        return open_dues

    def _has_batches(self) -> bool:
        """Whether a look can bring something on. Nothing goes on of a run that was made for another server
        than the manifest names now, nor where a rebuilt ledger knows of no run: the next due time plans then,
        and collects. For what another manifest never sent no due time waits."""
        ledger, manifest_id = self._ledger, self._manifest_id
        own = {record.shard_id for record in ledger.shards(manifest_id)}
        is_open = any(
            one.shard_id in own or not one.state.is_unpaid
            for one in under_way(self._workplace, ledger, manifest_id)
        )
        current = ledger.current_run(manifest_id)
        return is_open and current is not None and not is_elsewhere(self._workplace, current)

    def _is_on_its_way(self, one: DueRecord) -> bool:
        """Whether something is under way of a run that was planned since this due time was first tried."""
        current = self._ledger.current_run(self._manifest_id)
        is_since = current is not None and one.begun_at is not None and current.started_at >= one.begun_at
        return is_since and self._has_batches()

    def _is_unstarted(self, one: DueRecord) -> bool:
        """Whether a problem has kept it from starting, and nothing of it is under way."""
        was_kept = one.state == "claimed" and one.begun_at is not None and bool(one.message)
        return was_kept and not self._is_on_its_way(one)

    # ------------------------------------------------------------ what is under way

    def _advance(self) -> None:
        open_dues = self._open_dues()
        started = next((one for one in open_dues if one.state == "started"), None)
        is_half_begun = started is None and any(
            one.begun_at is not None and not self._is_unstarted(one) for one in open_dues
        )
        if is_half_begun or (started is None and not self._has_batches()):
            return  # a due time whose start was cut off is carried out again, and collects too
        try:
            result = self._run(RunOptions(manifest=self._options, is_step=True, goes_on=True))
        except HeldElsewhereError:
            self._is_held_elsewhere = True  # somebody runs it by hand at this moment
        except InterruptedRunError:
            raise
        except StillRunningError as error:
            self._add_advanced(started, None, error.what)
            self._looked(started, error)
        except RunnerError as error:
            self._failed_on_its_way(started, error)
        else:
            self._add_advanced(started, result, "")
            self._looked(started, result)
            if result.finished is not None:
                self._finish(started, result, result.finished)

    def _looked(self, one: DueRecord | None, came: RunResult | StillRunningError) -> None:
        """What a run under way has shown of its server: an outage begins, goes on (where nothing was asked of
        the server too) or ends."""
        outage = self._outage()
        if isinstance(came, UnreachedError):
            outage.look_failed()
        elif isinstance(came, RunResult) and (came.was_answered or came.finished is not None):
            outage.look_worked()
            if one is not None:
                self._schedules.clear_problem(one)
        error = outage.error(came.what if isinstance(came, UnreachedError) else "")
        if error is None:
            return
        if one is not None:
            self._schedules.set_problem(one.id, error.what, error.exit_code)
        # News of the manifest, because it may outlast the due time; and one look may fail twice.
        is_new = self._schedules.note_problem(self._manifest_id, error.what, self._now)
        if error.what not in (event.message for event in self.events):
            self._add_failed(one, error, is_new=is_new)

    def _outage(self) -> Outage:
        return Outage(self._ledger.waits(), self._manifest_id, self._workplace.provider, self._now)

    def _add_advanced(self, one: DueRecord | None, result: RunResult | None, message: str) -> None:
        self.events.append(
            AdvancedRun(
                **self._about(one, result),
                exit_code=result.exit_code if result is not None else EXIT_STILL_RUNNING,
                finished=result.finished if result is not None else None,
                message=message or _told(result),
            )
        )

    def _about(self, one: DueRecord | None, result: RunResult | None = None) -> dict[str, Any]:
        known = one.run if one is not None else None
        return {
            "manifest": self._workplace.manifest.path,
            "name": self._workplace.manifest.name,
            "due_at": one.due_at if one is not None else None,
            "run": result.run if result is not None else known,
        }

    def _finish(self, one: DueRecord | None, result: RunResult, finished: Finished) -> None:
        """It came to its end; more failed rows than are allowed are for somebody to know."""
        message = _told(result)
        if one is not None:
            self._schedules.set_ended(
                one.id, "finished", exit_code=result.exit_code, message=message, uid=result.run
            )
        if result.exit_code != EXIT_DONE:
            self.events.append(
                FailedManifest(
                    **self._about(one, result),
                    exit_code=result.exit_code,
                    finished=finished,
                    message=message,
                    next_step=f"run status {self._options.path}",
                )
            )

    def _failed_on_its_way(self, one: DueRecord | None, error: RunnerError) -> None:
        """Its batches go on where there are any; else that was its end."""
        if one is None:
            is_new = self._schedules.note_problem(self._manifest_id, error.what, self._now)
        else:
            is_new = self._schedules.set_problem(one.id, error.what, error.exit_code)
            if not self._has_batches():
                self._schedules.set_ended(one.id, "failed", message=error.what, exit_code=error.exit_code)
        self._add_failed(one, error, is_new=is_new)

    def _add_failed(self, one: DueRecord | None, error: RunnerError, *, is_new: bool) -> None:
        self.events.append(
            FailedManifest(
                **self._about(one),
                exit_code=error.exit_code,
                finished=None,
                message=error.what,
                next_step=with_manifest(error.next_step, self._options),
                is_new=is_new,
                is_budget=isinstance(error, BudgetError),
            )
        )

    # ------------------------------------------------------------ what came due

    def _end(self) -> None:
        """The manifest has no schedule, or none any more."""
        known = self._schedules.find(self._manifest_id)
        if known is not None and known.rule:
            self._schedules.end(self._manifest_id, "the manifest has no schedule any more")

    def _claim(self, schedule: ScheduleSettings) -> None:
        known, rule = self._schedules.find(self._manifest_id), rule_of(schedule)
        since = known.since if known is not None else self._now
        if known is None or known.rule != rule or since > self._now:
            since = due.first_cursor(schedule, self._now, self._path)
            self._schedules.begin(self._manifest_id, rule, since)
        since = max(since, self._last_due_at() or since)
        verdict = due.judge(schedule, path=self._path, since=since, now=self._now)
        if not verdict.start and not verdict.missed:
            return
        missed = [Claim(due_at=one.due_at, state="missed", message=one.why) for one in verdict.missed]
        starts, replaced = self._starts(schedule, verdict.start)
        overtaken = self._overtaken(schedule, starts)
        if overtaken:
            starts[0] = replace(starts[0], message=overtaken[-1].message)  # no news if it stays
        claims, host = missed + starts, socket.gethostname()
        ids = [one.id for one in overtaken]
        self._tell_left(
            self._schedules.claim(self._manifest_id, claims, host, replaced=replaced, overtaken=ids)
        )

    def _last_due_at(self) -> datetime | None:
        """What lies after `now` was recorded by a clock that was wrong: nothing waits for that to come, and
        what it took for missed is not."""
        last = self._schedules.last_due_at(self._manifest_id)
        if last is None or last <= self._now:
            return last
        self._schedules.forget_missed(self._manifest_id, self._now)
        return self._schedules.last_due_at(self._manifest_id, self._now)

    def _starts(
        self, schedule: ScheduleSettings, start: tuple[datetime, ...]
    ) -> tuple[list[Claim], list[int]]:
        """The claims for what is to be started, and the due times whose run is replaced by that.

        Several at once are made up for one after the other, whatever the policy of overlaps. One that never
        started overlaps with nothing.
        """
        open_dues = self._starting_dues()
        is_open = bool(open_dues) or self._has_batches()
        if not start or not is_open or len(start) > 1 or schedule.overlap == "queue":
            return [Claim(due_at=one) for one in start], []
        if schedule.overlap == "replace":
            return [Claim(due_at=start[0])], [one.id for one in open_dues]
        why = "the run before it was still under way (overlap: skip)"
        return [Claim(due_at=start[0], state="skipped", message=why)], []

    def _overtaken(self, schedule: ScheduleSettings, starts: list[Claim]) -> list[DueRecord]:
        """What never started, and comes to its end because of these: as of due times at which nobody looked,
        the last one counts, unless all do."""
        if schedule.missed == "all" or not any(one.state == "claimed" for one in starts):
            return []
        return [one for one in self._open_dues() if self._is_unstarted(one)]

    def _tell_left(self, claimed: list[DueRecord]) -> None:
        for one in claimed:
            if one.state == "missed":
                self.events.append(MissedDue(**self._left(one, one.message)))
            elif one.state == "skipped":
                self.events.append(SkippedDue(**self._left(one, one.message)))

    def _left(self, one: DueRecord, message: str) -> dict[str, Any]:
        manifest = self._workplace.manifest
        return {"manifest": manifest.path, "name": manifest.name, "due_at": one.due_at, "message": message}

    # ------------------------------------------------------------ starting

    def _carry_out(self, schedule: ScheduleSettings) -> None:
        """The oldest claimed due time, and the next one where that came to its end at once."""
        while True:
            open_dues = self._open_dues()
            if not open_dues or any(one.state == "started" for one in open_dues):
                return
            one = open_dues[0]
            if self._is_late(schedule, one):
                continue
            if self._is_anothers(one) or not self._may_begin(schedule, one):
                return
            if not self._start(schedule, one):
                return

    def _is_anothers(self, one: DueRecord) -> bool:
        """Whether another machine has claimed it just now, and is about to start it."""
        age = datetime.now(UTC) - one.claimed_at
        return one.claimed_by != socket.gethostname() and age < timedelta(seconds=TAKE_OVER_S)

    def _is_late(self, schedule: ScheduleSettings, one: DueRecord) -> bool:
        """Whether it waited longer than `start_within` allows; then it is left."""
        is_unstarted = self._is_unstarted(one)
        within_s = due.bound_s(schedule) if is_unstarted else schedule.start_within_s
        late_s = (self._now - due.starts_at(schedule, one.due_at, self._path)).total_seconds()
        is_begun = one.begun_at is not None and not is_unstarted
        if is_begun or within_s is None or late_s <= within_s:
            return False
        because = one.message if is_unstarted else "the runs before it were under way"
        why = f"could not be started within start_within: {because}"
        self._schedules.set_ended(one.id, "skipped", message=why)
        self.events.append(SkippedDue(**self._left(one, why)))
        return True

    def _may_begin(self, schedule: ScheduleSettings, one: DueRecord) -> bool:
        """Not while another run's batches are under way, unless it may replace them; tried again, it has."""
        is_begun = one.begun_at is not None and (schedule.overlap == "replace" or not self._is_unstarted(one))
        if is_begun or not self._has_batches():
            return True
        if schedule.overlap != "replace":
            return False
        self._books.close()
        try:
            cancel(self._options, environ=self._environ, reporter=self._reporter)
        except RunnerError as error:
            is_new = self._schedules.set_problem(one.id, error.what, error.exit_code)
            self._add_failed(one, error, is_new=is_new)
            return False
        return True

    def _start(self, schedule: ScheduleSettings, claimed: DueRecord) -> bool:
        """Whether it came to its end at once."""
        one = self._schedules.begin_due(claimed)
        before = self._ledger.current_run(self._manifest_id)
        try:
            result = self._run(self._run_options(schedule, one, is_first=claimed.begun_at is None))
        except HeldElsewhereError:
            return False
        except StillRunningError as error:
            if isinstance(error, UnreachedError):
                one = self._set_on_its_way(one, before)
            self._add_started(one, None, error.what)
            self._looked(one, error)
            return False
        except InterruptedRunError:
            raise
        except RunnerError as error:
            return self._failed_to_start(one, error, before)
        except OSError as error:
            what = f"{self._workplace.manifest.path}: {error.strerror or error}"
            return self._failed_to_start(one, RunnerError(what), before)
        self._schedules.set_started(one.id, result.run)
        self._schedules.clear_problem(one)
        self._add_started(one, result, "")
        self._looked(one, result)
        if result.finished is None:
            return False
        self._finish(one, result, result.finished)
        return True

    def _run_options(self, schedule: ScheduleSettings, one: DueRecord, *, is_first: bool) -> RunOptions:
        """Tried again, it asks again only what had its last word before it was tried first."""
        began_s = (one.begun_at or one.claimed_at).timestamp()
        return RunOptions(
            manifest=self._options,
            is_step=True,
            refresh=schedule.reprocess == "all",
            goes_on_from_s=began_s if schedule.reprocess != "failed" else None,
            retry_failed=schedule.reprocess == "failed",
            retry_failed_before_s=None if is_first else began_s,
            refresh_older_than_s=schedule.refresh_older_than_s,
            times=times_of_due(schedule, one),
        )

    def _add_started(self, one: DueRecord, result: RunResult | None, message: str) -> None:
        self.events.append(
            StartedDue(
                **self._about(one, result),
                exit_code=result.exit_code if result is not None else EXIT_STILL_RUNNING,
                finished=result.finished if result is not None else None,
                message=message or _told(result),
                warnings=tuple(self._reporter.warnings),
            )
        )

    def _failed_to_start(self, one: DueRecord, error: RunnerError, before: RunRecord | None) -> bool:
        """What is bought by then is collected by later looks. Where nothing is, that was its end if its run
        was planned (`before` is the one before it) or refused; else it is tried again. Whether it was."""
        is_new = self._schedules.set_problem(one.id, error.what, error.exit_code)
        self._add_failed(one, error, is_new=is_new)
        if self._set_on_its_way(one, before).state == "started":
            return False
        is_end = self._planned_since(before) is not None or isinstance(error, BudgetError)
        if is_end:
            self._schedules.set_ended(one.id, "failed", message=error.what, exit_code=error.exit_code)
        return is_end

    def _planned_since(self, before: RunRecord | None) -> RunRecord | None:
        """The run that this try planned; not one that was there already, started by hand it may be."""
        current = self._ledger.current_run(self._manifest_id)
        return None if current is None or (before is not None and current.uid == before.uid) else current

    def _set_on_its_way(self, one: DueRecord, before: RunRecord | None) -> DueRecord:
        """Started, where something of its run is under way."""
        planned = self._planned_since(before)
        if planned is None or not self._has_batches():
            return one
        self._schedules.set_started(one.id, planned.uid)
        return replace(one, state="started", run=planned.uid)

    def _run(self, options: RunOptions) -> RunResult:
        self._books.close()
        self._reporter.warnings.clear()
        return run(replace(options, environ=self._environ, tells_errors=False), reporter=self._reporter)


def _told(result: RunResult | None) -> str:
    """How far it is, in a few words."""
    finished = result.finished if result is not None else None
    if finished is None:
        return "under way"
    failed = finished.rows - finished.succeeded - finished.pending
    text = f"{finished.succeeded:,} of {finished.rows:,} rows answered"
    return f"{text}, {failed:,} failed" if failed else text
