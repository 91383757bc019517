"""What a plan says of edits: which rows are new or changed, why, since which run; and what a run would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.project_factory import ROWS, Project, make_project

TEMPLATE = "{{ params.tone }}: {{ text }}"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Five rows, asked once."""
    project = make_project(
        tmp_path / "p", template=TEMPLATE, prompt={"template": "prompt.j2", "params": {"tone": "plain"}}
    )
    assert project.run().code == 0
    return project


def plan_of(project: Project, *options: str) -> dict[str, Any]:
    done = project.call("plan", str(project.manifest_path), "--json", *options)
    assert done.code == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def reasons(project: Project) -> dict[str, int | None]:
    return {reason["what"]: reason["rows"] for reason in plan_of(project)["reasons"]}


def counts(project: Project) -> tuple[int, ...]:
    plan = plan_of(project)
    return tuple(plan[word] for word in ("unchanged", "new", "changed", "removed"))


def edit(project: Project, section: str, **values: object) -> None:
    project.manifest[section] = {**project.manifest[section], **values}
    project.write_manifest()


# ---------------------------------------------------------------- counts


def test_rows_that_a_narrowed_run_left_unasked_are_new(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run("--limit", "3")
    assert counts(project) == (3, 2, 0, 0)


def test_duplicates_are_counted_whether_or_not_they_are_answered(project: Project) -> None:
    project.write_rows([*ROWS, {"id": "twin", "text": ROWS[0]["text"]}])
    assert plan_of(project)["duplicates"] == 1
    project.run()
    assert plan_of(project)["duplicates"] == 1


# ---------------------------------------------------------------- reasons


def test_an_edited_cell_and_new_params_are_told_apart(project: Project) -> None:
    project.write_rows([{"id": "k0", "text": "edited"}, *ROWS[1:]])
    assert reasons(project) == {"dataset": 1}
    edit(project, "prompt", params={"tone": "formal"})
    assert counts(project) == (0, 0, 5, 0)
    assert reasons(project) == {"dataset": 1, "params": 4}


def test_params_that_no_prompt_holds_move_no_row(project: Project) -> None:
    edit(project, "prompt", params={"tone": "plain", "unused": 1})
    assert reasons(project) == {"params": 0}


def test_rows_that_came_and_went_are_the_datasets(project: Project) -> None:
    project.write_rows([{"id": "new", "text": "new"}, *ROWS[2:]])
    assert (counts(project), reasons(project)) == ((3, 1, 0, 2), {"dataset": 3})


def test_new_prices_are_no_new_model(project: Project) -> None:
    edit(project, "model", prices={"input_per_million": 1, "output_per_million": 2})
    assert reasons(project) == {}
    edit(project, "model", name="n")
    assert reasons(project) == {"model": 5}


def test_more_and_fewer_repeats_are_counted_as_rows(project: Project) -> None:
    project.manifest["repeats"] = 3
    project.write_manifest()
    project.write_rows([*ROWS, {"id": "new", "text": "new"}])
    assert reasons(project) == {"dataset": 3, "repeats": 10}
    project.write_rows(ROWS)
    assert project.run().code == 0
    project.manifest["repeats"] = 1
    project.write_manifest()
    assert reasons(project) == {"repeats": 10}


def test_another_key_and_another_query_are_reasons_of_their_own(project: Project) -> None:
    edit(project, "dataset", query="SELECT * FROM dataset WHERE id <> 'k4'")
    assert (counts(project), reasons(project)) == ((4, 0, 0, 1), {"query": 1})
    project.manifest["dataset"] = {"path": "rows.csv", "key": "text"}
    project.write_manifest()
    assert reasons(project) == {"key": 10}


def test_a_reason_says_since_which_run(project: Project) -> None:
    edit(project, "model", name="n")
    ((run,),) = project.ledger("SELECT uid FROM run")
    (reason,) = plan_of(project)["reasons"]
    assert reason["since"] == run
    shown = project.call("plan", str(project.manifest_path)).stdout
    assert f"model changed since run {run[:8]}" in shown


# ---------------------------------------------------------------- what a run would do


def code(project: Project) -> int:
    return project.call("plan", str(project.manifest_path), "--exit-code").code


def test_the_exit_code_says_work_where_only_the_table_would_change(project: Project) -> None:
    assert code(project) == 0
    project.write_rows(ROWS[:4])
    assert code(project) == 10, "a row was removed"
    shown = project.call("plan", str(project.manifest_path)).stdout
    assert "nothing; the table is written again" in shown
    assert f"next: run {project.manifest_path}" in shown
    project.run()
    assert code(project) == 0
    project.write_rows([*ROWS[:4], {"id": "twin", "text": ROWS[0]["text"]}])
    assert code(project) == 10, "a duplicate was added"
    project.run()
    project.write_rows(ROWS)
    assert code(project) == 10, "gone back to the first state"
    project.run()
    assert code(project) == 0
    (project.folder / "results.jsonl").unlink()
    assert code(project) == 10, "the table is gone"
