"""Query strings and path ids, read the way the hosted service reads them.

Limits are clamped, never refused; numbers that are not numbers are; ids must be UUIDs, in any case and
with or without hyphens; unknown parameters are ignored.
"""

from __future__ import annotations

import uuid

from starlette.requests import Request

from runner.localserver import refusals

DEFAULT_LIMIT, MAX_LIMIT = 20, 101


def whole_number(request: Request, name: str) -> int | None:
    """An integer parameter, None if absent. Refusal 400 if it is no number."""
    given = request.query_params.get(name)
    if given is None:
        return None
    if not given.removeprefix("-").isascii() or not given.removeprefix("-").isdigit():
        raise refusals.text(400, f"Failed to deserialize query string: {name}: invalid digit found in string")
    return int(given[:18])


def page_limit(request: Request) -> int:
    """`limit` of a listing: 20 by default, clamped to 1-101."""
    return clamped(whole_number(request, "limit"), DEFAULT_LIMIT)


def content_limit(request: Request) -> int | None:
    """`limit` of a content request: None (a stream) if absent, else clamped to 1-101."""
    given = whole_number(request, "limit")
    return None if given is None else clamped(given, DEFAULT_LIMIT)


def clamped(given: int | None, default: int) -> int:
    """A limit within the server's bounds."""
    return default if given is None else min(max(given, 1), MAX_LIMIT)


def skip(request: Request) -> int:
    """`skip`, 0 by default. Refusal 400 below 0."""
    given = whole_number(request, "skip") or 0
    if given < 0:
        raise refusals.text(400, "Failed to deserialize query string: skip: invalid digit found in string")
    return given


def path_id(request: Request, thing: str) -> str:
    """The id in the path as a canonical UUID. Refusal 400 `Invalid {thing} ID format`."""
    given = canonical_uuid(str(request.path_params["id"]))
    if given is None:
        raise refusals.text(400, f"Invalid {thing} ID format")
    return given


def canonical_uuid(given: str) -> str | None:
    """Lower case with hyphens; None if it is not a UUID."""
    if len(given) not in (32, 36) or (len(given) == 36 and given.count("-") != 4):
        return None
    try:
        return str(uuid.UUID(given))
    except ValueError:
        return None
