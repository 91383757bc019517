"""What was no success: told the same way twice, and asked again by who says so; what was cancelled, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.changing_model import ChangingModel, changing_model
from tests.e2e.test_rerun_policies import BAD, by_key, sent
from tests.e2e.test_rerun_unchanged import set_back
from tests.localserver_process import eventually
from tests.project_factory import ROWS, Done, Project, finish, make_project

CONFLICT = 409
"""May pass, to this program; the local server doesn't ask again by itself."""
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture
def model() -> Iterator[ChangingModel]:
    with changing_model() as model:
        yield model


def project_with(model: ChangingModel, folder: Path, **sections: Any) -> Project:
    provider = {"name": "local", "upstream": model.address}
    return make_project(folder, model={"provider": provider, "name": "m"}, **sections)


def with_schema(model: ChangingModel, folder: Path) -> Project:
    project = project_with(model, folder, output={"path": "results.jsonl", "schema": "s.json"})
    (folder / "s.json").write_text(json.dumps(SCHEMA))
    return project


def retry(project: Project, *options: str) -> Done:
    return project.call("retry", str(project.manifest_path), "--json", *options)


def counts(done: Done) -> dict[str, Any]:
    """What a run said in the end, without what belongs to this run alone."""
    own = ("run", "duration_s", "requests_sent", "batches", "exit_code")
    told = {name: value for name, value in done.event("finished").items() if name not in own}
    return {**told, "exit_code": done.code}


# ---------------------------------------------------------------- a repeated run


def test_a_run_that_repeats_a_table_repeats_its_counts_and_exit_code(
    tmp_path: Path, model: ChangingModel
) -> None:
    model.word = "no JSON"
    project = with_schema(model, tmp_path / "p")
    project.write_rows([*ROWS[:2], {"id": "twin", "text": ROWS[0]["text"]}])
    set_back(project)
    first = project.run()
    assert (first.code, first.event("finished")["invalid"]) == (3, 3)
    again = project.run()
    assert not [event for event in again.events if event["event"] == "rows_rendered"]
    assert counts(again) == counts(first)
    status = json.loads(project.call("status", "--json", str(project.manifest_path)).stdout)
    assert status["manifests"][0]["by_status"] == {"invalid": 3}
    history = json.loads(project.call("history", "--json", str(project.manifest_path)).stdout)
    assert [(run["succeeded"], run["failed"], run["exit_code"]) for run in history["runs"]] == [(0, 3, 3)] * 2


def test_a_table_is_written_again_after_another_manifest_has_new_answers_for_it(
    tmp_path: Path, model: ChangingModel
) -> None:
    model.word, model.statuses = "first", [400]
    project = project_with(model, tmp_path / "p")
    other = project.folder / "other.yaml"
    other.write_text(project.manifest_path.read_text().replace("results.jsonl", "other.jsonl"))
    set_back(project)
    assert project.run().code == 3
    assert project.call("run", str(other), "--json").code == 3
    assert project.call("retry", str(other), "--json").code == 0
    assert project.run().code == 0
    assert {row["_answer"] for row in project.results()} == {"first"}
    model.word = "second"
    assert project.call("run", str(other), "--refresh").code == 0
    assert project.run().code == 0
    assert {row["_answer"] for row in project.results()} == {"second"}


# ---------------------------------------------------------------- whatever the cause


def test_retry_asks_invalid_rows_again_and_no_others(tmp_path: Path, model: ChangingModel) -> None:
    model.word = json.dumps({"n": 1})
    project = with_schema(model, tmp_path / "p")
    assert project.run("--limit", "3").code == 0
    model.word = "no JSON"
    assert project.run().code == 3
    plan = json.loads(project.call("plan", str(project.manifest_path), "--json", "--only", "failed").stdout)
    assert plan["requests_to_send"] == 2
    assert sent(project.run()) == 0
    model.word = json.dumps({"n": 2})
    done = retry(project)
    assert (done.code, sent(done)) == (0, 2)
    assert [row["n"] for row in project.results()] == [1, 1, 1, 2, 2]
    assert sent(retry(project)) == 0


