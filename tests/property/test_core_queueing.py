"""How much is sent at a time to a server whose queue was full."""

from __future__ import annotations

import pytest
from hypothesis import given
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


@given(true=st.integers(1, 10**7), named=st.integers(1, 10**7))
def test_portions_come_to_fit_whatever_a_token_is_really_worth(true: int, named: int) -> None:
    """The server lets `true` bytes in; what it names is another number. Of a hundred portions all but a few
    are let in, and the last is more than a quarter of what would fit, within the bounds of halving."""
    room = room_after(None, limit_tokens=named, came_through=False)
    refused = 0
    for _ in range(100):
        assert room is not None
        fits = room.size_bytes <= true
        refused += not fits
        last = room.size_bytes
        room = room_after(room, limit_tokens=None if fits else named, came_through=fits)
    if true >= max(named * 4 >> 12, 1):
        assert refused <= 13 or true < named * 4
    if named * 4 <= true:
        assert last >= min(true // 4, named * 4)
        assert refused <= 1


def test_others_of_the_same_account_narrow_the_room_and_it_widens_again() -> None:
    room: Room | None = Room(limit_tokens=1_000)
    for _ in range(3):
        room = room_after(room, limit_tokens=1_000, came_through=False)
    assert room is not None
    assert (room.halvings, room.size_bytes) == (3, 500)
    assert room_after(room, limit_tokens=1_000, came_through=True) == room
    for _ in range(5):
        room = room_after(room, limit_tokens=None, came_through=True)
    assert room is not None
    assert room.size_bytes == 4_000


def test_beyond_what_the_limit_should_hold_it_goes_until_that_was_refused_once() -> None:
    room: Room | None = Room(limit_tokens=1_000)
    sizes = []
    for _ in range(8):
        assert room is not None
        sizes.append(room.size_bytes)
        is_full = room.size_bytes > 10_000
        room = room_after(room, limit_tokens=1_000 if is_full else None, came_through=not is_full)
    assert sizes == [4_000, 8_000, 16_000, 8_000, 8_000, 8_000, 8_000, 8_000]
    room = Room(limit_tokens=1_000)
    for _ in range(9):
        room = room_after(room, limit_tokens=None, came_through=True)
    assert room is not None
    assert room.size_bytes == 32_000


def test_a_server_whose_queue_was_never_full_limits_nothing() -> None:
    assert room_after(None, limit_tokens=None, came_through=True) is None
