"""SIGKILL of the runner and of what it started, then the same command again. Every moment: tests/kills/."""

from __future__ import annotations

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
from tests.project_factory import kill

ROWS = 6


@pytest.mark.parametrize("moment", ["planned", "batch_created"])
def test_a_kill_takes_the_local_server_along_and_the_next_run_goes_on(tmp_path: Path, moment: str) -> None:
    project = project_of(tmp_path / "p", ROWS, shards=3)
    process = project.start()
    assert watch(process, named(moment)) is not None
    kill(process)
    all_gone(project.folder)
    until_done(project)
    all_well(project, rows_of(ROWS))


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
