"""Cut answers where a run is about some rows only, or can't afford a larger limit: no run forgets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fault.run_factories import EXIT_FAILED_ROWS, executed
from tests.project_factory import Done, Project, make_project

LADDER = {"max_tokens_factor": 4, "ceiling": 100}
ROWS = [{"id": name, "text": f"row-{name}-end of a text with some words"} for name in "abc"]


def cut_project(folder: Path, **sections: Any) -> Project:
    """Answers of more than five tokens; the next limit, 20, is enough."""
    project = make_project(folder, rows=ROWS, on_truncated=LADDER, **sections)
    project.manifest["model"]["parameters"] = {"max_tokens": 5}
    project.write_manifest()
    return project


def write_limits(project: Project, **ladder: Any) -> None:
    project.manifest.pop("on_truncated", None)
    project.manifest |= ladder
    project.write_manifest()


def cut(project: Project) -> set[str]:
    """The rows whose answer is cut."""
    return {row["_key"] for row in project.results() if row["_status"] == "truncated"}


def raised(done: Done) -> list[int]:
    return [event["requests"] for event in done.events if event["event"] == "raising"]


@pytest.mark.parametrize("only", ["new", "changed", "failed"])
def test_rows_that_were_asked_for_are_asked_with_a_larger_limit_too(tmp_path: Path, only: str) -> None:
    project = cut_project(tmp_path)
    if only == "changed":
        project.write_template("{{ id }}")
        project.run()
        project.write_template("{{ text }}")
    if only == "failed":
        write_limits(project)
        assert project.run().code == EXIT_FAILED_ROWS
        write_limits(project, on_truncated=LADDER)
    done = project.run("--only", only)
    assert (done.code, cut(project)) == (0, set()), done.stderr
    assert set(executed(project).values()) == {1}


def test_a_narrowed_run_asks_no_other_row_with_a_larger_limit(tmp_path: Path) -> None:
    project = cut_project(tmp_path)
    write_limits(project)
    project.run("--limit", "2")
    write_limits(project, on_truncated=LADDER)
    done = project.run("--where", "id = 'c'")
    assert raised(done) == [1]
    assert cut(project) == {"a", "b"}
    done = project.run("--limit", "1")
    assert (done.event("planned")["raised"], cut(project)) == (1, {"b"})
    assert project.run().code == 0
    assert set(executed(project).values()) == {1}


def test_a_row_that_the_same_narrowing_takes_no_more_is_not_asked_with_a_larger_limit(tmp_path: Path) -> None:
    project = cut_project(tmp_path)
    write_limits(project)
    project.run("--limit", "1")
    write_limits(project, on_truncated=LADDER)
    project.write_rows([{"id": "z", "text": "row-z-end of a text with some words"}, *ROWS])
    done = project.run("--limit", "1")
    assert (raised(done), cut(project)) == ([1], {"a"})


def test_what_a_narrowed_run_left_cut_the_next_run_asks(tmp_path: Path) -> None:
    project = cut_project(tmp_path)
    write_limits(project)
    project.run()
    write_limits(project, on_truncated=LADDER)
    project.run("--where", "id = 'a'")
    assert cut(project) == {"b", "c"}
    assert (project.run().code, cut(project)) == (0, set())
    again = project.run()
    assert (again.code, again.event("finished")["requests_sent"]) == (0, 0)


def test_what_a_budget_left_cut_the_next_run_asks(tmp_path: Path) -> None:
    prices = {"input_per_million": 1e6, "output_per_million": 1e6}
    project = cut_project(tmp_path)
    project.manifest["model"]["prices"] = prices
    project.write_manifest()
    alone = project.call("plan", "manifest.yaml", "--json")
    assert alone.code == 0
    once = json.loads(alone.stdout)["estimate"]["cost"]
    project.manifest["budget"] = {"max_cost": once + 60}  # larger limits alone, or all at first
    project.write_manifest()
    done = project.run()
    assert (done.code, cut(project)) == (EXIT_FAILED_ROWS, {"a", "b", "c"})
    assert any("budget.max_cost" in event.get("what", "") for event in done.events)
    later = project.run()
    assert (later.code, cut(project)) == (0, set()), later.stderr
    assert set(executed(project).values()) == {1}


def test_what_stays_cut_at_the_ceiling_is_not_looked_for_again(tmp_path: Path) -> None:
    project = cut_project(tmp_path)
    write_limits(project, on_truncated={"max_tokens_factor": 2, "ceiling": 6})
    assert project.run().code == EXIT_FAILED_ROWS
    again = project.run()
    assert cut(project) == {"a", "b", "c"}
    assert [event for event in again.events if event["event"] == "planned"] == []
