"""Rules that hold for any data: comparing, claiming, keeping the best outcome, packing."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import ExitStack
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from unittest import mock
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.identity import key_part
from runner.core.model import Outcome, Status
from runner.core.settling import is_better
from runner.ledger import Comparison, StagedBlock, StagedRow, Staging
from runner.ledger.packing import (
    pack_finish_reason,
    pack_model,
    pack_response_id,
    storable,
    unpack_finish_reason,
    unpack_model,
    unpack_response_id,
)
from runner.ledger.times import iso, seconds_or_none
from tests.contract.ledger_factories import Project, fingerprint, shard_file, to_send, unsendable, waiting

FEW = settings(deadline=None, max_examples=25)
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
MARKS = st.one_of(st.none(), st.sampled_from([bytes([n]) * 16 for n in range(4)]))
ENDED = [status for status in Status if status not in (Status.PENDING, Status.UNSENDABLE)]


@FEW
@given(before=st.dictionaries(KEYS, MARKS, max_size=8), now=st.dictionaries(KEYS, MARKS, max_size=8))
def test_a_comparison_by_key_is_that_of_two_dictionaries(
    before: dict[str, bytes | None], now: dict[str, bytes | None]
) -> None:
    both = before.keys() & now.keys()
    unchanged = sum(before[key] == now[key] for key in both)
    with tempfile.TemporaryDirectory() as folder, Staging.create(Path(folder)) as staging:
        staging.load_previous([list(before.items())])
        staging.add_rows(
            [StagedRow(at, key, now[key], "to_send", None, None, None) for at, key in enumerate(now)]
        )
        assert staging.compare() == Comparison(
            unchanged=unchanged,
            new=len(now) - len(both),
            changed=len(both) - unchanged,
            removed=len(before) - len(both),
        )


@FEW
@given(
    calls=st.lists(st.lists(st.integers(0, 12), max_size=12), max_size=4), words=st.sampled_from([1, 8, 1024])
)
def test_every_fingerprint_is_claimed_exactly_once(calls: list[list[int]], words: int) -> None:
    """Also where the filter is so small that it is hardly ever sure."""
    seen: set[int] = set()
    with (
        mock.patch("runner.ledger.claims._WORDS", words),
        tempfile.TemporaryDirectory() as folder,
        Staging.create(Path(folder)) as staging,
    ):
        for call in calls:
            expected = []
            for number in call:
                expected.append(number not in seen)
                seen.add(number)
            assert staging.claim([fingerprint(number) for number in call]) == expected
            if len(call) == 5:
                staging.compare()  # all was claimed, as it seems
        rows = [waiting(position, f"k{position}", request=one) for position, one in enumerate(chain(*calls))]
        staging.add_rows(rows)
        assert staging.duplicates() == len(rows) - len(seen)


ODD = ("", "", "é", '"\\\n', "", "", "", "\0x", "\x7f\ud7ff\U0001f600")
"""At the end of keys: nothing mostly, or what JSON, or a custom_id, can't hold as it is."""
WAYS: tuple[dict[str, object], ...] = (
    {},
    {"new_blocks.INDEX_FROM_ROWS": 1},
    {"new_blocks.INDEX_FROM_ROWS": 1, "unpacking.is_able": lambda _: False},
    {"unpacking._MOST_RUNS": 1},
)
"""How blocks are written: with SQLite's help or without it, into an index or before it."""
ROWS = st.lists(st.sampled_from(["new", "new", "new", "equal", "unsendable", "left out"]), max_size=9)


def _staged(staging: Staging, plan: int, kinds: list[str], *, by_block: bool) -> list[StagedRow]:
    """Rows of these kinds, as a comparison stages them: what is new in blocks, or one by one."""
    rows: list[StagedRow] = []
    lines: Counter[int] = Counter()
    for position, kind in enumerate(kinds):
        key = f"{plan}.{position}{ODD[position % len(ODD)]}"
        new = [row for row in rows if row.slot is not None]
        if kind == "unsendable":
            rows.append(unsendable(position, key))
        elif kind == "left out" or (kind == "equal" and not new):
            rows.append(waiting(position, key, standing="unasked"))
        elif kind == "equal":
            rows.append(StagedRow(position, key, new[0].fingerprint, "unasked", None, None, None))
        else:
            slot = position // 4
            placed = to_send(position, key, slot=slot, line=lines[slot])
            rows.append(placed._replace(standing="unasked", name=key_part(key)))
            lines[slot] += 1
    new = [row for row in rows if row.slot is not None]
    assert all(staging.claim([row.fingerprint or b"" for row in new]))
    for group in (new[:3], new[3:]) if by_block else ():
        keys, names = [row.key for row in group], [row.name or "" for row in group]
        runs = [list(run) for _, run in groupby(group, key=attrgetter("slot"))]
        block = StagedBlock(
            positions=[row.position for row in group],
            keys=keys,
            fingerprints=b"".join(row.fingerprint or b"" for row in group),
            names=keys if keys == names else names,
            places=[(run[0].slot or 0, run[0].line or 0, len(run)) for run in runs],
        )
        staging.add_block(block)
    staging.add_rows([row for row in rows if row.slot is None or not by_block])
    assert list(staging) == rows
    return rows


