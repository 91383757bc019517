"""Clocks that lie: nothing is sent twice, nothing ends early, and nobody waits for a day.

The clock is the one thing here that is not real: runs in this process, with a wall clock a day off.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.commands.clock import SteadyClock
from runner.commands.moments import Retrying
from runner.commands.tracks import Surroundings
from tests.fault.run_factories import all_well, arm, complete, named, project_of, rows_of, watch
from tests.fault.run_hostile_server import Batch, HostileServer, Look, failure, good, lines
from tests.fault.test_run_hostile_output import Notes
from tests.project_factory import Project, finish

DAY_S = 86_400.0


def off_by(seconds: float) -> Callable[[], SteadyClock]:
    return partial(SteadyClock, wall=lambda: time.time() + seconds)


def run_here(project: Project) -> None:
    assert runner.run(project.manifest_path, environ=dict(os.environ)) is not None


@pytest.mark.parametrize("off_s", [-DAY_S, DAY_S])
def test_a_create_whose_reply_was_lost_is_found_by_a_clock_a_day_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    project = project_of(tmp_path / "p", 4, shards=2)
    arm(project, "lost-reply", route="POST /v1/batches", times=0)
    monkeypatch.setattr("runner.commands.run.SteadyClock", off_by(off_s))
    run_here(project)
    assert len(project.witness.creates()) == 2
    all_well(project, rows_of(4))


@pytest.mark.parametrize("then_s", [-DAY_S, DAY_S])
def test_a_clock_set_between_a_kill_and_the_next_run_buys_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then_s: float
) -> None:
    """The wall clock was right when the intent was stored, and is a day off when the next run begins."""
    project = project_of(tmp_path / "p", 4, shards=2)
    project.environ["RUNNER_FAILPOINT"] = "create.answered"
    process = project.start()
    assert watch(process, named("finished")) is None
    assert finish(process).code == -signal.SIGKILL
    assert len(project.witness.creates()) >= 1
    monkeypatch.setattr("runner.commands.run.SteadyClock", off_by(then_s))
    monkeypatch.setattr(
        "runner.commands.carrying_out.Surroundings", partial(Surroundings, wall=lambda: time.time() + then_s)
    )
    run_here(project)
    all_well(project, rows_of(4))
    assert len(project.witness.creates()) == 2


def test_a_clock_that_is_set_back_under_way_stops_no_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock goes a day back each time somebody looks; the run ends all the same."""
    project = project_of(tmp_path / "p", 4, token="[[local:slow 1]]")
    looks = iter(range(1_000_000))
    monkeypatch.setattr(
        "runner.commands.run.SteadyClock",
        partial(SteadyClock, wall=lambda: time.time() - DAY_S * next(looks)),
    )
    run_here(project)
    all_well(project, rows_of(4, "[[local:slow 1]]"))


def slow_down(request: dict[str, Any]) -> dict[str, Any]:
    """A failure that asks to wait."""
    body = {"error": {"message": "slow down"}, "retry_after_seconds": 3}
    response = {"status_code": 429, "request_id": "r", "body": body}
    return {**failure(request), "response": response, "error": None}


@pytest.mark.parametrize("set_by_s", [-DAY_S, DAY_S])
def test_a_pause_that_the_server_asks_for_is_as_long_after_a_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_by_s: float
) -> None:
    """Set while the run works: its steady clock shows what the wall clock showed before."""

    def script(batch: Batch, _: int) -> Look:
        return Look(output=lines(*map(slow_down, batch.requests)) if batch.number == 1 else good(batch))

    with HostileServer(script) as server:
        project = server.project(tmp_path / "p", 2)
        monkeypatch.setattr("runner.commands.run.SteadyClock", off_by(-set_by_s))
        notes = Notes()
        runner.run(project.manifest_path, wait_s=60.0, environ=dict(os.environ), reporter=notes)
        (told,) = [moment for moment in notes.moments if isinstance(moment, Retrying)]
        assert 0 < told.pause_s <= 3
        complete(project, rows_of(2))


def test_an_intent_that_slept_through_its_time_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours go by between the intent and the call: it ends as surely not sent, and another is made."""
    project = project_of(tmp_path / "p", 2)
    slept = [0.0]
    elapsed = time.monotonic
    monkeypatch.setattr(
        "runner.commands.run.SteadyClock", partial(SteadyClock, elapsed_s=lambda: elapsed() + slept[0])
    )

    def sleeping(name: str) -> None:
        if name == "create.intended" and not slept[0]:
            slept[0] = 8 * 3600.0

    monkeypatch.setattr("runner.commands.sending.failpoint", sleeping)
    run_here(project)
    assert slept[0] > 0
    assert len(project.witness.creates()) == 1
    assert len(project.witness.uploads()) == 2
    all_well(project, rows_of(2))
