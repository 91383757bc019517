"""Desired against held: what each request of a manifest needs now, and the plan as a value.

A reconciler's comparison, and a pure one: desired requests, minus answers held, minus requests on their
way, are the requests to send. Answers belong to fingerprints, so going back to an earlier prompt finds
the earlier answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from runner.core.model import Prices, Status

ANSWERS = frozenset({Status.SUCCEEDED, Status.TRUNCATED, Status.REFUSED, Status.INVALID})
"""What the server answered, whether or not it is what was wanted. All else is a failure."""


class Standing(StrEnum):
    """How a row's request stands when a run begins. A staged row is UNASKED where its request is to be sent
    for the first time; `stand` says TO_SEND."""

    ANSWERED = "answered"
    IN_FLIGHT = "in_flight"
    FAILED = "failed"
    TO_SEND = "to_send"
    UNASKED = "unasked"
    UNSENDABLE = "unsendable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the ledger knows of a fingerprint. `status` is None while no attempt has ended.

    `name` is the readable half of its custom_id, fixed when the request was first recorded.
    `attempts` are all sendings, `excused` those among them that a key or a lack of credit wasted.
    `answered_at_s`: when the answer, or the failure, was stored.
    `has_failed_since`: it was asked again and that failed, and the answer stays. `last_word_at_s`: when that,
    or else the answer, was stored; looked up for a bounded `Policy.retry_failed` alone.
    """

    request_id: int
    name: str
    status: Status | None
    is_open: bool
    attempts: int
    retryable: bool
    excused: int = 0
    answered_at_s: float | None = None
    has_failed_since: bool = False
    last_word_at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a run asks again although something is held.

    `refresh_before_s`: answers given before this moment (Unix seconds) are asked again; None: never,
    infinity: all. `refreshes_failures`: that holds for failures too, whatever their cause. `retry_failed`:
    all that did not succeed is asked again, whatever its cause and attempts; of it, what had its last word
    before `retry_failed_before_s`.
    """

    max_attempts: int
    refresh_before_s: float | None = None
    refreshes_failures: bool = False
    retry_failed: bool = False
    retry_failed_before_s: float = math.inf


def stand(held: Held | None, policy: Policy) -> Standing:
    """The standing of one request.

    A failure that may pass is asked again while attempts are left; a permanent one only when a person
    says so. What is on its way is never asked twice.
    """
    if held is None:
        return Standing.TO_SEND
    if held.is_open:
        return Standing.IN_FLIGHT
    if held.status is None or _is_asked_again(held, policy):
        return Standing.TO_SEND
    return Standing.ANSWERED if held.status in ANSWERS else Standing.FAILED


def _is_asked_again(held: Held, policy: Policy) -> bool:
    is_old = policy.refresh_before_s is not None and (held.answered_at_s or 0) < policy.refresh_before_s
    has_failed = held.status not in ANSWERS or held.has_failed_since
    return (
        (is_old and (held.status in ANSWERS or policy.refreshes_failures))
        or (has_failed and held.retryable and held.attempts - held.excused < policy.max_attempts)
        or (
            policy.retry_failed
            and lacks_success(held)
            and (held.last_word_at_s or 0) < policy.retry_failed_before_s
        )
    )


def is_unasked(held: Held | None) -> bool:
    """Whether nobody has ever asked a request, nor is about to."""
    return held is None or (held.status is None and not held.is_open)


def lacks_success(held: Held) -> bool:
    """Whether a request was asked and the last word was not a success."""
    return held.status is not None and (held.status is not Status.SUCCEEDED or held.has_failed_since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Tokens and cost of what would be sent. `basis` says in words what the figures rest on."""

    input_tokens: int
    output_tokens: int | None
    cost: float | None
    currency: str | None
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why rows are not what they were: `what` changed, from which digest to which, since which run, and how
    many rows that moved (None: not known apart from other reasons).
    """

    what: str
    was: str | None
    now: str | None
    rows: int | None = None
    since: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do. Counts are rows, but for `requests_to_send`, `shards`, `bytes`, and `raised`: so
    many of the requests ask again, with a larger limit, for what was cut at the token limit.

    `new` counts also rows that were never asked, `duplicates` those whose request equals an earlier row's.
    `writes_table`: the table on disk does not say what it would say, also where nothing is to be sent.
    """

    manifest: str
    rows: int
    unchanged: int
    new: int
    changed: int
    removed: int
    failed_before: int
    in_flight: int
    unsendable: int
    duplicates: int
    requests_to_send: int
    shards: int
    size_bytes: int
    raised: int = 0
    estimate: Estimate
    reasons: tuple[Reason, ...] = ()
    causes: dict[str, int] = field(default_factory=dict)
    writes_table: bool = False

    @property
    def has_work(self) -> bool:
        """Whether a run would do more than say that all is as it was."""
        return self.requests_to_send > 0 or self.in_flight > 0 or self.writes_table

    def as_json(self) -> dict[str, Any]:
        """The object that `run plan --json` prints; its keys are an interface."""
        return {
            "format_version": 1,
            "manifest": self.manifest,
            "rows": self.rows,
            "unchanged": self.unchanged,
            "new": self.new,
            "changed": self.changed,
            "removed": self.removed,
            "failed_before": self.failed_before,
            "in_flight": self.in_flight,
            "unsendable": self.unsendable,
            "duplicates": self.duplicates,
            "requests_to_send": self.requests_to_send,
            "raised": self.raised,
            "shards": self.shards,
            "bytes": self.size_bytes,
            "writes_table": self.writes_table,
            "reasons": [
                {
                    "what": reason.what,
                    "from": reason.was,
                    "to": reason.now,
                    "rows": reason.rows,
                    "since": reason.since,
                }
                for reason in self.reasons
            ],
            "estimate": {
                "input_tokens": self.estimate.input_tokens,
                "output_tokens": self.estimate.output_tokens,
                "cost": self.estimate.cost,
                "currency": self.estimate.currency,
                "basis": self.estimate.basis,
            },
        }


