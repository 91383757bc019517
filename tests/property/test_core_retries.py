"""Retries and larger limits for any causes, pauses, parameters and sizes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from runner.core.identity import RequestShape
from runner.core.model import Backoff, Limits, Message, Outcome, RetrySettings, Status, TruncatedSettings
from runner.core.planning import Held, Policy, Standing, stand
from runner.core.raising import TOKEN_LIMITS, is_climbed, rungs
from runner.core.settling import due_s, judge, pause_s
from runner.core.splitting import Splitter, halves
from runner.core.wire import ResultLine

SECONDS = st.floats(min_value=0, max_value=86_400)
BACKOFFS = st.builds(Backoff, initial_s=SECONDS, factor=st.floats(min_value=1, max_value=100), max_s=SECONDS)


@given(BACKOFFS, st.integers(min_value=1, max_value=100))
@example(Backoff(initial_s=86_400, factor=100, max_s=86_400), 100)
def test_a_pause_never_shrinks_and_has_a_bound(backoff: Backoff, attempts: int) -> None:
    pause, later = pause_s(backoff, attempts), pause_s(backoff, attempts + 1)
    assert min(backoff.initial_s, backoff.max_s) <= pause <= later <= backoff.max_s


@given(BACKOFFS, st.integers(min_value=0, max_value=100), st.floats(min_value=0, max_value=2e9))
def test_a_repetition_is_never_due_before_its_failure(backoff: Backoff, attempts: int, at_s: float) -> None:
    due = due_s(backoff, failed_at_s=at_s, attempts=attempts, now_s=2e9)
    assert at_s <= due <= at_s + backoff.max_s
    assert due_s(backoff, failed_at_s=None, attempts=attempts, now_s=2e9) == 0
    set_back = due_s(backoff, failed_at_s=at_s + 86_400, attempts=attempts, now_s=at_s)
    assert set_back <= at_s + backoff.max_s, "a clock that was set back makes nobody wait longer"


def test_what_the_manifest_leaves_out_is_the_providers() -> None:
    usual = Backoff(initial_s=1, factor=2, max_s=3)
    assert RetrySettings().backoff(usual) == usual
    assert RetrySettings(initial_s=0.0, max_s=9).backoff(usual) == Backoff(initial_s=0, factor=2, max_s=9)


OUTCOMES = st.sampled_from(
    [
        Outcome(status=Status.SUCCEEDED),
        Outcome(status=Status.TRUNCATED),
        Outcome(status=Status.REFUSED),
        Outcome(status=Status.FAILED),
        Outcome(status=Status.FAILED, retryable=True),
        Outcome(status=Status.EXPIRED, retryable=True),
        Outcome(status=Status.UNACCOUNTED, retryable=True),
        Outcome(status=Status.FAILED, retryable=True, blocked=True),
    ]
)


@given(st.lists(OUTCOMES, min_size=1, max_size=20), st.integers(min_value=1, max_value=5))
def test_a_request_is_sent_until_it_is_answered_or_its_attempts_are_used_up(
    outcomes: list[Outcome], most: int
) -> None:
    """The life of one request over any number of runs."""
    policy = Policy(max_attempts=most)
    held = Held(request_id=1, name="k", status=None, is_open=False, attempts=0, retryable=False)
    for outcome in outcomes:
        if stand(held, policy) is not Standing.TO_SEND:
            assert not held.retryable or held.attempts - held.excused >= most
            break
        assert held.attempts == 0 or held.retryable, "a permanent outcome is never asked again"
        assert held.attempts - held.excused < most, "never more often than the manifest allows"
        held = replace(
            held,
            status=outcome.status,
            attempts=held.attempts + 1,
            retryable=outcome.retryable,
            excused=held.excused + outcome.blocked,
        )
    assert held.attempts >= 1


@given(st.integers(min_value=100, max_value=999), st.text(max_size=30))
def test_every_status_is_permanent_passing_or_the_accounts(status: int, body: str) -> None:
    line = ResultLine(
        custom_id="k", line_id=None, status_code=status, body=body, error_code=None, error_message=None
    )
    outcome = judge(line)
    assert outcome.retryable or not outcome.blocked
    if status >= 500 or status in (408, 429):
        assert outcome.retryable
    if status in (400, 403, 413, 422):
        assert not outcome.retryable
    if status in (401, 402):
        assert outcome.blocked


ENDPOINTS = st.sampled_from([endpoint for endpoint, names in TOKEN_LIMITS.items() if names])
SETTINGS = st.builds(
    TruncatedSettings,
    factor=st.floats(min_value=1.1, max_value=100),
    ceiling=st.integers(min_value=1, max_value=10_000_000),
)
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("max_tokens", "max_completion_tokens", "max_output_tokens"),
            st.integers(min_value=1, max_value=100_000),
        ),
        "temperature": st.floats(min_value=0, max_value=2),
        "stop": st.lists(st.text(alphabet="ab\u00e9", max_size=3), max_size=2),
        "zeta": st.dictionaries(st.text(alphabet="az", max_size=3), st.integers(-(2**63), 2**63), max_size=3),
    },
)


@given(ENDPOINTS, PARAMETERS, SETTINGS)
def test_limits_grow_step_by_step_up_to_the_ceiling_and_no_further(
    endpoint: str, parameters: dict[str, Any], settings: TruncatedSettings
) -> None:
    ladder = rungs(endpoint, parameters, settings)
    assert ladder[0] == parameters
    assert len(ladder) < 400
    names = [name for name in TOKEN_LIMITS[endpoint] if name in parameters]
    for below, above in pairwise(ladder):
        assert {name for name in below if below[name] != above[name]} <= set(names)
        assert any(above[name] > below[name] for name in names)
        assert all(below[name] <= above[name] <= max(settings.ceiling, below[name]) for name in names)
    assert all(ladder[-1][name] >= settings.ceiling for name in names)
    assert rungs(endpoint, parameters, settings) == ladder, "the same ladder in every plan"
    assert rungs(endpoint, parameters, None) == (parameters,)


MESSAGES = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user"]), content=st.text(max_size=20)),
    min_size=1,
    max_size=3,
)


@given(ENDPOINTS, PARAMETERS, SETTINGS, MESSAGES)
def test_a_body_with_a_larger_limit_is_the_one_that_would_be_rendered(
    endpoint: str, parameters: dict[str, Any], settings: TruncatedSettings, messages: list[Message]
) -> None:
    shapes = [
        RequestShape(provider_identity="p", endpoint=endpoint, model="m", parameters=rung)
        for rung in rungs(endpoint, parameters, settings)[:4]
    ]
    for below, above in pairwise(shapes):
        moved = above.moved_from(below, below.body(messages))
        assert moved == above.body(messages)
        assert above.fingerprint(moved) != below.fingerprint(below.body(messages))


def test_a_row_goes_on_only_from_an_answer_that_was_cut_to_one_that_did_not_fail() -> None:
    cut = Held(request_id=1, name="k", status=Status.TRUNCATED, is_open=False, attempts=1, retryable=False)
    policy = Policy(max_attempts=3)
    assert is_climbed(cut, None, policy)
    assert is_climbed(cut, replace(cut, is_open=True), policy)
    assert is_climbed(cut, replace(cut, status=Status.SUCCEEDED), policy)
    assert is_climbed(cut, replace(cut, status=Status.FAILED, retryable=True), policy)
    assert not is_climbed(cut, replace(cut, status=Status.FAILED), policy)
    assert not is_climbed(cut, replace(cut, status=Status.EXPIRED, retryable=True, attempts=3), policy)
    for below in (None, replace(cut, is_open=True), replace(cut, status=Status.SUCCEEDED)):
        assert not is_climbed(below, None, policy)


@given(st.lists(st.integers(min_value=1, max_value=1000), min_size=2, max_size=40))
def test_a_file_is_cut_where_the_parts_are_most_alike(sizes: list[int]) -> None:
    def gap(count: int) -> int:
        return abs(sum(sizes[:count]) - sum(sizes[count:]))

    cut = halves(iter(sizes))
    assert 1 <= cut < len(sizes)
    assert gap(cut) == min(gap(count) for count in range(1, len(sizes)))


@given(
    st.lists(st.tuples(st.integers(min_value=1, max_value=10), st.integers(0, 1)), max_size=60),
    st.integers(min_value=10, max_value=30),
    st.integers(min_value=1, max_value=7),
)
def test_what_must_wait_shares_no_file_with_what_may_go(
    lines: list[tuple[int, int]], most_bytes: int, most_lines: int
) -> None:
    limits = Limits(max_file_bytes=most_bytes, max_requests_per_file=most_lines, max_body_bytes=most_bytes)
    both, alone = Splitter(limits, first_shard=5), (Splitter(limits), Splitter(limits))
    numbers: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for size, lane in lines:
        place, by_itself = both.place(size, lane), alone[lane].place(size)
        assert place is not None
        assert by_itself is not None
        assert place.line == by_itself.line
        assert numbers[lane].setdefault(place.shard, by_itself.shard) == by_itself.shard
    assert numbers[0].keys().isdisjoint(numbers[1])
    used = sorted([*numbers[0], *numbers[1]])
    assert used == list(range(5, 5 + len(used)))
