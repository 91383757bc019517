"""Splitting: every line gets one place, in order, within the limits."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.model import Limits
from runner.core.splitting import Place, Run, Splitter


@given(
    sizes=st.lists(st.integers(1, 120), max_size=200),
    max_file_bytes=st.integers(20, 300),
    max_requests=st.integers(1, 20),
)
def test_every_line_has_one_place_and_no_file_breaks_a_limit(
    sizes: list[int], max_file_bytes: int, max_requests: int
) -> None:
    limits = Limits(max_file_bytes=max_file_bytes, max_requests_per_file=max_requests, max_body_bytes=10**9)
    splitter = Splitter(limits)
    files: dict[int, list[int]] = defaultdict(list)
    last = Place(shard=0, line=-1)
    for size in sizes:
        place = splitter.place(size)
        if size > max_file_bytes:
            assert place is None
            continue
        assert place is not None
        assert (place.shard, place.line) in ((last.shard, last.line + 1), (last.shard + 1, 0))
        assert place.line == len(files[place.shard])
        files[place.shard].append(size)
        last = place
    assert [size for number in sorted(files) for size in files[number]] == [
        size for size in sizes if size <= max_file_bytes
    ]
    for lines in files.values():
        assert sum(lines) <= max_file_bytes
        assert len(lines) <= max_requests


@given(sizes=st.lists(st.integers(1, 50), max_size=100))
def test_no_file_is_begun_before_the_one_before_it_is_full(sizes: list[int]) -> None:
    limits = Limits(max_file_bytes=100, max_requests_per_file=10, max_body_bytes=10**9)
    splitter = Splitter(limits)
    filled: dict[int, list[int]] = defaultdict(list)
    for size in sizes:
        place = splitter.place(size)
        assert place is not None
        if place.line == 0 and place.shard > 0:
            before = filled[place.shard - 1]
            assert len(before) == 10 or sum(before) + size > 100
        filled[place.shard].append(size)


@given(
    groups=st.lists(st.lists(st.integers(1, 60), max_size=30), max_size=8),
    max_file_bytes=st.integers(60, 300),
    max_requests=st.integers(1, 20),
)
def test_many_lines_at_once_get_the_places_that_they_get_one_by_one(
    groups: list[list[int]], max_file_bytes: int, max_requests: int
) -> None:
    limits = Limits(max_file_bytes=max_file_bytes, max_requests_per_file=max_requests, max_body_bytes=10**9)
    together, alone = Splitter(limits, 3), Splitter(limits, 3)
    for sizes in groups:
        runs = together.place_run(sizes)
        assert [
            Place(shard=run.shard, line=run.line + number) for run in runs for number in range(run.lines)
        ] == [alone.place(size) for size in sizes]
        assert sum(run.size_bytes for run in runs) == sum(sizes)
        # One by one and together may take turns.
        assert together.place(60) == alone.place(60)
        assert together.place_run([1], lane=1) == [Run(**_as_run(alone.place(1, 1)))]


def _as_run(place: Place | None) -> dict[str, int]:
    assert place is not None
    return {"shard": place.shard, "line": place.line, "lines": 1, "size_bytes": 1}


def test_a_line_that_no_file_can_hold_places_nothing() -> None:
    limits = Limits(max_file_bytes=100, max_requests_per_file=10, max_body_bytes=10**9)
    splitter = Splitter(limits)
    with pytest.raises(ValueError, match="larger than a file"):
        splitter.place_run([1, 101])
    assert splitter.place_run([1]) == [Run(shard=0, line=0, lines=1, size_bytes=1)]
