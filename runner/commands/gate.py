"""The one gate: everything is known, nothing is spent; go on or not.

Refuses a plan above its budget or with too many rows that can't be sent. Asks a person where the cost is
high or unknown, or where rows are left out; a reporter that can't ask answers yes.
"""

from __future__ import annotations

from runner.commands.moments import Reporter
from runner.core.model import Manifest, Provider
from runner.core.planning import Plan, cost_text, shown_cost
from runner.core.raising import TOKEN_LIMITS
from runner.errors import EXIT_FAILED_ROWS, InterruptedRunError, RunnerError


class BudgetError(RunnerError):
    """The estimate is above `budget.max_cost`. Final for this plan."""

    exit_code = 2


class UnsendableRowsError(RunnerError):
    """More rows can't be sent than `allow_failures` tolerates; nothing was spent."""

    exit_code = EXIT_FAILED_ROWS


def pass_gate(
    manifest: Manifest, provider: Provider, plan: Plan, causes: tuple[str, ...], reporter: Reporter
) -> None:
    """Return to go on. Raises BudgetError, UnsendableRowsError, or InterruptedRunError on a 'no'."""
    _check_unsendable(manifest, plan, causes)
    if plan.requests_to_send == 0:
        return
    _check_budget(manifest, plan)
    question = _question(manifest, provider, plan)
    if question and not reporter.confirm(question):
        raise InterruptedRunError("nothing was sent", next_step="")


def _check_unsendable(manifest: Manifest, plan: Plan, causes: tuple[str, ...]) -> None:
    """Only a tolerance that somebody wrote down stops a run; by default the other rows go."""
    tolerance = manifest.allow_failures
    if not tolerance.declared or tolerance.allows(plan.unsendable, plan.rows):
        return
    lines = [f"{plan.unsendable:,} of {plan.rows:,} rows can't be sent, more than allow_failures tolerates"]
    lines += [f"  {cause}" for cause in causes]
    raise UnsendableRowsError(
        "\n".join(lines),
        next_step="mend the rows or the template, or raise `allow_failures`; nothing was sent",
    )


def _check_budget(manifest: Manifest, plan: Plan) -> None:
    limit = manifest.budget.max_cost
    if limit is None:
        return
    cost = plan.estimate.cost
    if cost is None:
        raise BudgetError(
            f"budget.max_cost is {limit:g}, but the cost is unknown ({plan.estimate.basis})",
            next_step=f"set `model.prices` and {_limit(manifest)}, or drop `budget.max_cost`",
        )
    if cost > limit:
        shown = shown_cost(cost)
        raise BudgetError(
            f"the estimate is {shown} {plan.estimate.currency or ''}, above budget.max_cost {limit:g}",
            next_step=f"raise `budget.max_cost` to {shown} or send less (`--limit`); nothing was sent",
        )


def _limit(manifest: Manifest) -> str:
    """What bounds the output at the manifest's endpoint."""
    names = TOKEN_LIMITS.get(manifest.model.endpoint) or ("max_tokens",)
    return f"a `{names[0]}` parameter"


def _question(manifest: Manifest, provider: Provider, plan: Plan) -> str:
    """What to ask, or nothing to ask. The local server is never asked for."""
    if provider.is_local:
        return ""
    cost = plan.estimate.cost
    parts = []
    if cost is None:
        parts.append("at unknown cost")
    elif cost > manifest.budget.confirm_above:
        parts.append(f"for about {cost_text(cost)} {plan.estimate.currency or ''}".rstrip())
    if plan.unsendable:
        parts.append(f"leaving out {plan.unsendable:,} rows that can't be sent")
    if not parts:
        return ""
    return f"Send {plan.requests_to_send:,} requests to {provider.name} {', '.join(parts)}?"
