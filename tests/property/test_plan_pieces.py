"""A piece on its way between processes, and a piece compared as a whole: what row by row gives."""

from __future__ import annotations

import math
import socket
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.commands.checking import render_source
from runner.commands.comparing import Comparison
from runner.commands.keeping import Keeper
from runner.commands.narrowing import selection_of
from runner.commands.options import ManifestOptions, Narrowing
from runner.commands.render_pool import RenderWork
from runner.commands.rendering import GrowingPiece, Piece
from runner.commands.sharding import CountingShards, SealedShard
from runner.commands.work import Kind, receive, send_piece, unpacked
from runner.commands.workplace import Workplace, open_workplace
from runner.core.identity import custom_id, key_part
from runner.core.model import Cause, Message, Outcome
from runner.core.planning import Plan, Policy
from runner.ledger import Ledger, StagedRow, Staging
from tests.contract.ledger_factories import Project, failed, shard_file, succeeded
from tests.project_factory import make_project
from tests.property.test_ledger_properties import WHAT_A_PLAN_LEAVES

texts = st.text(st.characters(exclude_categories=()), max_size=30)  # lone surrogates too
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=50)
causes = st.builds(Cause, error_class=st.sampled_from(["template_error", "é"]), message=keys)
odd_causes = st.builds(Cause, error_class=st.just("template_error"), message=texts)
contents = st.one_of(st.sampled_from(["a", "b", "c" * 300]), keys)
outcomes = st.one_of(contents, contents, contents, causes)


def _piece(start: int, rows: list[tuple[str, str | Cause]]) -> Piece:
    growing = GrowingPiece(start)
    for key, outcome in rows:
        if isinstance(outcome, Cause):
            growing.add_cause(key, outcome)
            continue
        body = SHAPE.body([Message(role="user", content=outcome)])
        fingerprint = SHAPE.fingerprint(body)
        name = key_part(key)
        growing.add(key, name, fingerprint, SHAPE.line(custom_id(name, fingerprint), body))
    return growing.whole()


def _workplace() -> Workplace:
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder))
        return open_workplace(ManifestOptions(path=str(project.manifest_path)), {})


WORKPLACE = _workplace()
SHAPE = WORKPLACE.shape()
WORK = RenderWork(render_source(WORKPLACE, "snapshot.parquet"))


@given(start=st.integers(0, 2**40), rows=st.lists(st.tuples(keys, outcomes | odd_causes), max_size=20))
def test_a_piece_is_the_same_at_the_other_end(start: int, rows: list[tuple[str, str | Cause]]) -> None:
    piece = _piece(start, rows)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=send_piece, args=(theirs, WORK, piece))
        sender.start()
        message = receive(ours)
        sender.join()
    assert message.kind is Kind.PIECE
    assert message.end == start + len(rows)
    found = unpacked(WORK, message)
    assert found == piece
    assert list(found.rows(SHAPE)) == list(piece.rows(SHAPE))


@given(rows=st.lists(st.tuples(keys, outcomes), min_size=1, max_size=20))
def test_a_row_of_a_piece_has_the_body_that_its_line_has(rows: list[tuple[str, str | Cause]]) -> None:
    for (key, outcome), row in zip(rows, _piece(7, rows).rows(SHAPE), strict=True):
        assert row.key == key
        if isinstance(outcome, Cause):
            assert (row.cause, row.fingerprint) == (outcome, None)
        else:
            assert row.name == key_part(key)
            assert row.body == SHAPE.body([Message(role="user", content=outcome)])
            assert row.fingerprint == SHAPE.fingerprint(row.body)


class _RowByRow(Comparison):
    """The comparison without its ways for whole pieces."""

    def _takes_whole(self, piece: Piece) -> bool:
        return False


