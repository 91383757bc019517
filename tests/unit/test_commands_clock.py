"""Clocks that are set, that sleep, that disagree: what the engine waits by is none of them."""

from __future__ import annotations

from runner.commands.clock import SteadyClock
from runner.core.states import CREATE_SEND_WINDOW_S, ShardState, Wait, after_the_clock_was_set_back, decide
from tests.unit.core_factories import make_provider, make_submission

DAY_S = 86_400.0
NOW_S = 1_700_000_000.0


def test_a_wall_clock_that_is_set_moves_nothing() -> None:
    wall, elapsed = [NOW_S], [50.0]
    clock = SteadyClock(wall=lambda: wall[0], elapsed_s=lambda: elapsed[0])
    wall[0] -= DAY_S
    elapsed[0] += 10
    assert clock() == NOW_S + 10


def test_a_pause_stored_before_the_clock_was_set_back_keeps_its_length() -> None:
    stored = make_submission(saved_at_s=NOW_S + DAY_S, not_before_s=NOW_S + DAY_S + 300)
    found = after_the_clock_was_set_back(stored, NOW_S)
    assert decide(found, make_provider(), NOW_S) == Wait(NOW_S + 300)


def test_an_intent_stored_before_the_clock_was_set_back_settles_from_now() -> None:
    intent = make_submission(
        state=ShardState.CREATING,
        saved_at_s=NOW_S + DAY_S,
        send_by_s=NOW_S + DAY_S + CREATE_SEND_WINDOW_S,
    )
    found = after_the_clock_was_set_back(intent, NOW_S)
    until_s = NOW_S + CREATE_SEND_WINDOW_S + make_provider().settle_s
    assert decide(found, make_provider(), NOW_S) == Wait(until_s)


def test_what_was_stored_in_the_past_is_left_alone() -> None:
    stored = make_submission(saved_at_s=NOW_S, not_before_s=NOW_S + 300)
    assert after_the_clock_was_set_back(stored, NOW_S + DAY_S) is stored
