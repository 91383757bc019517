"""Wishes to stop, told apart by the order of the ledger: before a run was asked for, or after."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.contract.ledger_factories import START_S, Clock, Project, to_send


@pytest.mark.parametrize("passed_s", [0.0, 60.0, -3600.0])
def test_a_wish_is_older_or_newer_whatever_the_clock_says(tmp_path: Path, passed_s: float) -> None:
    clock = Clock()
    project = Project.open(tmp_path, clock=clock)
    one, two = project.commit([to_send(0, "a", line=0, slot=0), to_send(1, "b", line=0, slot=1)])
    project.ledger.request_cancel(one.shard_id)
    wishes = project.ledger.wishes()
    asked = wishes.last_event()
    clock.now_s += passed_s
    assert wishes.cancelled_since(asked) == set()
    project.ledger.request_cancel(two.shard_id)
    assert wishes.cancelled_since(asked) == {two.shard_id}
    project.ledger.request_cancel(one.shard_id)
    assert wishes.cancelled_since(asked) == {one.shard_id, two.shard_id}, "a second wish is one too"


def test_when_a_run_was_asked_for_last_is_remembered(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    wishes = project.ledger.wishes()
    run_id, other = project.start_run(), project.start_run()
    assert wishes.asked_for(run_id) is None
    for after in (0, 7):
        wishes.note_asked_for(run_id, after)
    wishes.note_asked_for(other, 9)
    asked = wishes.asked_for(run_id)
    assert asked is not None
    assert asked.after == 7
    assert asked.at.timestamp() >= START_S


def test_the_last_event_until_a_moment(tmp_path: Path) -> None:
    clock = Clock()
    project = Project.open(tmp_path, clock=clock)
    wishes, run_id = project.ledger.wishes(), project.start_run()
    assert wishes.last_event() == wishes.last_event(datetime.fromtimestamp(START_S, UTC)) == 0
    wishes.note_asked_for(run_id, 0)
    first = wishes.last_event()
    clock.now_s += 10
    wishes.note_asked_for(run_id, 0)
    assert wishes.last_event() > first
    assert wishes.last_event(datetime.fromtimestamp(START_S + 5, UTC)) == first


def test_a_file_that_was_made_after_its_manifest_was_cancelled_is_unwished_too(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    wishes = project.ledger.wishes()
    (shard,) = project.commit([to_send(0, "a", line=0)])
    beside = project.beside("other")
    (other,) = beside.commit([to_send(0, "b", line=0, slot=1)])
    asked = wishes.last_event()
    for run_id in (*project.run_ids, *beside.run_ids):
        wishes.note_asked_for(run_id, asked)
    assert not wishes.is_unwished(shard.shard_id)
    wishes.cancel_manifest(project.manifest_id)
    wishes.note_asked_for(beside.run_ids[0], wishes.last_event())
    assert wishes.is_unwished(shard.shard_id), "whoever asks for another manifest meanwhile"
    assert not wishes.is_unwished(other.shard_id), "of another manifest"
    assert wishes.is_cancelled(project.manifest_id, asked)
    assert not wishes.is_cancelled(project.manifest_id, wishes.last_event())
    wishes.note_asked_for(project.run_ids[0], wishes.last_event())
    assert not wishes.is_unwished(shard.shard_id), "somebody has asked for it since"
    project.ledger.request_cancel(shard.shard_id)
    assert wishes.is_unwished(shard.shard_id)
