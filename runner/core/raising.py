"""An answer that was cut at the token limit, asked again with a larger limit: which request follows which.

Theory. A larger limit is another body, hence another request with a fingerprint, attempts and an answer of
its own. Nothing records that one stands for the other, because nothing needs to: the limits form a ladder
that the manifest alone determines (`rungs`), and the ledger holds how each rung's request ended. So every
plan finds the same rung again (`climb`), a row's answer is joined through the request of its rung like any
other, and a second run costs nothing. A rung is climbed only where the one below is held as truncated; and
one whose raised request failed for good keeps the cut answer, which was paid for and is better than none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runner.core.model import Status, TruncatedSettings
from runner.core.planning import Held, Policy, Standing, stand

TOKEN_LIMITS: Mapping[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("max_tokens", "max_completion_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/embeddings": (),
}
"""The parameters of each endpoint that bound the output."""


def output_bound(endpoint: str, parameters: Mapping[str, Any]) -> int | None:
    """The most output tokens that a request may be billed for; None where nothing bounds them.

    Servers differ in which of several limits they heed, so the largest counts; one below 1 is no bound (to
    some it means "as many as fit"), nor is a limit of another endpoint.
    """
    names = TOKEN_LIMITS.get(endpoint)
    if names == ():
        return 0
    limits = [limit for name in names or () if (limit := parameters.get(name)) is not None]
    if not limits or not all(_is_number(limit) and limit >= 1 for limit in limits):
        return None
    bound: int = math.ceil(max(limits))
    return bound


def _is_number(limit: object) -> bool:
    return isinstance(limit, int | float) and not isinstance(limit, bool) and math.isfinite(limit)


def rungs(
    endpoint: str, parameters: Mapping[str, Any], settings: TruncatedSettings | None
) -> tuple[Mapping[str, Any], ...]:
    """The parameters to ask with, one after another: as they are, then with larger and larger limits."""
    ladder: list[Mapping[str, Any]] = [parameters]
    if settings is None:
        return tuple(ladder)
    while raised := _raised(ladder[-1], TOKEN_LIMITS.get(endpoint, ()), settings):
        ladder.append({**ladder[-1], **raised})
    return tuple(ladder)


def _raised(
    parameters: Mapping[str, Any], names: tuple[str, ...], settings: TruncatedSettings
) -> dict[str, int]:
    """The limits that can still grow, grown. Empty where none can."""
    raised: dict[str, int] = {}
    for name in names:
        limit = parameters.get(name)
        if not isinstance(limit, int | float) or isinstance(limit, bool):
            continue
        if 0 < limit < settings.ceiling:
            raised[name] = min(max(math.ceil(limit * settings.factor), int(limit) + 1), settings.ceiling)
    return raised


def is_climbed(below: Held | None, above: Held | None, policy: Policy) -> bool:
    """Whether a row goes on from a request to the one with the next larger limit."""
    if below is None or below.status is not Status.TRUNCATED or below.is_open:
        return False
    return stand(above, policy) is not Standing.FAILED
