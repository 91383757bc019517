"""From a manifest to a run that the ledger holds: plan, pass the gate, connect, commit.

Nothing is spent before the commit, and nothing is sent that it does not hold.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runner.commands.execution import Execution
from runner.commands.gate import pass_gate
from runner.commands.local import connected
from runner.commands.moments import Warned
from runner.commands.options import RunOptions
from runner.commands.planfile import refuse_if_moved
from runner.commands.planning import Prepared, prepared
from runner.commands.raising import Asked
from runner.commands.recording import commit
from runner.core.model import Provider
from runner.errors import InterruptedRunError
from runner.failpoints import failpoint
from runner.ledger import PlanMovedError, RunRecord
from runner.version import __version__

if TYPE_CHECKING:
    from runner.provider import Client

_PLANNING_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A run that the ledger holds. `client` is None where the server is not needed: nothing is to be sent or
    collected; `kept` is then the last run, where its tables say already what is so."""

    run_id: int
    asked: Asked
    client: Client | None
    provider: Provider
    kept: RunRecord | None = None


def plan_and_commit(execution: Execution, stack: ExitStack) -> Committed:
    """Planned again if another process moved the ledger. `stack` closes the connection."""
    for attempt in range(1, _PLANNING_ATTEMPTS + 1):
        with prepared(
            execution.workplace,
            execution.ledger,
            execution.options if attempt == 1 else _planned_again(execution),
            write_shards=True,
            reporter=execution.reporter,
            check_stop=lambda: _check_stop(execution),
        ) as plan:
            failpoint("plan.ready")
            _may_go_on(execution, plan)
            client, provider = _connected_if_needed(execution, plan, stack)
            kept = None if client is not None else _to_keep(execution, plan)
            try:
                run_id = commit(
                    execution.workplace,
                    execution.ledger,
                    plan,
                    uid=execution.uid,
                    manifest_id=execution.manifest_id,
                    reporter=execution.reporter,
                )
            except PlanMovedError:
                plan.discard_files()
                stack.pop_all().close()
                if attempt == _PLANNING_ATTEMPTS:
                    raise
                continue
            snapshot = execution.folder / "snapshots" / f"{execution.uid}.parquet"
            asked = Asked(snapshot=str(snapshot), rows=plan.snapshot.rows, prompt=plan.prompt)
            return Committed(run_id=run_id, asked=asked, client=client, provider=provider, kept=kept)
    raise AssertionError("unreachable")


def _planned_again(execution: Execution) -> RunOptions:
    """A refresh of everything asks nothing again that was answered since this run began."""
    options = execution.options
    if not options.refresh or options.goes_on_from_s is not None:
        return options
    return replace(options, goes_on_from_s=execution.began_s)


def connected_for(execution: Execution, stack: ExitStack) -> tuple[Client, Provider]:
    """A client for the manifest's server, until `stack` closes."""
    return stack.enter_context(
        connected(execution.workplace.provider, execution.folder, execution.options.environ)
    )


def _may_go_on(execution: Execution, plan: Prepared) -> None:
    """Nothing is spent yet: is it the plan that was asked for, and may it be carried out?"""
    options = execution.options
    if options.expected is not None:
        refuse_if_moved(options.expected, plan.digests, options.manifest.path)
    for warning in plan.warnings:
        execution.reporter.tell(Warned(what=str(warning)))
    pass_gate(execution.manifest, execution.workplace.provider, plan.plan, plan.causes, execution.reporter)
    _check_stop(execution)
    failpoint("plan.passed")


def _check_stop(execution: Execution) -> None:
    if execution.stop.is_set:
        raise InterruptedRunError("interrupted while planning; nothing was sent")


def _connected_if_needed(
    execution: Execution, plan: Prepared, stack: ExitStack
) -> tuple[Client | None, Provider]:
    """A client where there is something to send or to collect; a run with neither needs no key.

    What another manifest has on its way counts (`in_flight`): rows of ours that are new wait for it.
    """
    if plan.shards or plan.plan.in_flight or execution.under_way() or execution.held():
        return connected_for(execution, stack)
    return None, execution.workplace.provider


def _to_keep(execution: Execution, plan: Prepared) -> RunRecord | None:
    """The last run, where its tables say already what is so. Not with a `query`: columns that no prompt
    names may read the clock."""
    last = plan.previous
    if plan.plan.writes_table or execution.manifest.dataset.query is not None:
        return None
    return None if last is None or last.version != __version__ else last
