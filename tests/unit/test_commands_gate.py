"""The gate's figures: what it advises is enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.commands.gate import enough


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (0.0137, "0.014"),
        (12.301, "12.31"),
        (12.3, "12.30"),
        (0.000009, "0.0000090"),
        (0.0, "0.00"),
        (1.0, "1.00"),
    ],
)
def test_an_amount_has_two_digits_that_count(cost: float, text: str) -> None:
    assert enough(cost) == text


@given(cost=st.floats(min_value=0, max_value=1e12, allow_nan=False))
def test_an_amount_that_is_advised_is_enough_and_no_wild_guess(cost: float) -> None:
    assert cost <= float(enough(cost)) <= cost * 1.11 + 0.0101
    assert "e" not in enough(cost)
