"""`plan` and `validate` as text: every count with its word, what changed, what it may cost, what is next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner.cli.summary import (
    Line,
    estimate_text,
    plan_changes,
    plan_standings,
    short_run,
    to_send,
    unsendable_lines,
)
from runner.cli.texts import clean, counted
from runner.core.planning import Plan, Reason

if TYPE_CHECKING:
    from runner.commands.validate import ValidateResult

_COLUMNS_SHOWN = 8


def plan_text(plan: Plan, causes: Sequence[str], *, path: str, command: str) -> list[str]:
    """The lines of `run plan`. `path` is the manifest as the user typed it; `command` carries it out."""
    typed = clean(path)
    lines = [f"{typed}: {counted(plan.rows, 'row')}"]
    changes, standings = plan_changes(plan), plan_standings(plan)
    width = max((len(f"{number:,}") for _, number in [*changes, *standings]), default=1)
    lines += [f"  {word:<13} {number:>{width},}" for word, number in changes]
    lines += ["  of these:"] if standings else []
    lines += [f"    {word:<13} {number:>{width},}" for word, number in standings]
    lines += [f"  because       {reason_text(reason)}" for reason in plan.reasons]
    lines.append(f"  to send       {to_send(plan)}")
    if plan.requests_to_send:
        lines.append(f"  estimate      {estimate_text(plan.estimate)}")
        lines.append(f"                ({clean(plan.estimate.basis)})")
    lines += [f"  {line.plain()}" for line in unsendable_lines(plan, causes)]
    lines.append(f"next: {clean(command)}" if plan.has_work else "nothing to do")
    return lines


def reason_text(reason: Reason) -> str:
    """What changed, since which run, and how many rows that moved."""
    change = ""
    if reason.was and reason.now:
        change = f" ({clean(reason.was, limit=60)} to {clean(reason.now, limit=60)})"
    since = f" since run {short_run(reason.since)}" if reason.since else ""
    rows = "" if reason.rows is None else f": {counted(reason.rows, 'row')}"
    return f"{clean(reason.what)} changed{since}{change}{rows}"


def validate_text(found: ValidateResult, path: str) -> list[str]:
    """The lines of `run validate` for one manifest without mistakes."""
    columns = [f"{clean(name)} {clean(kind)}" for name, kind in found.columns]
    more = f", and {len(columns) - _COLUMNS_SHOWN} more" if len(columns) > _COLUMNS_SHOWN else ""
    lines = [
        f"{clean(path)}: valid",
        Line(label="  rows", text=f"{found.rows:,}").plain(),
        Line(label="  columns", text=", ".join(columns[:_COLUMNS_SHOWN]) + more).plain(),
        Line(label="  prompt", text=f"{counted(found.messages, 'message')} for each row").plain(),
    ]
    return lines + [f"  warning: {clean(str(warning))}" for warning in found.warnings]
