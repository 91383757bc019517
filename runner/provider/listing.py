"""A walk through a listing, newest first, that knows whether it saw everything.

Theory. A batch that a walk did not find may be bought again, so a walk that claims to be complete must
be. Listings were seen to restart at page one for an unknown cursor, to stand still, to return empty
pages that promise more, and to shuffle. Complete means: the server said `has_more: false`, or the walk
passed the time bound in a listing that was really sorted, and no id came twice, and every object could
be read, under a cap of pages. Anything else is incomplete, which is not "absent".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from runner.core.model import Scan
from runner.core.wire import JsonError, decode_json, text_or_none

PAGE_SIZE: Final = 100
MAX_PAGES: Final = 500


class Listed(Protocol):
    """What a listing holds: a batch or a file."""

    @property
    def created_at_s(self) -> int | None:
        """Unix seconds, or None where the server gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page. `objects` pairs each id with its object; `is_readable`: nothing in it was foreign.

    `has_more` is None where the server doesn't say.
    """

    objects: tuple[tuple[str, Listed], ...]
    has_more: bool | None
    cursor: str | None
    is_readable: bool


def read_page(body: bytes, read: Callable[[object], tuple[str, Listed] | None]) -> Page | None:
    """A listing's reply, or None if it is none. `read` makes an object with its id, or None."""
    try:
        value: Any = decode_json(body)
    except JsonError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        return None
    objects = tuple(found for found in map(read, value["data"]) if found is not None)
    has_more = value.get("has_more")
    last_id = objects[-1][0] if objects else None
    return Page(
        objects=objects,
        has_more=has_more if isinstance(has_more, bool) else None,
        cursor=text_or_none(value.get("last_id")) or last_id,
        is_readable=len(objects) == len(value["data"]),
    )


def walk(
    fetch: Callable[[str | None], Page],
    *,
    not_before_s: int | None = None,
    max_pages: int = MAX_PAGES,
) -> Scan:
    """Every object from the newest back to the end, or to the first created before `not_before_s`.

    `fetch` takes the cursor (None for the first page); what it raises passes through.
    """
    seen: dict[str, Listed] = {}
    cursors: set[str] = set()
    cursor: str | None = None
    is_readable = True
    for _ in range(max_pages):
        page = fetch(cursor)
        is_readable = is_readable and page.is_readable
        repeats = _add(seen, page)
        if repeats:
            break
        if page.has_more is False or _is_past(seen.values(), not_before_s):
            return Scan(is_complete=is_readable, objects=tuple(seen.values()))
        cursor = page.cursor
        if not page.objects or page.has_more is None or cursor is None or cursor in cursors:
            break
        cursors.add(cursor)
    return Scan(is_complete=False, objects=tuple(seen.values()))


def _add(seen: dict[str, Listed], page: Page) -> bool:
    """Add a page's new objects. Whether one of them had been there before."""
    before = len(seen)
    for object_id, listed in page.objects:
        seen.setdefault(object_id, listed)
    return len(seen) - before != len(page.objects)


def _is_past(listed: Iterable[Listed], not_before_s: int | None) -> bool:
    """Whether a walk went beyond the bound. That proves something only if the listing was seen to fall."""
    if not_before_s is None:
        return False
    times = [item.created_at_s for item in listed]
    known = [moment for moment in times if moment is not None]
    is_sorted = len(known) == len(times) and known == sorted(known, reverse=True)
    return is_sorted and bool(known) and known[-1] < min(not_before_s, known[0])
