"""`run MANIFEST`: make the answers that the manifest declares exist, and write the table.

The outline::

    run
      go_on             where a run was cut off and nothing moved: its end, as it was planned
      record_repeat     where nothing at all is to be done
      plan_and_commit   else: snapshot, render, compare, split, pass the gate; one transaction
      carry_out         upload, create, poll, collect, repeat what may pass, write the table

A second `run` does the same and finds most of it done; that is how it resumes, collects and repeats. Where a
plan would come to what is there already it is left out: `going_on` where a run was cut off, `repeating` where
it ended. What plans, sends and writes tables is imported where it is needed: a run that finds nothing to do
takes a sixth less time without it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from runner.commands.clock import SteadyClock
from runner.commands.discarding import take_back_unsent
from runner.commands.execution import Execution, RunResult
from runner.commands.interrupts import deferred_interrupts
from runner.commands.moments import Reporter
from runner.commands.notifying import Notifier
from runner.commands.options import RunOptions
from runner.commands.repeating import Unmoved, record_repeat, unmoved
from runner.commands.tables import published_totals
from runner.commands.under_way import was_cut_off
from runner.commands.untold import refuse_untold
from runner.commands.waiting import Waiting
from runner.commands.workplace import open_workplace
from runner.errors import InterruptedRunError, RunnerError
from runner.ledger import Ledger, hold

__all__ = ["RunResult", "run", "run_all"]


def run(options: RunOptions, *, reporter: Reporter) -> RunResult:
    """The whole job for one manifest. Raises RunnerError; whatever happens, nothing paid for is lost."""
    workplace = open_workplace(options.manifest, options.environ)
    notifier = Notifier(workplace.manifest, options.environ, reporter)
    try:
        workplace.place.prepare()
        with (
            deferred_interrupts() as stop,
            hold(workplace.lock_path, waits=Waiting(options.wait_s, stop, reporter).waits),
            Ledger.open(workplace.place) as ledger,
        ):
            clock = SteadyClock()
            started_s = clock()
            manifest_id = ledger.ensure_manifest(workplace.manifest_path, workplace.manifest.name)
            execution = Execution(
                workplace=workplace,
                ledger=ledger,
                options=options,
                reporter=reporter,
                stop=stop,
                notifier=notifier,
                uid=uuid.uuid4().hex,
                manifest_id=manifest_id,
                clock=clock,
                started_s=started_s,
                began_s=options.goes_on_from_s or started_s,
                began_after=_began_after(ledger, manifest_id, options),
            )
            return _execute(execution)
    except Exception as error:
        if options.tells_errors:
            notifier.failed(error)
        raise


def _began_after(ledger: Ledger, manifest_id: int, options: RunOptions) -> int:
    """The last event before somebody asked for this; what goes on with an earlier process was asked for with
    that one."""
    since_s, wishes = options.goes_on_from_s, ledger.wishes()
    run_before = ledger.current_run(manifest_id) if since_s is not None else None
    asked = wishes.asked_for(run_before.id) if run_before is not None else None
    if asked is not None and (since_s or 0.0) <= asked.at.timestamp() <= time.time():
        return asked.after
    return wishes.last_event()


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


def _execute(execution: Execution) -> RunResult:
    refuse_untold(execution)
    if execution.options.goes_on:
        return _go_on_as_told(execution)
    if (result := _gone_on(execution)) is not None:
        return result
    take_back_unsent(execution.workplace, execution.ledger, execution.manifest_id)  # they are planned anew
    execution.tell_begin()
    if (last := _to_repeat(execution)) is not None:
        return _repeat(execution, last)
    return _planned(execution)


# ---------------------------------------------------------------- the last run, brought on


def _go_on_as_told(execution: Execution) -> RunResult:
    from runner.commands.carrying_out import go_on
    from runner.commands.going_on import last_run

    going = last_run(execution.workplace, execution.ledger, execution.manifest_id)
    wishes, started_at = execution.ledger.wishes(), going.run.started_at
    asked = wishes.asked_for(going.run.id)
    began_after = asked.after if asked is not None else wishes.last_event(started_at)
    return go_on(replace(execution, began_s=started_at.timestamp(), began_after=began_after), going)


def _gone_on(execution: Execution) -> RunResult | None:
    """The end of the last run, where this one would only bring it there; None where it would do more."""
    ledger, manifest_id, options = execution.ledger, execution.manifest_id, execution.options
    is_of_a_schedule = options.is_step or options.times is not None
    ages = (options.refresh_older_than_s, execution.manifest.refresh_older_than_s)
    if options.is_bent or is_of_a_schedule or any(age is not None for age in ages):
        return None
    if (last := was_cut_off(ledger, manifest_id)) is None:
        return None
    from runner.commands.carrying_out import go_on
    from runner.commands.going_on import cut_off_run

    if (going := cut_off_run(execution.workplace, ledger, manifest_id, last)) is None:
        return None
    begun = frozenset(shard.shard_id for shard in ledger.shards(manifest_id))
    return go_on(execution, going, begun=begun)  # "sent" is what this process sends


# ---------------------------------------------------------------- nothing to do


def _to_repeat(execution: Execution) -> Unmoved | None:
    """The last run, where this one would only say and write what that one did."""
    options = execution.options
    if options.is_bent or execution.under_way() or execution.held():
        return None
    return unmoved(
        execution.workplace,
        execution.ledger,
        execution.manifest_id,
        older_than_s=options.refresh_older_than_s,
    )


def _repeat(execution: Execution, last: Unmoved) -> RunResult:
    """Nothing moved: the tables are there, and the record says so."""
    finished = execution.finished(published_totals(last.previous), (0, 0))
    record_repeat(execution.workplace, execution.ledger, last, uid=execution.uid, finished=finished)
    execution.reporter.tell(finished)
    return RunResult(finished=finished, exit_code=finished.exit_code, run=execution.uid)


# ---------------------------------------------------------------- all else


def _planned(execution: Execution) -> RunResult:
    from runner.commands.carrying_out import carry_out
    from runner.commands.committing import plan_and_commit

    previous = execution.ledger.current_run(execution.manifest_id)
    with ExitStack() as stack:
        return carry_out(execution, plan_and_commit(execution, stack), previous=previous)