def test_retry_asks_truncated_and_refused_rows_again_and_keeps_their_answers_until_then(
    tmp_path: Path, model: ChangingModel
) -> None:
    model.word, model.finish_reason = "cut", "length"
    project = project_with(model, tmp_path / "p", rows=ROWS[:1])
    assert project.run().code == 3
    model.finish_reason = "content_filter"
    assert sent(retry(project)) == 1
    assert by_key(project)["k0"]["_status"] == "refused"
    model.status = 400
    done = retry(project)
    assert (done.code, sent(done)) == (3, 1)
    assert by_key(project)["k0"]["_status"] == "refused", "the old answer stays"
    model.status, model.word, model.finish_reason = 200, "whole", "stop"
    assert sent(project.run("--only", "failed")) == 1
    assert by_key(project)["k0"]["_answer"] == "whole"


def test_refresh_asks_what_failed_for_good_as_well(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=[*ROWS[:2], BAD])
    assert sent(project.run()) == 3
    assert sent(project.run()) == 0
    assert sent(project.run("--refresh")) == 3


# ---------------------------------------------------------------- a refresh that fails


def test_a_refresh_that_may_pass_is_tried_again_at_once_and_the_rest_is_told(
    tmp_path: Path, model: ChangingModel
) -> None:
    model.word = "first"
    project = project_with(model, tmp_path / "p", rows=ROWS[:1], retry={"attempts": 2})
    project.run()
    model.word, model.statuses = "second", [CONFLICT]
    done = project.run("--refresh")
    assert (sent(done), done.event("finished")["refresh_failed"]) == (2, 0)
    assert by_key(project)["k0"]["_answer"] == "second"
    model.word, model.status = "third", CONFLICT
    done = project.run("--refresh")
    assert (done.code, sent(done), done.event("finished")["refresh_failed"]) == (0, 2, 1)
    assert sent(project.run()) == 0, "its attempts are used up"
    shown = project.call("run", str(project.manifest_path)).stderr
    assert "1 refreshed answer failed, the old ones stay" in shown
    assert "next      run retry " in shown
    model.status = 200
    plan = json.loads(project.call("plan", "--json", "--only", "failed", str(project.manifest_path)).stdout)
    assert plan["requests_to_send"] == 1
    done = retry(project)
    assert (sent(done), done.event("finished")["refresh_failed"]) == (1, 0)
    assert by_key(project)["k0"]["_answer"] == "third"


# ---------------------------------------------------------------- what was cancelled


def cancel(project: Project) -> None:
    done = project.call("cancel", str(project.manifest_path), "--yes")
    assert done.code == 0, done.stderr


def test_what_a_person_cancelled_is_asked_by_the_next_run_and_not_by_the_one_that_saw_it(
    tmp_path: Path, model: ChangingModel
) -> None:
    model.word, model.is_slow = "late", True
    project = project_with(model, tmp_path / "p", rows=ROWS[:2], retry={"attempts": 1})
    assert project.run("--detach").code == 75
    cancel(project)
    process = project.start()
    two = "SELECT count(*) FROM batch"
    eventually(lambda: project.ledger(two) == [(2,)], what="the batch that asks again")
    cancel(project)
    seen = finish(process)
    assert (seen.code, seen.event("finished")["cancelled"]) == (3, 2)
    assert project.ledger(two) == [(2,)]
    model.is_slow = False
    done = project.run()
    assert (done.code, sent(done)) == (0, 2), done.stderr
    assert {row["_attempts"] for row in project.results()} == {3}


def test_what_on_edit_cancelled_is_asked_again_once_a_row_wants_it_again(
    tmp_path: Path, model: ChangingModel
) -> None:
    model.word, model.is_slow = "late", True
    project = project_with(model, tmp_path / "p", rows=ROWS[:1], on_edit="cancel", retry={"attempts": 1})
    assert project.run("--detach").code == 75
    project.write_rows([{"id": "k0", "text": "edited"}])
    assert project.run("--detach").code == 75
    project.write_rows(ROWS[:1])
    model.is_slow = False
    done = project.run()
    assert (done.code, sent(done)) == (0, 1), done.stderr
    assert by_key(project)["k0"]["_status"] == "succeeded"
    assert sent(project.run()) == 0
