"""What a shard waits for is as long for the next process as for this one, whatever was done to the clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from runner.commands.moments import Silent
from runner.commands.tracks import Surroundings, Track
from runner.core.states import by_another_clock, create_intended, discarded, upload_accepted, upload_intended
from tests.contract.ledger_factories import START_S, Project, to_send
from tests.unit.core_factories import make_provider

DAY_S = 86_400.0


def process_at(project: Project, *, steady_s: float, wall_s: float) -> Surroundings:
    """A process whose steady clock shows the one, and the machine's clock the other."""
    project.ledger._clock = lambda: wall_s
    return Surroundings(
        provider=make_provider(),
        place=project.ledger.place,
        ledger=project.ledger,
        client=cast(Any, None),
        reporter=Silent(),
        run_id=1,
        clock=lambda: steady_s,
        wall=lambda: wall_s,
    )


@pytest.mark.parametrize("set_by_s", [-DAY_S, -60.0, 0.0, 60.0, DAY_S])
def test_a_clock_that_is_set_while_a_run_works_changes_no_wait(tmp_path: Path, set_by_s: float) -> None:
    project = Project.open(tmp_path)
    (shard,) = project.commit([to_send(0, "a", line=0)])
    here = process_at(project, steady_s=START_S, wall_s=START_S + set_by_s)
    intended = create_intended(upload_accepted(upload_intended(shard), "file-1"), START_S, window_s=30.0)
    here.save(Track(submission=shard), intended, "create intended")
    assert here.load(shard.shard_id).send_by_s == pytest.approx(START_S + 30)
    later = process_at(project, steady_s=START_S + set_by_s + 10, wall_s=START_S + set_by_s + 10)
    send_by_s = later.load(shard.shard_id).send_by_s
    assert send_by_s is not None
    assert send_by_s - later.clock() == pytest.approx(20)


def test_clocks_that_run_together_leave_a_shard_as_it_is(tmp_path: Path) -> None:
    (shard,) = Project.open(tmp_path).commit([to_send(0, "a", line=0)])
    assert by_another_clock(shard, 0.5) is shard
    assert by_another_clock(shard, DAY_S).not_before_s == 0.0, "what waits for nothing waits for nothing"


@pytest.mark.parametrize("ahead_s", [0.0, DAY_S])
def test_a_pause_that_a_clock_planned_which_was_ahead_is_none(tmp_path: Path, ahead_s: float) -> None:
    project = Project.open(tmp_path)
    project.ledger._clock = lambda: START_S + ahead_s
    (shard,) = project.commit([to_send(0, "a", line=0)])
    waiting = replace(shard, not_before_s=START_S + ahead_s + 50)
    project.ledger.save(waiting, what="waits")
    project.ledger._clock = lambda: START_S
    project.ledger.release(discarded(waiting), what="discarded")
    assert project.ledger.pause(project.manifest_id) == (0.0 if ahead_s else START_S + 50)
