"""How much is sent at a time to a server whose queue was full."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runner.core.queueing import Room, limit_in, room_after

OPENAI = (
    "Enqueued token limit reached for gpt-4o in organization org-x1. Limit: 90,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed."
)


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        (OPENAI, 90_000),
        ("Limit: 2000000 enqueued tokens", 2_000_000),
        ("The enqueued token limit is 5,000", 5_000),
        ("limit of gpt-4o is reached. Limit: 90,000.", 90_000),
        ("Enqueued token limit reached", None),
        ("Limit: 2M tokens", None),
        ("Limit: 1.35B", None),
        ("Limit: 2.000.000 tokens", None),
        ("Limit: 2 000 000 tokens", None),
        ("Limit: 0 tokens", None),
        ("", None),
    ],
)
def test_the_limit_is_read_from_what_the_server_says(message: str, tokens: int | None) -> None:
    assert limit_in(message) == tokens


@given(st.text())
def test_no_message_breaks_the_reading(message: str) -> None:
    found = limit_in("limit: " + message)
    assert found is None or 0 < found < 10**19


def _refusals(room: Room | None, true_bytes: int, portions: int) -> tuple[int, Room]:
    """How many of so many portions a server refuses that lets `true_bytes` wait, and the room in the end."""
    refused = 0
    for _ in range(portions):
        assert room is not None
        is_full = room.size_bytes > true_bytes
        refused += is_full
        room = room_after(room, limit_tokens=room.limit_tokens if is_full else None)
    assert room is not None
    return refused, room


@given(true_bytes=st.integers(1, 10**8), named=st.integers(1, 10**7))
def test_portions_come_to_fit_whatever_a_token_is_really_worth(true_bytes: int, named: int) -> None:
    """What the server lets in and what it names are two numbers: of the first portions a dozen may be
    refused, then at most one in ten, and none is much smaller than it could be."""
    smallest = max(named * 4 >> 12, 1)
    assume(true_bytes >= smallest)
    _, room = _refusals(Room(limit_tokens=named), true_bytes, 30)
    refused, room = _refusals(room, true_bytes, 90)
    assert refused <= 9
    largest = min(true_bytes, named * 4 * 8)
    assert room.size_bytes > largest // 8
    assert smallest <= room.size_bytes <= named * 4 * 8


def test_a_portion_that_was_refused_is_halved_and_nine_come_through_before_a_larger_one() -> None:
    room = room_after(Room(limit_tokens=1_000), limit_tokens=1_000)
    sizes = []
    for _ in range(11):
        assert room is not None
        sizes.append(room.size_bytes)
        room = room_after(room, limit_tokens=None)
    assert sizes == [2_000] * 9 + [4_000, 8_000]


def test_a_server_that_lets_everything_in_gets_eight_times_the_limit_and_no_more() -> None:
    assert _refusals(Room(limit_tokens=1_000), 10**9, 20) == (0, Room(limit_tokens=1_000, halvings=-3))


def test_the_first_refusal_was_of_no_portion_and_halves_nothing() -> None:
    assert room_after(None, limit_tokens=1_000) == Room(limit_tokens=1_000)


def test_a_server_whose_queue_was_never_full_limits_nothing() -> None:
    assert room_after(None, limit_tokens=None) is None
