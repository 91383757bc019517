"""`run MANIFEST`: make the answers that the manifest declares exist, and write the table.

The outline::

    run
      prepared      snapshot, render, compare, split; nothing is spent
      pass_gate     budget, confirmation
      commit        run, rows, requests and shards in one transaction
      drive         upload, create, poll, collect, side by side
      retry_failed  new shards for failures that may pass; drive again
      ask_larger    new shards for what was cut at the token limit, if the manifest says so; drive again
      write_results the joined table, atomically
      notifier      somebody is told, if the manifest says so

A second `run` does the same and finds most of it done; that is how it resumes, collects and repeats. Where a
plan would come to what is there already it is left out: `going_on` where a run was cut off, `repeating` where
it ended.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands.cancel import cancel_unwanted
from runner.commands.clock import SteadyClock
from runner.commands.cutting import Cutter
from runner.commands.discarding import take_back_unsent
from runner.commands.engine import Engine
from runner.commands.finishing import finished_run, history_target, remove_collected
from runner.commands.gate import pass_gate
from runner.commands.going_on import Going, cut_off_run, last_run
from runner.commands.interrupts import StopFlag, deferred_interrupts
from runner.commands.local import connected
from runner.commands.moments import Finished, Reporter, Started, Submitted, Trouble
from runner.commands.notifying import Notifier
from runner.commands.options import Pace, RunOptions, command_line
from runner.commands.planfile import refuse_if_moved
from runner.commands.planning import Prepared, policy_of, prepared
from runner.commands.publishing import Totals, write_results
from runner.commands.raising import Asked, ask_larger
from runner.commands.recording import commit, record_end, record_published
from runner.commands.repeating import Unmoved, record_repeat, unmoved
from runner.commands.resolve import refuse_untold
from runner.commands.retrying import retry_failed, room_left
from runner.commands.tables import published_totals
from runner.commands.tracks import Surroundings
from runner.commands.under_way import at_own_server, under_way
from runner.commands.workplace import Workplace, open_workplace
from runner.core.model import Provider
from runner.core.states import ShardState, Submission, after_the_clock_was_set_back, reexamined
from runner.errors import (
    EXIT_STILL_RUNNING,
    InputError,
    InterruptedRunError,
    ProviderRefusedError,
    RunnerError,
    StillRunningError,
    UnpublishedError,
)
from runner.failpoints import failpoint
from runner.ledger import Ledger, PlanMovedError, RunRecord, RunState, hold
from runner.manifest import answer_checker
from runner.results import Published
from runner.version import __version__

if TYPE_CHECKING:
    from runner.provider import Client

_PLANNING_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run came to. `finished` is None where the work goes on without us (`--detach`). `run` is its
    uid."""

    finished: Finished | None
    exit_code: int
    run: str


def run(options: RunOptions, *, reporter: Reporter) -> RunResult:
    """The whole job for one manifest. Raises RunnerError; whatever happens, nothing paid for is lost."""
    workplace = open_workplace(options.manifest, options.environ)
    notifier = Notifier(workplace.manifest, options.environ, reporter)
    try:
        workplace.place.prepare()
        with (
            deferred_interrupts() as stop,
            hold(workplace.lock_path, waits=_Queue(options.wait_s, stop, reporter).waits),
            Ledger.open(workplace.place) as ledger,
        ):
            return _Run(workplace, ledger, options, reporter, stop, notifier).go()
    except Exception as error:
        if options.tells_errors:
            notifier.failed(error)
        raise


class _Queue:
    """Waiting for another process to be done with the manifest, as long as `--wait` says."""

    def __init__(self, wait_s: float | None, stop: StopFlag, reporter: Reporter) -> None:
        self._until_s = time.monotonic() + (wait_s or 0.0)
        self._stop = stop
        self._reporter = reporter
        self._told = ""

    def waits(self, holder: str) -> bool:
        """Whether to wait on for `holder`. Tells once who it is."""
        if self._stop.is_set:
            raise InterruptedRunError(f"interrupted while waiting for {holder}; nothing was sent")
        is_waiting = time.monotonic() < self._until_s
        if is_waiting and holder != self._told:
            self._told = holder
            self._reporter.tell(Trouble(what=f"already running: {holder}; waiting for it"))
        return is_waiting


