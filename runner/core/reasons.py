"""Why rows are not what they were in the last run: every row that moved is laid to one account, or to none.

The rule: a number is given only where it is known. A row whose own data changed is the dataset's, whatever
else was edited; one whose request changed with the same data is laid to the settings (template, params,
model, schema, the moments that the template reads, the larger limits for what is cut). Where no setting was
edited, all is the dataset's, also a row whose own cells are the same and read otherwise (a column that became
text). Of several settings edited at once, a new model or schema
is in every request; how many rows a template or params would have changed alone, nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.core.planning import Reason

SETTINGS = ("template", "params", "model", "schema", "times", "on_truncated")
_IN_EVERY_REQUEST = ("model", "schema")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shifts:
    """How the rows moved against the last run's. `changed`: another request under the same key, of these
    `with_data` whose own data changed (None: not known). `came` and `gone`: keys that only one side has, of
    these `by_repeats` because `repeats` is another number.
    """

    changed: int
    with_data: int | None
    came: int
    gone: int
    by_repeats: int = 0


def attributed(reasons: Sequence[Reason], shifts: Shifts) -> tuple[Reason, ...]:
    """The reasons with their rows; None where the number is not known."""
    edited = {reason.what for reason in reasons}
    return tuple(replace(reason, rows=_rows(reason.what, edited, shifts)) for reason in reasons)


def _rows(what: str, edited: set[str], shifts: Shifts) -> int | None:
    elsewhere = shifts.came + shifts.gone - shifts.by_repeats
    if what == "repeats":
        return shifts.by_repeats
    if what in SETTINGS:
        others = edited & set(SETTINGS) - {what}
        if shifts.with_data is None or (others and what not in _IN_EVERY_REQUEST):
            return None
        return shifts.changed - shifts.with_data
    if what == "key":
        return elsewhere
    if "key" in edited or edited >= {"dataset", "query"} or shifts.with_data is None:
        return None
    changed = shifts.with_data if edited & set(SETTINGS) else shifts.changed
    return changed + elsewhere
