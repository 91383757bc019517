"""SIGKILL of the runner at any moment, then the same command again: nothing twice, nothing lost."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from tests.fault.run_factories import (
    all_gone,
    all_well,
    complete,
    end,
    executed,
    named,
    project_of,
    rows_of,
    until_done,
    watch,
)
from tests.project_factory import finish, kill

MOMENTS = ("started", "planned", "uploaded", "batch_created", "answers_stored", "batch_done")
ROWS = 6
KILLS = 6


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_kill_after_any_moment_costs_nothing_and_loses_nothing(
    tmp_path: Path, shards: int, moment: str
) -> None:
    project = project_of(tmp_path / "p", ROWS, shards=shards)
    process = project.start()
    assert watch(process, named(moment)) is not None
    kill(process)
    all_gone(project.folder)
    until_done(project)
    all_well(project, rows_of(ROWS))


@pytest.mark.parametrize("moment", ["uploaded", "batch_created", "answers_stored"])
def test_a_kill_between_shards_leaves_some_bought_and_some_not(tmp_path: Path, moment: str) -> None:
    project = project_of(tmp_path / "p", 10, shards=5)
    process = project.start()
    assert watch(process, named(moment, 3)) is not None
    kill(process)
    until_done(project)
    all_well(project, rows_of(10))


@pytest.mark.parametrize(("seed", "shards"), [(1, 1), (2, 5)])
def test_kills_at_random_moments_cost_nothing_and_lose_nothing(
    tmp_path: Path, seed: int, shards: int
) -> None:
    """Each run is killed a random while after it began to do something."""
    dice = random.Random(seed)
    rows = 10
    project = project_of(tmp_path / "p", rows, shards=shards, token="[[local:slow 0.5]]")
    for _ in range(KILLS):
        process = project.start()
        if watch(process, named("started")) is None:
            break
        try:
            process.wait(timeout=dice.uniform(0.0, 1.2))
        except subprocess.TimeoutExpired:
            kill(process)
            continue
        assert finish(process).code == 0
        break
    until_done(project)
    all_well(project, rows_of(rows, "[[local:slow 0.5]]"))


def test_a_kill_while_many_rows_are_rendered_leaves_no_worker_behind(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 12_000, shards=1)
    process = project.start()
    assert watch(process, named("rows_read")) is not None
    kill(process)
    all_gone(project.folder)
    assert not project.state.exists()


def test_a_kill_in_the_middle_of_a_retry_asks_only_the_failed_again(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4)
    rows = [*rows_of(3), {"id": "k3", "text": "row-3-end [[local:fail 503]]"}]
    project.write_rows(rows)
    process = project.start()
    if watch(process, named("retrying")) is not None:
        kill(process)
    else:
        end(process)
    project.run()
    counts = executed(project)
    assert {count for custom_id, count in counts.items() if not custom_id.startswith("k3-")} == {1}


def test_a_killed_run_and_a_lost_result_file_are_both_made_good(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS)
    until_done(project)
    (project.folder / "results.jsonl").unlink()
    process = project.start()
    assert watch(process, named("planned")) is not None
    kill(process)
    until_done(project)
    complete(project, rows_of(ROWS))
    all_well(project, rows_of(ROWS))