def run_all(options: Sequence[RunOptions], *, reporter: Reporter) -> list[RunResult | RunnerError]:
    """Several manifests: all are submitted before the first is waited for. One's error stops no other."""
    if len(options) == 1:
        return [_caught(options[0], reporter)]
    began_s = time.time()
    results = [_caught(replace(one, detach=True), reporter) for one in options]
    if any(one.detach for one in options):
        return results
    return [
        result
        if isinstance(result, RunnerError) or result.finished is not None
        else _caught(replace(one, goes_on_from_s=began_s), reporter)
        for one, result in zip(options, results, strict=True)
    ]


def _caught(options: RunOptions, reporter: Reporter) -> RunResult | RunnerError:
    try:
        return run(options, reporter=reporter)
    except InterruptedRunError:
        raise
    except RunnerError as error:
        return error


class _Run:
    """One execution, from plan to table."""

    def __init__(
        self,
        workplace: Workplace,
        ledger: Ledger,
        options: RunOptions,
        reporter: Reporter,
        stop: StopFlag,
        notifier: Notifier,
    ) -> None:
        self._notifier = notifier
        self._workplace = workplace
        self._manifest = workplace.manifest
        self._folder = workplace.place.folder
        self._ledger = ledger
        self._options = options
        self._reporter = reporter
        self._stop = stop
        self._uid = uuid.uuid4().hex
        self._clock = SteadyClock()
        self._started_s = self._clock()
        self._began_s = options.goes_on_from_s or self._started_s
        self._manifest_id = ledger.ensure_manifest(workplace.manifest_path, workplace.manifest.name)
        self._ended: list[Submission] = []
        self._previous: RunRecord | None = None
        self._kept: RunRecord | None = None
        self._goes_on = False
        self._begun: frozenset[int] = frozenset()

    def go(self) -> RunResult:
        if self._options.goes_on:
            going = last_run(self._workplace, self._ledger, self._manifest_id)
            self._began_s = going.run.started_at.timestamp()
            return self._go_on(going)
        if (cut_off := self._cut_off()) is not None:
            refuse_untold(self._ledger, self._manifest_id, self._options.manifest)
            shards = self._ledger.shards(self._manifest_id)
            self._begun = frozenset(shard.shard_id for shard in shards)  # "sent" is what this process sends
            return self._go_on(cut_off)
        take_back_unsent(self._workplace, self._ledger, self._manifest_id)  # they are planned anew
        refuse_untold(self._ledger, self._manifest_id, self._options.manifest)
        self._tell_started()
        self._tell_left_elsewhere()
        if (last := self._to_repeat()) is not None:
            return self._repeat(last)
        self._previous = self._ledger.current_run(self._manifest_id)
        with ExitStack() as stack:
            return self._recorded(*self._plan_and_commit(stack))

    def _cut_off(self) -> Going | None:
        """The last run, where this one would only bring it to its end."""
        options = self._options
        is_of_a_schedule = options.is_step or options.times is not None
        ages = (options.refresh_older_than_s, self._manifest.refresh_older_than_s)
        if options.is_bent or is_of_a_schedule or any(age is not None for age in ages):
            return None
        return cut_off_run(self._workplace, self._ledger, self._manifest_id)

    def _go_on(self, going: Going) -> RunResult:
        """The last run, brought on as it was planned. Its table is written once nothing is open."""
        self._workplace, self._manifest = going.workplace, going.workplace.manifest
        self._uid, self._ended = going.run.uid, list(going.ended)
        self._goes_on = True
        self._tell_started()
        self._tell_left_elsewhere()
        with ExitStack() as stack:
            client, provider = None, self._workplace.provider
            failures = self._ledger.repeatable(self._manifest_id, self._manifest.retry.attempts)
            if self._under_way() or self._held() or any(failures):
                client, provider = self._connected(stack)
            self._ledger.resume_run(going.run.id)
            failpoint("resume.recorded")
            return self._recorded(going.run.id, going.asked, client, provider)

    def _recorded(self, run_id: int, asked: Asked, client: Client | None, provider: Provider) -> RunResult:
        """The work, and in the ledger how it ended, whatever that was."""
        state: RunState = "failed"
        result = None
        try:
            result = self._work(run_id, asked, client, provider)
            state = "detached" if result.finished is None else "finished"
        except (InterruptedRunError, StillRunningError, KeyboardInterrupt):
            state = "interrupted"
            raise
        finally:
            exit_code = result.exit_code if result is not None else None
            finished = result.finished if result is not None else None
            failpoint("end.begins")
            record_end(self._ledger, run_id, state, exit_code, finished)
            failpoint("end.recorded")
        return result

    def _tell_started(self) -> None:
        self._reporter.tell(
            Started(
                manifest=self._manifest.name,
                run=self._uid,
                provider=self._workplace.provider.name,
                model=self._manifest.model.name,
                is_resumed=bool(self._under_way()),
            )
        )

    def _tell_left_elsewhere(self) -> None:
        left = len(self._ledger.open_submissions(self._manifest_id)) - len(self._under_way())
        if left:
            what = (
                f"{left} batches are on their way at another server; they are left to finish, "
                "and collected when the manifest names that server again"
            )
            self._reporter.tell(Trouble(what=what))

    # ------------------------------------------------------------ nothing to do

    def _to_repeat(self) -> Unmoved | None:
        """The last run, where this one would only say and write what that one did."""
        if self._options.is_bent or self._under_way() or self._held():
            return None
        older_than_s = self._options.refresh_older_than_s
        return unmoved(self._workplace, self._ledger, self._manifest_id, older_than_s=older_than_s)

    def _repeat(self, last: Unmoved) -> RunResult:
        """Nothing moved: the tables are there, and the record says so."""
        finished = self._finished(published_totals(last.previous), (0, 0))
        record_repeat(self._workplace, self._ledger, last, uid=self._uid, finished=finished)
        self._reporter.tell(finished)
        return RunResult(finished=finished, exit_code=finished.exit_code, run=self._uid)

    # ------------------------------------------------------------ plan

    def _under_way(self) -> list[Submission]:
        return under_way(self._workplace, self._ledger, self._manifest_id)

    def _held(self) -> list[Submission]:
        """Shards that only a person, or another look, can set free."""
        held = [
            self._ledger.submission(record.shard_id)
            for record in self._ledger.shards(self._manifest_id)
            if record.state is ShardState.HELD
        ]
        return at_own_server(self._workplace, held)

    def _plan_and_commit(self, stack: ExitStack) -> tuple[int, Asked, Client | None, Provider]:
        """Plan, pass the gate, connect, commit. Planned again if another process moved the ledger."""
        policy = policy_of(self._workplace, self._options)
        for attempt in range(1, _PLANNING_ATTEMPTS + 1):
            with prepared(
                self._workplace,
                self._ledger,
                self._options,
                write_shards=True,
                reporter=self._reporter,
                check_stop=self._check_stop,
            ) as plan:
                failpoint("plan.ready")
                if self._options.expected is not None:
                    refuse_if_moved(self._options.expected, plan.digests, self._options.manifest.path)
                pass_gate(self._manifest, self._workplace.provider, plan.plan, plan.causes, self._reporter)
                self._check_stop()
                failpoint("plan.passed")
                client, provider = self._connect(plan, stack)
                self._kept = None if client is not None else self._to_keep(plan)
                try:
                    run_id = commit(
                        self._workplace,
                        self._ledger,
                        plan,
                        uid=self._uid,
                        manifest_id=self._manifest_id,
                        refresh=policy.refresh_before_s is not None,
                        retry=policy.retry_failed,
                        reporter=self._reporter,
                    )
                except PlanMovedError:
                    stack.pop_all().close()
                    if attempt == _PLANNING_ATTEMPTS:
                        raise
                    continue
                snapshot = self._folder / "snapshots" / f"{self._uid}.parquet"
                asked = Asked(snapshot=str(snapshot), rows=plan.snapshot.rows, prompt=plan.prompt)
                return run_id, asked, client, provider
        raise AssertionError("unreachable")

    def _check_stop(self) -> None:
        if self._stop.is_set:
            raise InterruptedRunError("interrupted while planning; nothing was sent")

    def _connect(self, plan: Prepared, stack: ExitStack) -> tuple[Client | None, Provider]:
        """A client where there is something to send or to collect; a run with neither needs no key.

        What another manifest has on its way counts (`in_flight`): rows of ours that are new wait for it.
        """
        has_work = plan.shards or plan.plan.in_flight or self._under_way() or self._held()
        if not has_work:
            return None, self._workplace.provider
        return self._connected(stack)

    def _connected(self, stack: ExitStack) -> tuple[Client, Provider]:
        return stack.enter_context(connected(self._workplace.provider, self._folder, self._options.environ))

    # ------------------------------------------------------------ work

    def _work(self, run_id: int, asked: Asked, client: Client | None, provider: Provider) -> RunResult:
        complaint: RunnerError | None = None
        if client is not None:
            at = Surroundings(
                provider=provider,
                place=self._workplace.place,
                ledger=self._ledger,
                client=client,
                reporter=self._reporter,
                run_id=run_id,
                clock=self._clock,
            )
            cutter = Cutter(self._workplace, self._ledger, run_id, self._manifest_id, reporter=self._reporter)
            engine = Engine(at, self._stop, cutter)
            self._look_again(run_id)
            if self._manifest.on_edit == "cancel":
                cancel_unwanted(self._ledger, client, self._under_way(), self._reporter)
            try:
                if self._drive_all(engine, run_id, asked):
                    return self._detached()
                complaint = engine.complaint(command_line("resolve", self._options.manifest))
            except ProviderRefusedError as refusal:
                if self._under_way():
                    raise  # the table of before stays until what is on its way has come
                self._ended += engine.reached()
                complaint = refusal
        result = self._publish(run_id, asked, complaint)
        if complaint is not None:
            raise complaint
        return result

    def _look_again(self, run_id: int) -> None:
        """A held shard gets another look in every run: perhaps its batch is listed by now."""
        for held in self._held():
            submission = after_the_clock_was_set_back(held, time.time())  # a save would hide that
            self._ledger.save(reexamined(submission), what="looked at again", run_id=run_id)
            failpoint("held.reexamined")

    def _drive_all(self, engine: Engine, run_id: int, asked: Asked) -> bool:
        """Until nothing is open nor worth repeating; True where the rest is left to a later run."""
        submissions, room = self._under_way(), None
        pace = self._options.pace(is_local=self._workplace.provider.is_local)
        while submissions or self._goes_on:
            wait_s = self._options.wait_s
            driven = engine.drive(
                submissions,
                pace=pace,
                left_s=None if wait_s is None else self._started_s + wait_s - self._clock(),
            )
            self._ended += driven
            if pace is Pace.SUBMITTED and self._under_way():
                return True
            shard_ids = {one.shard_id for one in self._ended}
            if room is None or any(one.state.is_final for one in driven):
                room = room_left(self._ledger, self._manifest_id, shard_ids, room, engine.queued_out())
            retry_failed(
                self._workplace,
                self._ledger,
                run_id=run_id,
                manifest_id=self._manifest_id,
                shard_ids=shard_ids,
                began_s=self._began_s,
                pause_until_s=engine.pause_until_s,
                room=room,
                reporter=self._reporter,
            )
            ask_larger(
                self._workplace,
                self._ledger,
                asked,
                run_id=run_id,
                manifest_id=self._manifest_id,
                narrowing=self._options.narrowing,
                workers=self._options.workers,
                reporter=self._reporter,
                check_stop=self._check_interrupt,
            )
            submissions = self._under_way()
            if pace is Pace.STEP and submissions and not any(one.state.is_final for one in driven):
                return True  # this step came as far as it could
            if not submissions:
                return False
        return False

    def _check_interrupt(self) -> None:
        if self._stop.is_set:
            raise InterruptedRunError("interrupted; nothing is lost", next_step="run the same command again")

    def _detached(self) -> RunResult:
        batches = sum(submission.state is ShardState.SUBMITTED for submission in self._under_way())
        self._reporter.tell(Submitted(batches=batches))
        return RunResult(finished=None, exit_code=EXIT_STILL_RUNNING, run=self._uid)

    # ------------------------------------------------------------ publish

    def _publish(self, run_id: int, asked: Asked, complaint: RunnerError | None) -> RunResult:
        failpoint("publish.begins")
        if self._kept is not None:
            return self._keep_tables(run_id, self._kept)
        published, totals = self._write_results(asked)
        failpoint("publish.unrecorded")
        record_published(
            self._workplace,
            self._ledger,
            run_id,
            self._uid,
            published,
            totals,
            manifest_id=self._manifest_id,
        )
        remove_collected(self._ledger, self._manifest_id, self._folder)
        finished = self._finished(totals, self._ledger.paid(run_id))
        if complaint is not None:
            finished = replace(finished, exit_code=complaint.exit_code)
        self._notify(finished, complaint)
        self._reporter.tell(finished)
        return RunResult(finished=finished, exit_code=finished.exit_code, run=self._uid)

    def _write_results(self, asked: Asked) -> tuple[Published, Totals]:
        try:
            return write_results(
                self._workplace,
                self._ledger,
                manifest_id=self._manifest_id,
                snapshot=Path(asked.snapshot),
                rows=asked.rows,
                history=history_target(self._manifest, self._folder, self._uid),
                check_answer=answer_checker(self._manifest.output.schema),
                workers=self._options.workers,
                reporter=self._reporter,
            )
        except InputError as error:  # the paths were good when the run began
            raise UnpublishedError(error.mistakes, next_step=error.next_step) from error

    def _notify(self, finished: Finished, complaint: RunnerError | None) -> None:
        """Before `finished`, which is the last that a run tells. A table that was written again, with
        nothing collected and the end that the run before had, is no news."""
        last = self._previous
        was_told = last is not None and last.published is not None and last.exit_code == finished.exit_code
        if was_told and not self._ended:
            return
        if complaint is None or self._options.tells_errors:
            self._notifier.finished(finished, complaint)

    def _to_keep(self, plan: Prepared) -> RunRecord | None:
        """The last run, where its tables say already what is so. Not with a `query`: columns that no prompt
        names may read the clock."""
        last = plan.previous
        if plan.plan.writes_table or self._manifest.dataset.query is not None:
            return None
        return None if last is None or last.version != __version__ else last

    def _keep_tables(self, run_id: int, last: RunRecord) -> RunResult:
        """Everything was looked at and nothing is another: the tables of the last run say it already."""
        self._ledger.note_run(run_id, published=last.published, history=last.history)
        finished = self._finished(published_totals(last), self._ledger.paid(run_id))
        self._notify(finished, None)
        self._reporter.tell(finished)
        return RunResult(finished=finished, exit_code=finished.exit_code, run=self._uid)

    def _finished(self, totals: Totals, paid: tuple[int, int]) -> Finished:
        return finished_run(
            self._manifest,
            totals,
            paid,
            run=self._uid,
            ended=[one for one in self._ended if one.shard_id not in self._begun],
            duration_s=self._clock() - self._started_s,
        )