BYTES_PER_TOKEN = 4
"""The server's own estimate counts body bytes / 4 (Doubleword API, section 3.9)."""


def estimate(
    *,
    body_bytes: int,
    requests: int,
    max_output_tokens: int | None,
    prices: Prices | None,
    is_free: bool,
    extra_output_tokens: int = 0,
) -> Estimate:
    """Tokens from body bytes; output tokens from the request's own limit, the highest that it may cost.

    `is_free`: the server takes no money. With prices the cost is then what it would be elsewhere, so that a
    budget can be rehearsed. `extra_output_tokens`: by how much the limits of some requests are larger.
    """
    input_tokens = body_bytes // BYTES_PER_TOKEN
    output_tokens = (
        requests * max_output_tokens + extra_output_tokens if max_output_tokens is not None else None
    )
    tokens = "input: body bytes / 4"
    tokens += "; output: at most the token limit of each request" if output_tokens is not None else ""
    if requests == 0:
        return Estimate(input_tokens=0, output_tokens=0, cost=0.0, currency=None, basis="nothing to send")
    if is_free and prices is None:
        basis = f"{tokens}; the local server costs nothing"
        return Estimate(
            input_tokens=input_tokens, output_tokens=output_tokens, cost=0.0, currency=None, basis=basis
        )
    if prices is None or output_tokens is None:
        lacking = "model.prices is not set" if prices is None else "no token limit bounds the output"
        basis = f"{tokens}; cost unknown: {lacking}"
        return Estimate(
            input_tokens=input_tokens, output_tokens=output_tokens, cost=None, currency=None, basis=basis
        )
    return Estimate(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost=cost_of(input_tokens, output_tokens, prices),
        currency=prices.currency,
        basis=f"{tokens}; model.prices of the manifest{', though the local server costs nothing' * is_free}",
    )


def cost_text(amount: float) -> str:
    """`12.30`, `0.0042`, `0.000009`: cents above one unit, four digits below, and what would vanish there as
    a decimal number all the same."""
    if amount >= 1 or amount == 0:
        return f"{amount:,.2f}"
    return f"{amount:.4f}" if amount >= 0.0001 else f"{Decimal(f'{amount:.2g}'):f}"


def shown_cost(cost: float) -> str:
    """A cost in messages, rounded up: whoever allows as much allows it."""
    digits = 2 if cost >= 1 else 6
    return f"{math.ceil(round(cost * 10**digits, 9)) / 10**digits:.{digits}f}"


def cost_of(input_tokens: int, output_tokens: int, prices: Prices) -> float:
    """What so many tokens cost at these prices."""
    return (input_tokens * prices.input_per_million + output_tokens * prices.output_per_million) / 1_000_000
