"""A run that the ledger holds, brought to its end.

    carry_out
      drive           upload, create, poll, collect, side by side
      FailedRequests  new shards for failures that may pass; drive again
      LargerRequests  new shards for what was cut at the token limit, if the manifest says so; drive again
      write_results   the joined table, atomically
      notifier        somebody is told, if the manifest says so

However it ends, the ledger says how; only SIGKILL leaves it `running`, and the next run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands.calls import is_in_sight
from runner.commands.cancel import cancel_unwanted
from runner.commands.committing import Committed, connected_for
from runner.commands.complaints import complaint_of, complaint_of_others
from runner.commands.cutting import Cutter
from runner.commands.engine import Engine
from runner.commands.execution import Execution, RunResult
from runner.commands.finishing import history_target, record_end, remove_collected
from runner.commands.going_on import Going
from runner.commands.inputs import narrowing_recorded
from runner.commands.moments import Finished, Submitted, Trouble
from runner.commands.options import Narrowing, Pace, command_line
from runner.commands.others import OthersShards
from runner.commands.publishing import write_results
from runner.commands.raising import LargerRequests
from runner.commands.recording import record_published
from runner.commands.retrying import FailedRequests, room_left
from runner.commands.tables import published_totals, tables_of_others
from runner.commands.totals import Totals
from runner.commands.tracks import Surroundings
from runner.core.states import ShardState, Submission, after_the_clock_was_set_back, reexamined
from runner.errors import (
    EXIT_DONE,
    EXIT_STILL_RUNNING,
    InputError,
    InterruptedRunError,
    ProviderRefusedError,
    RunnerError,
    StillRunningError,
    UnpublishedError,
    UnreachedError,
)
from runner.failpoints import failpoint
from runner.ledger import RunRecord, RunState
from runner.manifest import answer_checker
from runner.results import Published

if TYPE_CHECKING:
    from runner.provider import Client


def carry_out(execution: Execution, committed: Committed, *, previous: RunRecord | None) -> RunResult:
    """The work of a run that was just committed. `previous` is the run before it."""
    narrowing = execution.options.narrowing
    return _CarryingOut(execution, committed, previous=previous, narrowing=narrowing).recorded()


def go_on(execution: Execution, going: Going, *, begun: frozenset[int] = frozenset()) -> RunResult:
    """The last run, brought on as it was planned. Its table is written once nothing is open. `begun` are the
    shards of other processes."""
    execution = replace(execution, workplace=going.workplace, uid=going.run.uid)
    execution.tell_begin()
    with ExitStack() as stack:
        client, provider = None, execution.workplace.provider
        failures = execution.ledger.repeatable(execution.manifest_id, execution.manifest.retry.attempts)
        if execution.under_way() or execution.held() or any(failures):
            client, provider = connected_for(execution, stack)
        execution.ledger.resume_run(going.run.id)
        failpoint("resume.recorded")
        committed = Committed(run_id=going.run.id, asked=going.asked, client=client, provider=provider)
        return _CarryingOut(
            execution,
            committed,
            ended=going.ended,
            begun=begun,
            goes_on=True,
            narrowing=going.narrowing,
        ).recorded()


class _CarryingOut:
    """The work, from what is to be sent to the table."""

    def __init__(
        self,
        execution: Execution,
        committed: Committed,
        *,
        previous: RunRecord | None = None,
        ended: tuple[Submission, ...] = (),
        begun: frozenset[int] = frozenset(),
        goes_on: bool = False,
        narrowing: Narrowing | None,
    ) -> None:
        """`narrowing`: of the run that was planned; None where it left rows out and nobody knows which."""
        self._execution = execution
        self._committed = committed
        self._run_id = committed.run_id
        self._workplace = execution.workplace
        self._ledger = execution.ledger
        self._manifest = execution.manifest
        self._manifest_id = execution.manifest_id
        self._options = execution.options
        self._reporter = execution.reporter
        self._previous = previous
        self._ended = list(ended)
        self._begun = begun
        self._goes_on = goes_on
        self._left: set[int] = set()
        self._narrowing = narrowing
        self._is_whole = narrowing is not None and narrowing.takes_all
        self._is_all_raised = self._is_whole
        """Whether no answer that was cut may be asked again with a larger limit."""

    def recorded(self) -> RunResult:
        """The work, and in the ledger how it ended, whatever that was."""
        state: RunState = "failed"
        result = None
        try:
            result = self._work()
            state = "detached" if result.finished is None else "finished"
        except UnreachedError:
            state = "detached"
            raise
        except (InterruptedRunError, StillRunningError, KeyboardInterrupt):
            state = "interrupted"
            raise
        finally:
            exit_code = result.exit_code if result is not None else None
            finished = result.finished if result is not None else None
            failpoint("end.begins")
            record_end(self._ledger, self._run_id, state, exit_code, finished)
            failpoint("end.recorded")
        return result

    # ------------------------------------------------------------ send and collect

    def _work(self) -> RunResult:
        complaint: RunnerError | None = None
        if (client := self._committed.client) is not None:
            at = Surroundings(
                provider=self._committed.provider,
                place=self._workplace.place,
                ledger=self._ledger,
                client=client,
                reporter=self._reporter,
                run_id=self._run_id,
                clock=self._execution.clock,
            )
            cutter = Cutter(
                self._workplace, self._ledger, self._run_id, self._manifest_id, reporter=self._reporter
            )
            if not self._options.goes_on:
                self._ledger.wishes().note_asked_for(self._run_id, self._execution.began_after)
            others = OthersShards(self._execution, self._run_id)
            engine = Engine(at, self._execution.stop, cutter, may_send=others.may_send)
            self._look_again(client)
            if self._manifest.on_edit == "cancel":
                cancel_unwanted(self._ledger, client, self._execution.under_way(), self._reporter)
            try:
                if self._is_left(engine):
                    return self._detached(was_answered=engine.was_answered)
                resolve = command_line("resolve", self._options.manifest)
                complaint = engine.complaint(resolve, ours=self._own_shards())
                complaint = complaint or complaint_of(self._execution.held(), resolve)
            except ProviderRefusedError as refusal:
                self._left |= engine.left()
                if self._under_way():
                    raise  # the table of before stays until what is on its way has come
                self._ended += engine.reached()
                complaint = refusal
        complaint = complaint or complaint_of_others(self._execution.held_elsewhere(), self._options.manifest)
        result = self._publish(complaint)
        if complaint is not None:
            raise complaint
        return result

    def _own_shards(self) -> frozenset[int]:
        """The shards that this manifest made; others are driven where its rows wait for them."""
        return frozenset(record.shard_id for record in self._ledger.shards(self._manifest_id))

    def _look_again(self, client: Client) -> None:
        """A held shard gets another look in every run: perhaps its batch is listed by now. A run that may
        leave before the look is done takes the shard back only where something is in sight: else nobody could
        decide about it until a run has held it again."""
        provider = self._committed.provider
        pace = self._options.pace(is_local=self._workplace.provider.is_local)
        may_leave = pace is not Pace.DONE or self._options.wait_s is not None
        for held in self._execution.held():
            submission = reexamined(after_the_clock_was_set_back(held, time.time()))  # a save would hide that
            if may_leave and not is_in_sight(client, submission, provider):
                continue
            self._ledger.save(submission, what="looked at again", run_id=self._run_id)
            failpoint("held.reexamined")

    def _is_left(self, engine: Engine) -> bool:
        """Whether something is left to a later run, when this one has come as far as it could. Raises
        UnreachedError where a step was kept from that by the server."""
        is_step = self._options.pace(is_local=self._workplace.provider.is_local) is Pace.STEP
        try:
            is_left = self._drive_all(engine)
        except StillRunningError as error:
            if is_step and engine.unreached is not None:
                raise UnreachedError(error.what, next_step=error.next_step) from error
            raise
        if is_left and is_step and engine.unreached is not None:
            raise UnreachedError(engine.unreached.message)
        return is_left

    def _drive_all(self, engine: Engine) -> bool:
        """Until nothing is open nor worth repeating; True where the rest is left to a later run."""
        execution = self._execution
        submissions, room = self._under_way(), None
        pace = self._options.pace(is_local=self._workplace.provider.is_local)
        if pace is Pace.SUBMITTED:
            self._tell_turns(submissions)
        while submissions or self._goes_on:
            wait_s = self._options.wait_s
            driven = engine.drive(
                submissions,
                pace=pace,
                left_s=None if wait_s is None else execution.started_s + wait_s - execution.clock(),
            )
            self._ended += driven
            self._left |= engine.left()
            if pace is Pace.SUBMITTED and self._under_way():
                return True
            shard_ids = self._answered_for()
            if room is None or any(one.state.is_final for one in driven):
                room = room_left(self._ledger, self._manifest_id, shard_ids, room, engine.queued_out())
            FailedRequests(
                workplace=self._workplace,
                ledger=self._ledger,
                run_id=self._run_id,
                manifest_id=self._manifest_id,
                shard_ids=shard_ids,
                began_after=execution.began_after,
                pause_until_s=engine.sends_from_s,
                room=room,
                reporter=self._reporter,
            ).send_again()
            self._ask_larger()
            submissions = self._under_way()
            if pace is Pace.STEP and submissions and not any(one.state.is_final for one in driven):
                return True  # this step came as far as it could
            if not submissions:
                return False
        return False

    def _answered_for(self) -> set[int]:
        """The shards whose failures this run sends again."""
        own, ended = self._own_if_narrowed(), {one.shard_id for one in self._ended}
        return ended if own is None else ended & own

    def _own_if_narrowed(self) -> frozenset[int] | None:
        """Of a run that was narrowed, the shards of what it asked itself, and of what it has collected those
        of runs that were narrowed alike: what others asked may be of rows that were left out. None of a run
        of all rows."""
        if self._is_whole:
            return None
        runs = {
            run.id
            for run in self._ledger.runs(self._manifest_id)
            if self._narrowing is not None and narrowing_recorded(run.inputs) == self._narrowing
        }
        ended = {one.shard_id for one in self._ended}
        return frozenset(
            one.shard_id
            for one in self._ledger.shards(self._manifest_id)
            if one.run_id == self._run_id or (one.run_id in runs and one.shard_id in ended)
        )

    def _under_way(self) -> list[Submission]:
        """Without what this run must not send."""
        return [one for one in self._execution.under_way() if one.shard_id not in self._left]

    def _ask_larger(self) -> None:
        self._is_all_raised = LargerRequests(
            workplace=self._workplace,
            ledger=self._ledger,
            asked=self._committed.asked,
            run_id=self._run_id,
            manifest_id=self._manifest_id,
            shard_ids=self._own_if_narrowed(),
            began_after=self._execution.began_after,
            workers=self._options.workers,
            reporter=self._reporter,
            check_stop=self._check_interrupt,
        ).place()

    def _tell_turns(self, submissions: Sequence[Submission]) -> None:
        """Who asked to be left alone once all is sent may have to wait for that."""
        most = self._committed.provider.max_open_batches
        unsent = sum(submission.state is ShardState.READY for submission in submissions)
        free = max(most - (len(submissions) - unsent), 0)
        if unsent > free:
            what = (
                f"{unsent} batches are to be sent, {free} of them now: {most} may be open at a time, and the "
                "others are sent as these end"
            )
            self._reporter.tell(Trouble(what=what))

    def _check_interrupt(self) -> None:
        if self._execution.stop.is_set:
            raise InterruptedRunError("interrupted; nothing is lost", next_step="run the same command again")

    def _detached(self, *, was_answered: bool) -> RunResult:
        under_way = self._execution.under_way()
        batches = sum(submission.state is ShardState.SUBMITTED for submission in under_way)
        self._reporter.tell(Submitted(batches=batches))
        return RunResult(
            finished=None,
            exit_code=EXIT_STILL_RUNNING,
            run=self._execution.uid,
            was_answered=was_answered,
        )

    # ------------------------------------------------------------ publish

    def _publish(self, complaint: RunnerError | None) -> RunResult:
        failpoint("publish.begins")
        if self._committed.kept is not None:
            return self._keep_tables(self._committed.kept)
        published, totals = self._write_results()
        failpoint("publish.unrecorded")
        record_published(
            self._workplace,
            self._ledger,
            self._run_id,
            self._execution.uid,
            published,
            totals,
            manifest_id=self._manifest_id,
            is_cancelled=self._ledger.wishes().is_cancelled(self._manifest_id, self._execution.began_after),
            is_all_raised=self._is_all_raised,
        )
        remove_collected(self._ledger, self._manifest_id, self._execution.folder)
        finished = self._finished(totals)
        if complaint is not None:
            finished = replace(finished, exit_code=complaint.exit_code)
        elif finished.pending and finished.exit_code == EXIT_DONE and self._left:
            finished = replace(finished, exit_code=EXIT_STILL_RUNNING)
        elif finished.pending and finished.exit_code == EXIT_DONE and self._is_whole:
            finished = self._not_done(finished)
        return self._told(finished, complaint)

    def _not_done(self, finished: Finished) -> Finished:
        """Nothing was left out, and rows wait for nobody: what they waited for was given up unsent."""
        what = (
            f"{finished.pending:,} rows have no answer, and nothing is on its way for them any more: a "
            "cancel or another run took their requests back; the same command asks them"
        )
        self._reporter.tell(Trouble(what=what))
        return replace(finished, exit_code=EXIT_STILL_RUNNING)

    def _write_results(self) -> tuple[Published, Totals]:
        asked = self._committed.asked
        # Another run may have written there since this one was planned.
        if mistakes := tables_of_others(self._workplace, self._ledger):
            raise UnpublishedError(mistakes)
        try:
            return write_results(
                self._workplace,
                self._ledger,
                manifest_id=self._manifest_id,
                snapshot=Path(asked.snapshot),
                rows=asked.rows,
                history=history_target(self._manifest, self._execution.folder, self._execution.uid),
                check_answer=answer_checker(self._manifest.output.schema),
                workers=self._options.workers,
                reporter=self._reporter,
            )
        except InputError as error:  # the paths were good when the run began
            raise UnpublishedError(error.mistakes, next_step=error.next_step) from error

    def _keep_tables(self, last: RunRecord) -> RunResult:
        """Everything was looked at and nothing is another: the tables of the last run say it already."""
        self._ledger.note_run(self._run_id, published=last.published, history=last.history)
        return self._told(self._finished(published_totals(last)), None)

    def _finished(self, totals: Totals) -> Finished:
        ended = [one for one in self._ended if one.shard_id not in self._begun]
        return self._execution.finished(totals, self._ledger.paid(self._run_id), ended)

    def _told(self, finished: Finished, complaint: RunnerError | None) -> RunResult:
        """`finished` is the last that a run tells."""
        self._notify(finished, complaint)
        self._reporter.tell(finished)
        return RunResult(finished=finished, exit_code=finished.exit_code, run=self._execution.uid)

    def _notify(self, finished: Finished, complaint: RunnerError | None) -> None:
        """A table that was written again, with nothing collected and the end that the run before had, is no
        news."""
        last = self._previous
        was_told = last is not None and last.published is not None and last.exit_code == finished.exit_code
        if was_told and not self._ended:
            return
        if complaint is None or self._options.tells_errors:
            self._execution.notifier.finished(finished, complaint)
