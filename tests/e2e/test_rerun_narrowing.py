"""`--only`, `--where`, `--sample`, `--limit`: which rows a run asks, and what the others keep."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.test_rerun_policies import note_oldest
from tests.project_factory import ROWS, Project, make_project

TEN = tuple({"id": f"k{number}", "text": f"question {number}"} for number in range(10))


def asked_by(project: Project, *options: str) -> set[str]:
    """The keys that a run asked, by what the local server executed."""
    before = executed(project)
    done = project.run(*options)
    assert done.code in (0, 3), done.stderr
    asked = executed(project)[len(before) :]
    assert len(asked) == done.event("finished")["requests_sent"]
    return set(asked)


def executed(project: Project) -> list[str]:
    if not (project.state / "server.db").exists():
        return []
    return [one["custom_id"].rpartition("-")[0] for one in project.witness.executions()]


def statuses(project: Project) -> list[str]:
    return [row["_status"] for row in project.results()]


def test_only_new_asks_rows_whose_key_the_last_run_did_not_have(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    project.write_rows([{"id": "new", "text": "new"}, {"id": "k0", "text": "edited"}, *ROWS[1:]])
    assert asked_by(project, "--only", "new") == {"new"}
    assert statuses(project) == ["succeeded", "pending", *["succeeded"] * 4]
    assert asked_by(project) == {"k0"}


def test_only_changed_asks_rows_whose_request_is_another_one(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    project.write_rows([{"id": "new", "text": "new"}, {"id": "k0", "text": "edited"}, *ROWS[1:]])
    assert asked_by(project, "--only", "changed") == {"k0"}
    assert asked_by(project, "--only", "changed") == {"new"}


def test_rows_that_a_narrowed_run_left_out_are_still_changed(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    project.write_template("{{ text }}?")
    assert asked_by(project, "--limit", "2") == {"k0", "k1"}
    assert asked_by(project, "--only", "changed", "--limit", "1") == {"k2"}
    assert asked_by(project, "--only", "changed") == {"k3", "k4"}
    assert asked_by(project) == set()


def test_only_failed_asks_again_what_failed(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"id": "bad", "text": "x [[local:fail 400]]"}]
    project = make_project(tmp_path / "p", rows=rows)
    project.run()
    project.write_rows([*rows, {"id": "new", "text": "new"}])
    assert asked_by(project, "--only", "failed") == {"bad"}
    assert statuses(project) == ["succeeded", "succeeded", "failed", "pending"]
    plan = project.call("plan", str(project.manifest_path), "--json", "--only", "new")
    assert json.loads(plan.stdout)["failed_before"] == 1
    assert json.loads(plan.stdout)["requests_to_send"] == 1


def test_a_sample_is_the_same_for_the_same_seed_and_costs_once(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=TEN)
    first = asked_by(project, "--sample", "4")
    assert len(first) == 4
    assert asked_by(project, "--sample", "4", "--seed", "0") == set()
    second = asked_by(project, "--sample", "4", "--seed", "1")
    assert not second & first
    other = make_project(tmp_path / "other", rows=TEN)
    assert asked_by(other, "--sample", "4", "--seed", "1") >= second
    assert len(asked_by(other, "--sample", "100")) == 6


def test_where_asks_the_rows_for_which_it_holds_and_null_does_not(tmp_path: Path) -> None:
    rows = [{"id": f"k{number}", "text": f"question {number}", "n": number or ""} for number in range(5)]
    project = make_project(tmp_path / "p", rows=rows)
    assert asked_by(project, "--where", "n >= 3") == {"k3", "k4"}
    assert asked_by(project, "--where", "n < 3 -- all but the empty one") == {"k1", "k2"}
    assert asked_by(project, "--where", "_key = 'k0'") == {"k0"}


def test_all_conditions_hold_together(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=TEN)
    project.run("--where", "id IN ('k1', 'k3')")
    project.write_template("{{ text }}!")
    options = ("--only", "changed", "--where", "id >= 'k1'", "--sample", "8", "--limit", "2")
    assert len(asked_by(project, *options)) == 2


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("nope = 1", "nope"),
        ("id =", "syntax"),
        ("1); DROP TABLE dataset; --", "syntax"),
        ("", "the condition is empty"),
        ("id = (SELECT content FROM read_text('/etc/passwd'))", "disabled by configuration"),
    ],
)
def test_a_wrong_where_is_one_mistake_and_sends_nothing(tmp_path: Path, condition: str, said: str) -> None:
    project = make_project(tmp_path / "p")
    done = project.run("--where", condition)
    assert done.code == 2
    assert done.stderr.startswith("error: --where: ")
    assert said.lower() in done.stderr.lower(), done.stderr
    assert "nothing was sent" in done.stderr
    assert "root:" not in done.stderr
    assert not (project.state / "server.db").exists()


def test_refresh_with_a_limit_asks_those_rows_and_the_others_keep_their_answers(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    before = project.results()
    assert asked_by(project, "--refresh", "--limit", "2") == {"k0", "k1"}
    after = project.results()
    assert after[2:] == before[2:]
    assert [row["_attempts"] for row in after] == [2, 2, 1, 1, 1]


def test_a_row_left_out_gets_the_answer_that_an_equal_row_asks_for(tmp_path: Path) -> None:
    rows = [{"id": "left-out", "text": "the same"}, {"id": "taken", "text": "the same"}]
    project = make_project(tmp_path / "p", rows=rows)
    assert asked_by(project, "--where", "id = 'taken'") == {"taken"}
    assert statuses(project) == ["succeeded", "succeeded"]


def test_a_plan_is_narrowed_like_the_run(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=TEN)
    for options in (("--sample", "3"), ("--where", "id > 'k6'"), ("--limit", "3")):
        plan = json.loads(project.call("plan", str(project.manifest_path), "--json", *options).stdout)
        assert (plan["rows"], plan["requests_to_send"]) == (10, 3)


def test_a_seed_without_a_sample_is_a_mistake(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    done = project.run("--seed", "3")
    assert (done.code, done.stderr.split("\n")[0]) == (2, "error: --seed: does nothing without --sample")


def test_an_answer_without_a_moment_is_older_than_any_limit(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", refresh={"older_than": "30d"})
    project.run()
    with closing(sqlite3.connect(project.folder / ".runner" / "ledger.db", timeout=30)) as ledger, ledger:
        ledger.execute("UPDATE attempt SET answered_at = NULL WHERE line = 0")
        note_oldest(ledger, "0")
    assert asked_by(project) == {"k0"}
