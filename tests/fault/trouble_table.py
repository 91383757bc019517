"""The table of trouble: kind of fault, phase, and the end that each must come to.

Profiles differ where a create's outcome is unknown. `doubleword` has a fence: what was not created is sent
again. A server of which nothing is known has none: without proof a person decides (HELD). Plain-text
refusals are definite for the first, OpenAI's error objects for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.fault.trouble_factories import (
    DONE,
    HELD,
    HELD_THEN_FOUND,
    PHASES,
    REFUSED,
    STAYS_HELD,
    STILL_RUNNING,
    Case,
    End,
    asked_again,
    both,
    rows,
)

CREATE = PHASES["create"]
SAFE_PHASES = ("upload", "poll", "download", "list")
"""All but the create: here a call may simply be made again."""
SLOW = "[[local:slow 300]]"
UNACCOUNTED = rows("unaccounted unaccounted")
FIRST_UNACCOUNTED = rows("unaccounted unaccounted", "k0")
BOUGHT_TWICE = End(twice="*")
"""The one window that stays open: a batch has run, and every listing there is denies it for good."""
NO_WAIT = {"retry_after": "0", "body_s": 0}


IN_FLIGHT = "[[local:slow 0.8]]"
"""Longer than the readings of a finished batch take, shorter than the grace after a cancel."""


def in_flight_at_a_cancel() -> list[Case]:
    """A row that is answered after its batch was cancelled; the grace is 2 to 4 settle times."""
    return case("batch-cancelled", "poll", DONE, texts={"k1": IN_FLIGHT}, begun=True, settle_s=0.6)


def far_behind_the_fence() -> Case:
    """Neither the lost batch is listed, nor any file told of that is younger than the fence."""
    far = {"seconds": 60}
    behind = {"kind": "replica-lag", "route": "GET /v1/files/*", "nth": 4, "times": 0, "params": far}
    lost = {"kind": "lost-reply", "route": CREATE}
    return case("stale-list", "list", HELD_THEN_FOUND, times=0, params=far, also=(behind, lost))[0]


def case(kind: str, phase: str, end: End, unknown: End | None = None, **more: Any) -> list[Case]:
    """One entry of the table, for both profiles."""
    return both(Case(kind=kind, phase=phase, profile="", end=end, **more), unknown)


def each(kind: str, phases: tuple[str, ...], end: End, **more: Any) -> Iterator[Case]:
    """The same end in each phase."""
    for phase in phases:
        yield from case(kind, phase, end, **more)


def refusals() -> Iterator[Case]:
    """The server says no, or the gateway before it. Nothing has happened."""
    for kind in ("internal-500", "gateway-500", "gateway-502", "gateway-503", "gateway-504", "gateway-429"):
        yield from case(kind, "create", DONE, HELD)
        yield from each(kind, SAFE_PHASES, DONE)
    for kind in ("gateway-502", "gateway-503", "internal-500"):
        yield from each(kind, ("poll", "download"), DONE, times=9)  # a storm
    for kind in ("timeout-408", "redirect-307", "reset"):
        yield from case(kind, "create", DONE, HELD)
        yield from each(kind, SAFE_PHASES, DONE)
    yield from case("unavailable-503", "create", DONE, HELD)
    yield from each("unavailable-503", SAFE_PHASES, DONE, params=NO_WAIT)
    yield from each("unavailable-503", ("poll", "upload"), STILL_RUNNING, wait_s=1, hours=True)
    yield from each("slow-request", ("create", *SAFE_PHASES), DONE, params={"seconds": 0.05})
    yield from case("conflict-409", "create", DONE, HELD)
    yield from case("rate-limit-429", "create", DONE, params={"retry_after": "0"})
    yield from each("rate-limit-429", SAFE_PHASES, DONE, params={"retry_after": "0"})
    yield from case("quota-429", "create", REFUSED)
    yield from each("quota-429", SAFE_PHASES, REFUSED)
    yield from case("unauthorized-401", "create", REFUSED)
    yield from each("unauthorized-401", SAFE_PHASES, REFUSED)
    yield from case("capacity-429", "create", DONE, HELD, params=NO_WAIT)
    yield from case("upload-queue-429", "upload", DONE, params=NO_WAIT)
    yield from case("volume-429", "create", REFUSED, HELD)
    for kind in ("balance-402", "plan-403", "model-403", "unprocessable-422"):
        yield from case(kind, "create", REFUSED)
    yield from case("invalid-400", "upload", REFUSED)
    for kind in ("too-large-413", "gateway-413"):
        yield from case(kind, "upload", DONE)  # split smaller
    yield from case("missing-404", "poll", DONE, times=3)
    yield from each("missing-404", ("create", "download", "list"), DONE, times=2)
    yield from case("gone-410", "download", UNACCOUNTED, times=0)
    yield from case("gone-410", "download", DONE, times=2)


def odd_waits() -> Iterator[Case]:
    """429 with a Retry-After of every kind. A bare sentence says nothing definite to the unknown profile."""
    for kind in ("retry-after-absent", "retry-after-negative", "retry-after-words"):
        yield from case(kind, "create", DONE, HELD)
        yield from each(kind, ("upload", "poll"), DONE)
    yield from case("retry-after-date", "create", DONE, HELD, params={"seconds": 1})
    yield from each("retry-after-date", ("upload", "poll"), DONE, params={"seconds": 1})
    yield from each("retry-after-huge", ("poll", "upload"), STILL_RUNNING, wait_s=1, hours=True)
    yield case("retry-after-huge", "create", STILL_RUNNING, wait_s=1, hours=True)[0]


def effects() -> Iterator[Case]:
    """The effect and the reply part ways."""
    for phase in ("upload", "create"):
        yield from case("lost-reply", phase, DONE)
        yield from case("late-effect", phase, DONE, params={"seconds": 0.1})
        yield from case("cut-reply", phase, DONE)
    for status in (500, 502, 503, 504):
        yield from case("error-after-effect", "create", DONE, params={"status": status})
    yield from each("error-after-effect", ("upload",), DONE)
    yield case("lost-reply", "fence", DONE)[0]
    yield from case("late-effect", "create", DONE, HELD_THEN_FOUND, params={"seconds": 2}, lands=True)
    yield case("late-effect", "create", DONE, params={"seconds": 0.1, "status": 504})[1]
    yield from case("cut-reply", "create", DONE, params={"after_bytes": 60})
    yield from case("reset-upload", "upload", DONE)
    yield from case("slow-upload", "upload", DONE, params={"seconds": 0.1})


def what_others_do() -> Iterator[Case]:
    """Somebody else has the same account."""
    yield from case("batch-deleted", "poll", STAYS_HELD, begun=True)
    stopped = {"k1": SLOW, "k2": SLOW}
    two_cancelled = {"k1": "cancelled cancelled", "k2": "cancelled cancelled"}
    two_expired = {"k1": "expired expired", "k2": "expired expired"}
    yield from case("batch-cancelled", "poll", End(rows=two_cancelled), texts=stopped, begun=True)
    yield from case("batch-cancelled", "poll", DONE, begun=True)
    yield from case("batch-expired", "poll", End(rows=two_expired), texts=stopped, begun=True)
    yield from case("input-deleted", "poll", DONE, begun=True)
    yield from case("input-deleted", "poll", End(rows=two_cancelled), texts=stopped, begun=True)
    yield from case("output-deleted", "download", UNACCOUNTED, begun=True)
    yield from case("batch-reopened", "poll", DONE, begun=True)
    fails_again = End(rows={"k0": "failed invalid_request"}, twice="k0")
    yield from case("batch-retried", "poll", fails_again, texts={"k0": "[[local:fail 400]]"}, begun=True)


def lags() -> Iterator[Case]:
    """Reads come from replicas that are behind."""
    yield from case("stale-state", "poll", DONE, times=4, params={"seconds": 0.4})
    yield from case("stale-list", "list", DONE, times=0, params={"seconds": 0.2})
    yield from each("replica-lag", ("poll", "download", "list"), DONE, times=3, params={"seconds": 0.3})


def objects() -> Iterator[Case]:
    """What the server says of a batch: words, counts and ids."""
    for kind in (
        "status-unknown",
        "status-capitals",
        "status-missing",
        "status-progress",
        "stuck-in-progress",
        "stuck-finalizing",
        "stuck-cancelling",
        "says-expired",
        "says-failed",
        "counts-lie",
        "counts-null",
        "counts-negative",
        "counts-huge",
        "counts-backwards",
        "counts-missing",
        "error-id-null",
        "metadata-dropped",
        "times-as-text",
        "more-fields",
    ):
        yield from case(kind, "poll", DONE, times=0)
    yield from case("stuck-validating", "poll", STILL_RUNNING, times=0, wait_s=1)
    yield from case("says-reopened", "poll", STILL_RUNNING, times=0, wait_s=1)
    yield from case("says-reopened", "poll", DONE, times=3)
    yield from case("says-completed", "poll", DONE, texts={"k1": "[[local:slow 0.3]]"})
    for kind in ("output-id-null", "output-id-odd", "output-id-elsewhere"):
        yield from case(kind, "poll", UNACCOUNTED, times=0, begun=True)
    yield from case("output-id-null", "poll", DONE, times=2)
    odd: Any
    for odd in ("", {}, 7):
        yield from case("error-id-odd", "poll", DONE, times=0, params={"value": odd})
    for odd in ({}, "", None, 7):
        yield from each("id-odd", ("upload", "create"), DONE, params={"value": odd})
    yield from case("id-odd", "poll", DONE, times=2)
    yield from case("id-missing", "create", DONE)
    yield from each("id-missing", ("upload", "poll"), DONE)
    yield from case("object-of-another", "poll", DONE, times=2)
    yield from case("object-of-another", "poll", STILL_RUNNING, times=0, wait_s=3, begun=True)
    lacking = {"kind": "lines-missing", "route": PHASES["download"], "times": 0}
    yield from case("counts-lie", "poll", FIRST_UNACCOUNTED, times=0, also=(lacking,))
    yield from each("object-is-list", ("upload", "create", "poll"), DONE)
    yield from case("fields-null", "poll", DONE, times=2)
    yield from case("metadata-dropped", "create", DONE)


def listings() -> Iterator[Case]:
    """An unknown create is looked for: it is there, or it is not and nothing may prove that wrongly."""
    for kind in (
        "cursor-stands-still",
        "list-odd-entries",
        "list-repeats",
        "list-backwards",
        "list-no-has-more",
        "list-no-metadata",
    ):
        yield from case(kind, "list", DONE, times=0)
    absent = {"kind": "gateway-502", "route": CREATE}
    waiting_fence = replace(HELD, after=DONE)
    for kind in ("cursor-stands-still", "pages-empty", "list-odd-entries", "list-no-has-more"):
        yield from case(kind, "list", waiting_fence, STAYS_HELD, times=0, also=(absent,))
    yield from case("list-no-list", "list", STILL_RUNNING, times=0, wait_s=2)
    yield from case("list-no-list", "list", DONE, times=2)
    yield from case("pages-empty", "list", HELD_THEN_FOUND, times=0)
    yield from case("list-empty", "list", DONE, times=2)
    yield from case("list-empty", "list", BOUGHT_TWICE, HELD_THEN_FOUND, times=0)


def contents() -> Iterator[Case]:
    """What stands in the result files."""
    for kind in (
        "lines-backwards",
        "lines-repeated",
        "second-answer",
        "rows-in-both",
        "unended-line",
        "line-not-utf8",
        "line-separators",
        "line-nul",
        "line-surrogate",
        "line-nan",
        "line-deep",
        "lines-crlf",
        "lines-odd",
        "foreign-ids",
    ):
        yield from case(kind, "download", DONE, times=0)
    for kind in ("content-empty", "output-shrinks", "lines-late", "torn-line", "line-not-json"):
        yield from case(kind, "download", DONE, times=2)
    yield from case("content-empty", "download", UNACCOUNTED, times=0)
    yield from case("output-shrinks", "download", UNACCOUNTED, times=0, params={"keep": 0})
    for kind in ("lines-missing", "line-not-json"):
        yield from case(kind, "download", FIRST_UNACCOUNTED, times=0)
    yield from case("torn-line", "download", rows("unaccounted unaccounted", "?"), times=0)
    yield from case("lines-missing", "download", asked_again("k0"), times=8, attempts=2, begun=True)
    for kind in ("body-string", "body-null", "body-empty"):
        yield from case(kind, "download", rows("failed unusable_body", "k0"), times=0, attempts=3)
    yield from case("error-in-output", "download", rows("failed invalid_request", "k0"), times=0, attempts=3)
    yield from case("answer-cut", "download", rows("truncated length", "k0"), times=0, attempts=3)
    yield from case("answer-filtered", "download", rows("refused content_filter", "k0"), times=0, attempts=3)
    yield from case("answer-refused", "download", rows("refused refusal", "k0"), times=0, attempts=3)


def wire() -> Iterator[Case]:
    """Bytes that no client should be sent."""
    phases = ("create", *SAFE_PHASES)
    for kind in ("cut-json", "html-200", "empty-200", "duplicate-headers", "odd-headers", "drip"):
        yield from each(kind, phases, DONE)
    for kind in ("html-200", "empty-200"):
        yield from case(kind, "create", DONE)
    yield from case("abort-download", "download", DONE, times=3)


def execution() -> Iterator[Case]:
    """Requests that fail in each way of the hosted service."""
    for kind, error_class in {
        "row-retriable-status": "server_error",
        "row-network-error": "server_error",
        "row-task-terminated": "server_error",
        "row-plain-text": "server_error",
        "row-timeout": "timeout",
    }.items():
        yield from case(kind, "execute", rows(f"failed {error_class}"), times=0)
        yield from case(kind, "execute", asked_again("k0"), attempts=2, token="k0-")
    yield from case("row-batch-terminated", "execute", rows("cancelled cancelled"), times=0)
    for kind in ("row-final-status", "row-request-builder"):
        yield from case(kind, "execute", rows("failed invalid_request"), times=0, attempts=3)
    no_output = {"kind": "output-id-null", "route": PHASES["poll"], "times": 0}
    yield from case("row-final-status", "execute", rows("failed invalid_request"), times=0, also=(no_output,))
    yield from case("fails-at-start", "execute", DONE, attempts=2)
    yield from case("fails-at-start", "execute", UNACCOUNTED)
    yield from case("late-row", "execute", DONE, params={"delay_s": 0.3})


TOPICS = (
    refusals,
    odd_waits,
    effects,
    what_others_do,
    lags,
    objects,
    listings,
    contents,
    wire,
    execution,
)


def whole_table() -> list[Case]:
    """Every case for both profiles."""
    return [one for topic in TOPICS for one in topic()]


def usual_table() -> list[Case]:
    """Each end of each kind in each phase once. Profiles for which all ends are the same take turns."""
    whole = whole_table()
    found: dict[tuple[str, str, str, str], Case] = {}
    turns: Counter[str] = Counter()
    for one in whole:
        twin = replace(one, profile="unknown" if one.profile == "doubleword" else "doubleword")
        place = (one.kind, one.phase, repr(one.end))
        if twin not in whole:
            found.setdefault((*place, one.profile), one)
        elif (*place, "any") not in found:
            turns[one.phase] += 1
            found[(*place, "any")] = one if turns[one.phase] % 2 else twin
    return list(found.values())