@settings(max_examples=50)
@given(
    pieces=st.lists(st.lists(st.tuples(keys, outcomes), max_size=12), max_size=4),
    max_requests=st.integers(1, 9),
)
def test_a_piece_nobody_asked_before_is_staged_and_placed_as_its_rows_are(
    pieces: list[list[tuple[str, str | Cause]]], max_requests: int
) -> None:
    limits = replace(WORKPLACE.provider.limits, max_requests_per_file=max_requests, max_file_bytes=900)
    workplace = replace(WORKPLACE, provider=replace(WORKPLACE.provider, limits=limits))
    whole, by_row = _compared(Comparison, workplace, pieces), _compared(_RowByRow, workplace, pieces)
    assert whole == by_row
    assert len(whole.staged) == sum(map(len, pieces))


ENDS: list[Outcome | None] = [succeeded(), failed(), failed(retryable=False), None]
USUAL = Policy(max_attempts=3)
POLICIES = st.sampled_from(
    [
        USUAL,
        Policy(max_attempts=1),
        Policy(max_attempts=3, retry_failed=True),
        Policy(max_attempts=3, refresh_before_s=math.inf, refreshes_failures=True),
    ]
)


@settings(max_examples=15)
@given(
    known=st.lists(st.sampled_from(ENDS), max_size=6),
    picks=st.lists(st.lists(st.one_of(st.integers(0, 9), causes), max_size=9), max_size=3),
    policy=POLICIES,
)
def test_a_piece_of_known_rows_is_staged_and_placed_as_its_rows_are(
    known: list[Outcome | None], picks: list[list[int | Cause]], policy: Policy
) -> None:
    """The first of ten requests are in the ledger: answered, failed, or on their way."""
    asked = list(_piece(0, [(f"k{number}", f"text {number}") for number in range(len(known))]).rows(SHAPE))
    pieces = [
        [
            (f"{place}.{number}", pick if isinstance(pick, Cause) else f"text {pick}")
            for number, pick in enumerate(group)
        ]
        for place, group in enumerate(picks)
    ]
    with tempfile.TemporaryDirectory() as folder:
        project = Project.open(Path(folder))
        rows = [
            StagedRow(row.position, row.key, row.fingerprint, "unasked", 0, row.position, None, row.name)
            for row in asked
        ]
        for shard in project.commit(rows):
            sent = project.send(shard)
            project.answer(sent, [(line, end) for line, end in enumerate(known) if end is not None])
        whole = _compared(Comparison, WORKPLACE, pieces, project.ledger, policy)
        by_row = _compared(_RowByRow, WORKPLACE, pieces, project.ledger, policy)
        project.ledger.close()
    assert whole == by_row
    assert [row.position for row in whole.staged] == list(range(sum(map(len, pieces))))


BEFORE = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([*ENDS, succeeded()])), min_size=1, max_size=8)
EDITS = st.lists(st.sampled_from(["same"] * 5 + ["other", "gone", "new", "cause"]), min_size=9, max_size=9)


@settings(max_examples=40)
@given(
    before=BEFORE,
    edits=EDITS,
    piece_rows=st.integers(1, 9),
    policy=st.sampled_from([USUAL, Policy(max_attempts=1)]),
)
def test_rows_that_are_kept_are_planned_and_recorded_as_all_others_are(
    before: list[tuple[int, Outcome | None]], edits: list[str], piece_rows: int, policy: Policy
) -> None:
    """Contents are numbers, some of them shared. What the ledger holds afterwards is compared too."""
    now = _edited([content for content, _ in before], edits)
    pieces = [now[start : start + piece_rows] for start in range(0, len(now), piece_rows)]
    found = [_planned_again(before, pieces, policy, keeps=keeps) for keeps in (False, True)]
    assert found[0] == found[1]