@settings(deadline=None, max_examples=10)
@given(plans=st.lists(ROWS, min_size=1, max_size=3))
def test_a_plan_in_blocks_is_the_plan_of_its_rows(plans: list[list[str]]) -> None:
    found = []
    for way in (None, *WAYS):
        by_block = way is not None
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            for name, value in (way or {}).items():
                stack.enter_context(mock.patch(f"runner.ledger.{name}", value))
            project = Project.open(Path(folder))
            told: list[object] = []
            for number, kinds in enumerate(plans):
                with Staging.create(Path(folder)) as staging:
                    staging.load_previous(project.ledger.previous_rows(project.manifest_id))
                    rows = _staged(staging, number, kinds, by_block=by_block)
                    told.append((staging.counts(), staging.duplicates()))
                    slots = sorted({row.slot for row in rows if row.slot is not None})
                    project.ledger.commit_plan(
                        run_id=project.start_run(),
                        manifest_id=project.manifest_id,
                        staging=staging,
                        shards=[shard_file(slot) for slot in slots],
                    )
                    told.append((staging.compare(), staging.changed(9)))
            found.append((told, [project.asked(query) for query in WHAT_A_PLAN_LEAVES]))
            project.ledger.close()
    assert found == [found[0]] * len(found)


WHAT_A_PLAN_LEAVES = (
    "SELECT fingerprint, name, status, attempts, open_shard_id, open_line FROM request ORDER BY fingerprint",
    "SELECT shard_id, line, number, fingerprint FROM attempt JOIN request ON id = request_id ORDER BY 1, 2",
    "SELECT position, key, fingerprint FROM row LEFT JOIN request ON id = request_id ORDER BY position",
    "SELECT * FROM row_cause ORDER BY position",
)


@FEW
@given(st.lists(st.sampled_from(ENDED), min_size=1, max_size=6))
def test_the_best_line_stays_in_whatever_order_they_come(statuses: list[Status]) -> None:
    best: tuple[Status, int] | None = None
    for place, status in enumerate(statuses):
        if is_better(status, None if best is None else best[0]):
            best = status, place
    assert best is not None
    with tempfile.TemporaryDirectory() as folder:
        project = Project.open(Path(folder))
        (shard,) = project.commit([to_send(0, "a", line=0)])
        for place, status in enumerate(statuses):
            outcome = Outcome(status=status, response_id=str(place))
            project.answer(shard, [(0, outcome)], file_id=f"file-{place}")
        (row,) = project.ledger.rows(project.manifest_id, 0, 1)
        assert (row.status, row.response_id) == (best[0], str(best[1]))
        project.ledger.close()


@FEW
@given(st.lists(st.dictionaries(KEYS, st.integers(0, 5), max_size=7), min_size=1, max_size=3))
def test_the_rows_are_always_those_of_the_last_plan(plans: list[dict[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Project.open(Path(folder))
        for plan in plans:
            rows = [waiting(at, key, request=number) for at, (key, number) in enumerate(plan.items())]
            project.commit(rows)
            found = project.ledger.rows(project.manifest_id, 0, 100)
            assert [(row.key, row.fingerprint) for row in found] == [
                (key, fingerprint(number)) for key, number in plan.items()
            ]
        wanted = {number for plan in plans for number in plan.values()}
        assert project.asked("SELECT count(*) FROM request") == [(len(wanted),)]
        project.ledger.close()


@given(
    st.one_of(st.text(max_size=50), st.uuids().map(lambda value: f"batch_req_{value}"), st.uuids().map(str))
)
def test_a_response_id_comes_back_as_it_was(text: str) -> None:
    assert unpack_response_id(*pack_response_id(text)) == storable(text)


@given(st.uuids())
def test_the_usual_response_id_takes_16_bytes(value: UUID) -> None:
    assert pack_response_id(f"batch_req_{value}") == (value.bytes, None)


@given(st.one_of(st.none(), st.text(min_size=1, max_size=10), st.sampled_from(["stop", "qwen"])))
def test_what_is_left_out_comes_back(text: str | None) -> None:
    assert unpack_finish_reason(pack_finish_reason(text)) == storable(text)
    assert unpack_model(pack_model(text, "qwen"), "qwen") == storable(text)


@given(st.text())
def test_any_text_can_be_stored_and_good_text_is_not_changed(text: str) -> None:
    stored = storable(text)
    assert stored is not None
    assert "\0" not in stored
    stored.encode()
    if "\0" not in text:
        try:
            text.encode()
        except UnicodeEncodeError:
            return
        assert stored == text


@given(st.floats(0, 4_000_000_000))
def test_a_time_comes_back_to_the_millisecond(seconds: float) -> None:
    back = seconds_or_none(iso(seconds))
    assert back is not None
    assert abs(back - seconds) <= 0.000_6
    assert iso(back) == iso(seconds)
