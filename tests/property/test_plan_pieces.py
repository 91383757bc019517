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
from tests.contract.ledger_factories import Project, failed, succeeded
from tests.project_factory import make_project

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
