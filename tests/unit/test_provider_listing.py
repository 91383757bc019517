"""A walk that claims to have seen everything has seen everything (modes 84 to 88)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.model import Scan
from runner.core.wire import batch_from
from runner.provider.listing import Listed, Page, read_page, walk


def read(value: object) -> tuple[str, Listed] | None:
    batch = batch_from(value)
    return None if batch is None else (batch.batch_id, batch)


def page(ids: Sequence[str], *, has_more: object = False, at: int = 1000, **fields: Any) -> Page:
    data = [{"id": name, "created_at": at} for name in ids]
    body = {"object": "list", "data": data, "has_more": has_more} | fields
    found = read_page(json.dumps(body).encode(), read)
    assert found is not None
    return found


def served(*pages: Page) -> tuple[Callable[[str | None], Page], list[str | None]]:
    cursors: list[str | None] = []

    def fetch(cursor: str | None) -> Page:
        cursors.append(cursor)
        return pages[min(len(cursors), len(pages)) - 1]

    return fetch, cursors


def ids(scan: Scan) -> list[str]:
    return [item.batch_id for item in scan.objects]


def test_a_walk_follows_the_last_id_to_the_end() -> None:
    fetch, cursors = served(page(["a", "b"], has_more=True), page(["c"], last_id="c"))
    scan = walk(fetch)
    assert (scan.is_complete, ids(scan), cursors) == (True, ["a", "b", "c"], [None, "b"])


def test_an_empty_account_is_a_complete_walk() -> None:
    assert walk(served(page([]))[0]) == Scan(is_complete=True, objects=())


def test_a_cursor_that_restarts_at_page_one_makes_the_walk_incomplete() -> None:
    fetch, cursors = served(page(["a", "b"], has_more=True))
    scan = walk(fetch)
    assert (scan.is_complete, ids(scan), len(cursors)) == (False, ["a", "b"], 2)


def test_a_cursor_that_stands_still_makes_the_walk_incomplete() -> None:
    fetch, cursors = served(
        page(["a"], has_more=True, last_id="x"), page(["b"], has_more=True, last_id="x"), page(["c"])
    )
    scan = walk(fetch)
    assert (scan.is_complete, ids(scan), len(cursors)) == (False, ["a", "b"], 2)


def test_an_id_that_comes_twice_makes_the_walk_incomplete() -> None:
    scan = walk(served(page(["a", "b"], has_more=True), page(["b", "c"]))[0])
    assert (scan.is_complete, ids(scan)) == (False, ["a", "b", "c"])


def test_an_empty_page_that_promises_more_makes_the_walk_incomplete() -> None:
    assert not walk(served(page([], has_more=True))[0]).is_complete


@pytest.mark.parametrize("has_more", [None, "false", 0, ""])
def test_a_missing_or_odd_end_sign_makes_the_walk_incomplete(has_more: object) -> None:
    fetch, cursors = served(page(["a"], has_more=has_more), page(["b"]))
    scan = walk(fetch)
    assert (scan.is_complete, ids(scan), cursors) == (False, ["a"], [None])


def test_an_object_without_an_id_makes_the_walk_incomplete() -> None:
    body = b'{"data":[{"id":"a"},{"id":""},7],"has_more":false}'
    found = read_page(body, read)
    assert found is not None
    scan = walk(lambda _: found)
    assert (scan.is_complete, ids(scan)) == (False, ["a"])


def test_the_page_cap_ends_an_endless_listing() -> None:
    counter = iter(range(10**6))
    scan = walk(lambda _: page([str(next(counter))], has_more=True), max_pages=7)
    assert (scan.is_complete, len(scan.objects)) == (False, 7)


def test_the_time_bound_ends_a_sorted_walk() -> None:
    fetch, cursors = served(
        page(["a"], has_more=True, at=300), page(["b"], has_more=True, at=100), page(["c"])
    )
    scan = walk(fetch, not_before_s=200)
    assert (scan.is_complete, ids(scan), len(cursors)) == (True, ["a", "b"], 2)


def test_the_time_bound_proves_nothing_in_an_unsorted_listing() -> None:
    fetch, _ = served(
        page(["a"], has_more=True, at=150),
        page(["b"], has_more=True, at=300),
        page(["c"], has_more=True, at=100),
    )
    assert not walk(fetch, not_before_s=200, max_pages=3).is_complete


def test_the_time_bound_proves_nothing_before_the_listing_was_seen_to_fall() -> None:
    fetch, cursors = served(page(["a"], has_more=True, at=100), page(["b"], at=100))
    assert (ids(walk(fetch, not_before_s=200)), len(cursors)) == (["a", "b"], 2)


def test_a_bound_is_not_passed_by_an_object_of_that_very_second() -> None:
    fetch, cursors = served(page(["a"], has_more=True, at=200), page(["b"], at=200))
    assert (ids(walk(fetch, not_before_s=200)), len(cursors)) == (["a", "b"], 2)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"data":{}}', b'{"data":null}', b"<html>"])
def test_a_reply_that_is_no_listing_is_no_page(body: bytes) -> None:
    assert read_page(body, read) is None


@settings(deadline=None, max_examples=100)
@given(count=st.integers(0, 30), size=st.integers(1, 7))
def test_a_sound_listing_is_seen_whole_whatever_its_page_size(count: int, size: int) -> None:
    names = [f"b{number}" for number in range(count)]

    def fetch(cursor: str | None) -> Page:
        start = 0 if cursor is None else names.index(cursor) + 1
        return page(names[start : start + size], has_more=start + size < count)

    scan = walk(fetch)
    assert (scan.is_complete, ids(scan)) == (True, names)