def _edited(contents: list[int], edits: list[str]) -> list[tuple[str, str | Cause]]:
    """Key and outcome of each row now."""
    now: list[tuple[str, str | Cause]] = []
    for number, (content, edit) in enumerate(zip([*contents, 0], edits, strict=False)):
        if edit == "new" or number == len(contents):
            now.append((f"new{number}", f"text {content}"))
        if edit == "cause" and number < len(contents):
            now.append((f"k{number}", Cause(error_class="template_error", message="no")))
        elif edit != "gone" and number < len(contents):
            now.append((f"k{number}", f"text {content + 1 if edit == 'other' else content}"))
    return now if edits[-1] == "new" else now[:-1]


def _planned_again(
    before: list[tuple[int, Outcome | None]],
    pieces: list[list[tuple[str, str | Cause]]],
    policy: Policy,
    *,
    keeps: bool,
) -> tuple[object, ...]:
    with tempfile.TemporaryDirectory() as folder, Staging.create(Path(folder)) as staging:
        project = Project.open(Path(folder))
        _run_before(project, before)
        keeper = Keeper(project.ledger, project.manifest_id, staging) if keeps else None
        if keeper is None:
            staging.load_previous(project.ledger.previous_rows(project.manifest_id))
        comparison = Comparison(
            WORKPLACE,
            project.ledger,
            staging,
            CountingShards(WORKPLACE.provider.limits),
            policy=policy,
            selection=selection_of(Narrowing(), "no snapshot is read", 0),
            keeper=keeper,
        )
        start = 0
        for rows in pieces:
            comparison.add(_piece(start, rows))
            start += len(rows)
        shards = comparison.seal(start)
        compared = staging.compare()
        told = (
            comparison.plan(shards, compared, ()),
            comparison.causes,
            staging.counts(),
            staging.changed(9),
        )
        project.ledger.commit_plan(
            run_id=project.start_run(),
            manifest_id=project.manifest_id,
            staging=staging,
            shards=[shard_file(shard.slot, requests=shard.requests) for shard in shards],
        )
        left = [project.asked(query) for query in WHAT_A_PLAN_LEAVES]
        project.ledger.close()
        return *told, [shard.sha for shard in shards], compared, left


def _run_before(project: Project, before: list[tuple[int, Outcome | None]]) -> None:
    """A run of these rows: of equal requests the first is sent, and ends as it says (None: still open)."""
    rows: list[StagedRow] = []
    ends: list[Outcome | None] = []
    piece = _piece(0, [(f"k{number}", f"text {content}") for number, (content, _) in enumerate(before)])
    asked: set[bytes | None] = set()
    for row, (_, end) in zip(piece.rows(SHAPE), before, strict=True):
        is_first = row.fingerprint not in asked
        asked.add(row.fingerprint)
        slot, line = (0, len(ends)) if is_first else (None, None)
        rows.append(StagedRow(row.position, row.key, row.fingerprint, "unasked", slot, line, None))
        ends += [end] if is_first else []
    for shard in project.commit(rows):
        project.answer(project.send(shard), [(line, end) for line, end in enumerate(ends) if end is not None])


class _Found(NamedTuple):
    staged: list[StagedRow]
    shards: Sequence[SealedShard]
    plan: Plan
    causes: list[str]
    rows: int


def _compared(
    kind: type[Comparison],
    workplace: Workplace,
    pieces: list[list[tuple[str, str | Cause]]],
    ledger: Ledger | None = None,
    policy: Policy = USUAL,
) -> _Found:
    with tempfile.TemporaryDirectory() as folder, Staging.create(Path(folder)) as staging:
        comparison = kind(
            workplace,
            ledger,
            staging,
            CountingShards(workplace.provider.limits),
            policy=policy,
            selection=selection_of(Narrowing(), "no snapshot is read", 0),
        )
        start = 0
        for rows in pieces:
            comparison.add(_piece(start, rows))
            start += len(rows)
        shards = comparison.seal(start)
        plan = comparison.plan(shards, staging.compare(), ())
        return _Found(list(staging), shards, plan, comparison.causes, comparison.rows)
