"""What each run has paid: the tokens that came in while it worked, so that over all runs each counts once.

Theory. An answer is paid when it comes, whatever becomes of its shard: that may wait for the next run, be
held, and be given up by a person. So a run pays for all that the attempts of the shards it has moved have
brought, less what was counted before. What is counted stands in events (`PAID`, for a run and a shard, in
the transaction that ends the run), which add up: what one run has counted no other counts again.

Rejected: the tokens of the shards that a run brought to their end. Those of a shard that never comes to one
were no run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, func, or_, select

from runner.ledger.bulk import Query
from runner.ledger.events import CREATE_INTENDED, add_event
from runner.ledger.tables import attempt, event, shard

PAID = "paid"
"""The event of tokens that a run counts; its detail is how many went in and came out."""


class Tokens(NamedTuple):
    """Tokens in and out."""

    input: int
    output: int


_NONE = Tokens(0, 0)

_MOVED = select(event.c.shard_id).where(
    event.c.run_id == bindparam("this_run"), event.c.shard_id.is_not(None)
)
_SENT = or_(
    shard.c.run_id == bindparam("this_run"),
    shard.c.id.in_(
        select(event.c.shard_id).where(
            event.c.run_id == bindparam("this_run"), event.c.what == CREATE_INTENDED
        )
    ),
)


def _brought_by(shard_ids: Select[Any]) -> Query:
    """The tokens that the attempts of each of these shards have brought."""
    tokens = (
        func.coalesce(func.sum(column), 0) for column in (attempt.c.input_tokens, attempt.c.output_tokens)
    )
    chosen = select(attempt.c.shard_id, *tokens).where(attempt.c.shard_id.in_(shard_ids))
    return Query(chosen.group_by(attempt.c.shard_id), "this_run")


_BROUGHT = _brought_by(_MOVED)
_BROUGHT_BY_SENT = _brought_by(select(shard.c.id).where(_SENT))
_COUNTED = Query(
    select(event.c.shard_id, event.c.run_id, event.c.detail).where(
        event.c.what == PAID, event.c.shard_id.in_(_MOVED)
    ),
    "this_run",
)


def load(connection: Connection, run_id: int) -> Tokens:
    """All that a run has paid so far, counted yet or not."""
    counted, new = _of(connection, run_id)
    return _sum(*counted.values(), *new.values())


def spent(connection: Connection, run_id: int) -> Tokens:
    """The same, and what else the shards that it made or bought have cost, whoever collected
    them."""
    counted, new = _of(connection, run_id)
    others = [
        _less(Tokens(*map(int, brought)), _sum(counted.get(shard_id, _NONE), new.get(shard_id, _NONE)))
        for shard_id, *brought in _BROUGHT_BY_SENT.rows(connection, run_id)
    ]
    return _sum(*counted.values(), *new.values(), *others)


def count(connection: Connection, run_id: int, now_s: float) -> Tokens:
    """The same, and from now on no other run counts it."""
    counted, new = _of(connection, run_id)
    for shard_id, tokens in new.items():
        detail = f"{tokens.input} {tokens.output}"
        add_event(connection, what=PAID, detail=detail, run_id=run_id, shard_id=shard_id, now_s=now_s)
    return _sum(*counted.values(), *new.values())


def _of(connection: Connection, run_id: int) -> tuple[Mapping[int, Tokens], Mapping[int, Tokens]]:
    """By shard: what a run has counted, and what nobody has yet of those that it has moved."""
    counted: dict[int, Tokens] = {}
    own: dict[int, Tokens] = {}
    for shard_id, by_run, detail in _COUNTED.rows(connection, run_id):
        tokens = Tokens(*map(int, detail.split()))
        counted[shard_id] = _sum(counted.get(shard_id, _NONE), tokens)
        if by_run == run_id:
            own[shard_id] = _sum(own.get(shard_id, _NONE), tokens)
    new = {}
    for shard_id, *brought in _BROUGHT.rows(connection, run_id):
        left = _less(Tokens(*map(int, brought)), counted.get(shard_id, _NONE))
        if any(left):
            new[shard_id] = left
    return own, new


def _less(brought: Tokens, counted: Tokens) -> Tokens:
    """A better line in the place of another may tell of fewer tokens: what was counted stays so."""
    return Tokens(max(brought.input - counted.input, 0), max(brought.output - counted.output, 0))


def _sum(*tokens: Tokens) -> Tokens:
    return Tokens(sum(one.input for one in tokens), sum(one.output for one in tokens))
