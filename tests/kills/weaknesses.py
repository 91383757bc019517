"""Ways to make the program worse, to see that the harness notices. Set in the forked child only.

Each is one mistake that a person could make in the protocol, small enough to look right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from runner.commands import calls, watching
from runner.core import states
from runner.core.states import ShardState, Submission
from runner.ledger import Awaited, Ledger

VARIABLE = "RUNNER_KILLS_WEAKNESS"
"""Names the one that a run of `tests.kills.hurried` has. The program itself knows no such variable."""


def intent_after_call() -> None:
    """The create-intent is not stored before the call: a kill in between looks as if nothing was sent."""
    save = Ledger.save

    def forgetful(self: Ledger, submission: Submission, **words: Any) -> None:
        if submission.state is not ShardState.CREATING:
            save(self, submission, **words)

    Ledger.save = forgetful  # type: ignore[method-assign]


def blind_retry() -> None:
    """An unknown create counts as one that surely did not arrive."""
    states.create_unknown = lambda submission, problem, *, ended_at_s=None: states._again(
        replace(submission, state=ShardState.CREATING), problem, ended_at_s or 0.0
    )


def no_proof() -> None:
    """Nobody looks for the batch of an unknown create, and no fence is drawn: it is sent again."""
    states.CLEAN_SCANS_NEEDED = 0
    calls.scan = lambda client, submission, provider: ((), True)
    calls.draw_fence = lambda client, submission: "deleted"


def read_once() -> None:
    """A finished batch that lacks lines is not read again: its rows are taken for lost."""
    watching.FULL_READS = 0


def join_by_order() -> None:
    """Results are matched by their order in the file, not by their custom_id."""
    load = Ledger.awaited

    def by_order(self: Ledger, shard_id: int) -> Awaited:
        awaited = load(self, shard_id)
        places = list(awaited.open.values())
        return awaited._replace(open=dict(zip(awaited.open, places[1:] + places[:1], strict=True)))

    Ledger.awaited = by_order  # type: ignore[method-assign]


WEAKNESSES: Mapping[str, Callable[[], None]] = {
    "intent-after-call": intent_after_call,
    "blind-retry": blind_retry,
    "no-proof": no_proof,
    "read-once": read_once,
    "join-by-order": join_by_order,
}
