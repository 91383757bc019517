"""How each point is reached: what happens before, which command meets it, what the rows must be like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runner.failpoints import POINTS
from tests.kills.modes import CONTENT, CREATE, Fault

RUN = ("run", "manifest.yaml", "--json", "--yes")
DETACH = (*RUN, "--detach")
CANCEL = ("cancel", "manifest.yaml")
GC = ("gc", "--remote")
TICK = ("schedule", "tick", "manifest.yaml", "--json")
TO_THE_END = "to the end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`before`: commands, each with the point that kills it ("" for none, `TO_THE_END` for "until done").

    `command` meets the point. `has_fence`: what the server's profile must be, None for either. `failing`:
    a row always fails. `truncated`: an answer is cut at the token limit. `fault`: armed whatever the mode.
    `is_scheduled`: the manifest is due every minute. `joins`: the points of this route can be met one after
    the other in one life. `is_bought_first`: the mode's faults are armed after `before`, which must have
    bought something.
    """

    before: tuple[tuple[tuple[str, ...], str], ...] = ()
    command: tuple[str, ...] = RUN
    has_fence: bool | None = None
    failing: bool = False
    truncated: bool = False
    is_scheduled: bool = False
    joins: bool = True
    is_bought_first: bool = False
    fault: Fault | None = None


_UNSENT = ((RUN, "create.intended"),)
_BOUGHT = ((RUN, "create.answered:2"),)
_CUT_AFTER_A_LINE: Fault = {"kind": "abort-download", "route": CONTENT, "params": {"after_bytes": 700}}
_ROUTES: Mapping[str, Route] = {
    "discard": Route(before=((RUN, "upload.recorded"),)),
    "resume": Route(before=((RUN, "collect.begins"),)),
    "scan": Route(before=_UNSENT),
    "adopt": Route(before=_BOUGHT, is_bought_first=True),
    "fence": Route(before=_UNSENT, has_fence=True),
    "canary": Route(before=_UNSENT, has_fence=True),
    "create.unknown_recorded": Route(fault={"kind": "lost-reply", "route": CREATE}),
    "raw.line_appended": Route(fault=_CUT_AFTER_A_LINE),
    "raw.appended": Route(fault=_CUT_AFTER_A_LINE),
    "quarantine": Route(fault={"kind": "foreign-ids", "times": 4}),  # one may be cut before its lines
    "outcomes.attempts_written": Route(failing=True, joins=False),
    "retry": Route(failing=True, joins=False),
    "cut": Route(has_fence=True, fault={"kind": "too-large-413"}),
    "raise": Route(truncated=True, joins=False),
    "repeat": Route(before=((RUN, TO_THE_END),), has_fence=True),
    "due": Route(command=TICK, is_scheduled=True, has_fence=True),
    "due.ended": Route(
        before=((TICK, "due.started"), (RUN, TO_THE_END)), command=TICK, is_scheduled=True, has_fence=True
    ),
    "held": Route(before=(*_UNSENT, (RUN, "")), has_fence=False),
    "cancel": Route(before=((DETACH, ""),), command=CANCEL),
    "gc": Route(before=((RUN, "plan.ready"), (RUN, TO_THE_END)), command=GC),
}


def route_to(point: str) -> Route:
    """By the point's name, else by its first word; most points lie on the way of every run."""
    return _ROUTES.get(point) or _ROUTES.get(point.partition(".")[0]) or Route()


PER_SHARD = frozenset(
    {"upload", "create", "save", "poll", "seen", "download", "collect", "outcomes", "finish"}
)
"""Points of these first words are met once for each shard at least, and there are two at least."""


def hits_of(point: str) -> int:
    """How often the point is surely met."""
    is_plain = route_to(point) == Route() and point != "create.recorded"
    return 2 if is_plain and point.partition(".")[0] in PER_SHARD else 1


assert {name for name in _ROUTES if "." in name} <= set(POINTS)
