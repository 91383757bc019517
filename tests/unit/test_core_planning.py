"""Desired against held."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.core.model import Prices, Status, Tolerance
from runner.core.planning import Held, Policy, Standing, estimate, shown_cost, stand


def held(status: Status | None, *, is_open: bool = False, attempts: int = 1, retryable: bool = False) -> Held:
    return Held(
        request_id=1, name="k", status=status, is_open=is_open, attempts=attempts, retryable=retryable
    )


@pytest.mark.parametrize(
    ("known", "standing"),
    [
        (None, Standing.TO_SEND),
        (held(None), Standing.TO_SEND),
        (held(None, is_open=True), Standing.IN_FLIGHT),
        (held(Status.SUCCEEDED), Standing.ANSWERED),
        (held(Status.SUCCEEDED, is_open=True), Standing.IN_FLIGHT),
        (held(Status.TRUNCATED), Standing.ANSWERED),
        (held(Status.REFUSED), Standing.ANSWERED),
        (held(Status.FAILED), Standing.FAILED),
        (held(Status.FAILED, retryable=True), Standing.TO_SEND),
        (held(Status.EXPIRED, retryable=True, attempts=3), Standing.FAILED),
        (held(Status.UNACCOUNTED, retryable=True, attempts=2), Standing.TO_SEND),
    ],
)
def test_a_request_is_sent_only_if_it_has_no_answer_and_none_is_on_its_way(
    known: Held | None, standing: Standing
) -> None:
    assert stand(known, Policy(max_attempts=3)) is standing


def test_an_answer_older_than_the_policy_allows_is_asked_again() -> None:
    policy = Policy(max_attempts=3, refresh_before_s=100.0)
    assert stand(replace(held(Status.SUCCEEDED), answered_at_s=99.0), policy) is Standing.TO_SEND
    assert stand(replace(held(Status.SUCCEEDED), answered_at_s=100.0), policy) is Standing.ANSWERED
    on_its_way = replace(held(Status.SUCCEEDED, is_open=True), answered_at_s=1.0)
    assert stand(on_its_way, policy) is Standing.IN_FLIGHT


def test_a_permanent_failure_is_asked_again_only_when_a_person_says_so() -> None:
    assert stand(held(Status.FAILED), Policy(max_attempts=3)) is Standing.FAILED
    assert stand(held(Status.FAILED), Policy(max_attempts=3, retry_failed=True)) is Standing.TO_SEND


def test_a_bound_leaves_out_what_failed_again_since() -> None:
    policy = Policy(max_attempts=3, retry_failed=True, retry_failed_before_s=100)
    for at_s, standing in ((None, Standing.TO_SEND), (99, Standing.TO_SEND), (100, Standing.FAILED)):
        assert stand(replace(held(Status.FAILED), last_word_at_s=at_s), policy) is standing


def test_a_cost_without_prices_is_unknown_and_says_why() -> None:
    result = estimate(body_bytes=400, requests=2, max_output_tokens=10, prices=None, is_free=False)
    assert (result.input_tokens, result.output_tokens, result.cost) == (100, 20, None)
    assert "model.prices is not set" in result.basis


def test_a_cost_is_the_most_that_the_requests_may_cost() -> None:
    prices = Prices(input_per_million=1.0, output_per_million=2.0)
    result = estimate(
        body_bytes=4_000_000, requests=1_000_000, max_output_tokens=1, prices=prices, is_free=False
    )
    assert result.cost == pytest.approx(1.0 + 2.0)


def test_a_free_server_costs_nothing_and_with_prices_what_another_would() -> None:
    prices = Prices(input_per_million=1.0, output_per_million=2.0)
    for given, cost in ((None, 0.0), (prices, 1.0 + 2.0)):
        result = estimate(
            body_bytes=4_000_000, requests=1_000_000, max_output_tokens=1, prices=given, is_free=True
        )
        assert result.cost == pytest.approx(cost)
        assert "the local server costs nothing" in result.basis


@pytest.mark.parametrize(
    ("cost", "shown"),
    [(20.0, "20.00"), (20.0004, "20.01"), (1.1 * 3, "3.30"), (0.07, "0.070000"), (0.0000002, "0.000001")],
)
def test_a_cost_in_a_message_is_enough_where_it_is_allowed(cost: float, shown: str) -> None:
    assert shown_cost(cost) == shown


def test_nothing_to_send_costs_nothing() -> None:
    result = estimate(body_bytes=0, requests=0, max_output_tokens=None, prices=None, is_free=False)
    assert result.cost == 0.0


@pytest.mark.parametrize(
    ("tolerance", "failed", "rows", "allowed"),
    [
        (Tolerance(), 0, 10, True),
        (Tolerance(), 1, 10, False),
        (Tolerance(share=0.1, count=None), 1, 10, True),
        (Tolerance(share=0.1, count=None), 2, 10, False),
        (Tolerance(share=0.0, count=None), 0, 0, True),
        (Tolerance(share=0.29, count=None), 29, 100, True),
        (Tolerance(count=2), 2, 10, True),
    ],
)
def test_how_many_failures_are_tolerated(tolerance: Tolerance, failed: int, rows: int, allowed: bool) -> None:
    assert tolerance.allows(failed, rows) is allowed
