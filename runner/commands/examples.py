"""`run plan --diff N`: rows whose request is another one now, their old prompt against the new.

The old prompt is what the last run asked (its snapshot, texts and params), the new one what is planned.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from runner.commands.asked import Asked, asked_by, row_at
from runner.commands.planning import Prepared
from runner.commands.workplace import Workplace
from runner.core.model import Cause, Message
from runner.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageChange:
    """One message that differs. None where there was none, or is none now."""

    role: str
    before: str | None
    after: str | None

    def diff(self) -> list[str]:
        """A unified diff, line by line, without its two head lines."""
        before, after = ([] if text is None else text.split("\n") for text in (self.before, self.after))
        return list(difflib.unified_diff(before, after, lineterm=""))[2:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A row whose request changed. `position` counts the dataset's rows from 0.

    `changed` says what is another for this row (dataset, template, params, model, schema, repeats),
    `columns` which of its values. `messages` is empty where the prompt is the same. `problem` says why an
    old or a new prompt can't be shown.
    """

    key: str
    position: int
    changed: tuple[str, ...]
    columns: tuple[str, ...]
    messages: tuple[MessageChange, ...]
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """One of the `examples` of `run plan --json --diff N`."""
        messages = [
            {"role": one.role, "before": one.before, "after": one.after, "diff": one.diff()}
            for one in self.messages
        ]
        return {
            "key": self.key,
            "position": self.position,
            "changed": list(self.changed),
            "columns": list(self.columns),
            "messages": messages,
            "problem": self.problem,
        }


def examples(workplace: Workplace, ledger: Ledger | None, plan: Prepared, limit: int) -> tuple[Example, ...]:
    """At most `limit` rows of the plan that changed; a row that is repeated counts once."""
    if ledger is None or plan.previous is None or not plan.plan.changed:
        return ()
    repeats = workplace.manifest.repeats
    asked = asked_by(plan.previous, ledger=ledger, place=workplace.place, is_isolated=workplace.is_isolated)
    reasons = [reason.what for reason in plan.plan.reasons]
    found: dict[int, Example] = {}
    for one in plan.staging.changed(limit * repeats):
        position = one.position // repeats
        if position not in found and len(found) < limit:
            found[position] = _example(plan, asked, reasons, one.key, position, one.position_before)
    return tuple(found.values())


def _example(
    plan: Prepared, asked: Asked | str, reasons: Sequence[str], key: str, position: int, position_before: int
) -> Example:
    elsewhere = tuple(reason for reason in reasons if reason != "dataset")
    after = row_at(plan.snapshot.path, position) or {}
    before = None if isinstance(asked, str) else asked.row(position_before)
    if isinstance(asked, str) or before is None:
        problem = asked if isinstance(asked, str) else "the rows of that run are no longer kept"
        return Example(
            key=key, position=position, changed=tuple(reasons), columns=(), messages=(), problem=problem
        )
    columns = differing_columns(before, after)
    prompts = (asked.messages(before), plan.prompt.render(after))
    return Example(
        key=key,
        position=position,
        changed=(("dataset",) if columns else ()) + elsewhere,
        columns=columns,
        messages=message_changes(*(() if isinstance(side, Cause) else side for side in prompts)),
        problem=_problem(*prompts),
    )


def differing_columns(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns whose values differ, and those that only one side has."""
    names = dict.fromkeys([*before, *after])
    return tuple(
        name for name in names if name not in before or name not in after or before[name] != after[name]
    )


def message_changes(before: Sequence[Message], after: Sequence[Message]) -> tuple[MessageChange, ...]:
    """The messages that differ, paired by their place; another role makes two of one."""
    found: list[MessageChange] = []
    for old, new in zip_longest(before, after):
        if old is not None and new is not None and old.role == new.role:
            if old.content != new.content:
                found.append(MessageChange(role=new.role, before=old.content, after=new.content))
            continue
        if old is not None:
            found.append(MessageChange(role=old.role, before=old.content, after=None))
        if new is not None:
            found.append(MessageChange(role=new.role, before=None, after=new.content))
    return tuple(found)


def _problem(before: tuple[Message, ...] | Cause, after: tuple[Message, ...] | Cause) -> str | None:
    if isinstance(after, Cause):
        return f"it can't be sent now: {after.message}"
    return f"it could not be sent before: {before.message}" if isinstance(before, Cause) else None
