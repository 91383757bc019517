"""The whole job as its user runs it: subprocess, real HTTP to the local server, real files."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

from tests.project_factory import ROWS, Project, make_project


def succeeded(project: Project) -> None:
    """Every row has its own answer: the local server repeats the prompt's first words."""
    results = project.results()
    assert [row["id"] for row in results] == [row["id"] for row in ROWS]
    for row in results:
        assert row["_status"] == "succeeded"
        assert row["text"] in row["_answer"]
        assert row["_key"] == row["id"]


def test_a_run_answers_every_row_once(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    done = project.run()
    assert done.code == 0, done.stderr
    succeeded(project)
    assert len(project.witness.executions()) == len(ROWS)
    finished = done.event("finished")
    assert (finished["rows"], finished["succeeded"], finished["requests_sent"]) == (5, 5, 5)
    assert finished["results"] == [str(project.folder / "results.jsonl")]


def test_a_second_run_sends_nothing_and_writes_the_same_bytes(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    before = (project.folder / "results.jsonl").read_bytes()
    (project.folder / "results.jsonl").unlink()
    done = project.run()
    assert (done.code, done.event("finished")["requests_sent"]) == (0, 0)
    assert (project.folder / "results.jsonl").read_bytes() == before
    assert len(project.witness.creates()) == 1


def test_one_changed_row_costs_one_request(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    project.write_rows([*ROWS[:4], {"id": "k4", "text": "another question"}])
    done = project.run()
    assert done.event("finished")["requests_sent"] == 1
    assert done.event("planned")["changed"] == 1
    assert "another question" in project.results()[4]["_answer"]
    project.write_rows(ROWS)
    assert project.run().event("finished")["requests_sent"] == 0
    succeeded(project)


def test_equal_requests_are_sent_once_and_fanned_out(tmp_path: Path) -> None:
    rows = [{"id": f"k{number}", "text": "the same"} for number in range(4)]
    project = make_project(tmp_path / "p", rows=rows)
    done = project.run()
    assert done.event("finished")["requests_sent"] == 1
    assert [row["_status"] for row in project.results()] == ["succeeded"] * 4
    assert len({row["_custom_id"] for row in project.results()}) == 1


def test_a_dataset_is_split_into_shards_and_joined_again(tmp_path: Path) -> None:
    rows = [{"id": f"k{number}", "text": f"question {number}"} for number in range(23)]
    project = make_project(tmp_path / "p", rows=rows, batch={"max_requests_per_file": 5})
    done = project.run()
    assert (done.code, done.event("finished")["batches"]) == (0, 5)
    uploads = project.witness.uploads()  # four at a time: in whatever order they arrive
    assert sorted(upload["requests"] for upload in uploads) == [3, 5, 5, 5, 5]
    for row in project.results():
        assert row["text"] in row["_answer"]


@pytest.mark.parametrize(
    ("token", "status", "error_class", "attempts"),
    [
        ("[[local:fail 400]]", "failed", "invalid_request", 1),
        ("[[local:refuse]]", "refused", "refusal", 1),
        ("[[local:truncate]]", "truncated", "length", 1),
        ("[[local:body-string]]", "failed", "unusable_body", 1),
    ],
)
def test_a_row_without_a_success_says_why_and_the_others_have_theirs(
    tmp_path: Path, token: str, status: str, error_class: str, attempts: int
) -> None:
    project = make_project(tmp_path / "p", rows=[*ROWS[:2], {"id": "bad", "text": f"x {token}"}])
    done = project.run()
    assert done.code == 3
    results = project.results()
    assert [row["_status"] for row in results] == ["succeeded", "succeeded", status]
    assert (results[2]["_error_class"], results[2]["_attempts"]) == (error_class, attempts)
    assert project.run().event("finished")["requests_sent"] == 0


def test_rows_that_cant_be_sent_have_a_cause_and_the_rest_goes(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"id": "empty", "text": ""}, {"id": "error", "text": "boom"}]
    template = "{% if text == 'boom' %}{{ 1 // 0 }}{% endif %}{{ text or '' }}"
    project = make_project(tmp_path / "p", rows=rows, template=template)
    done = project.run()
    assert done.code == 3
    results = project.results()
    assert [row["_status"] for row in results] == ["succeeded", "succeeded", "unsendable", "unsendable"]
    assert [row["_error_class"] for row in results[2:]] == ["empty_prompt", "template_error"]
    assert "ZeroDivisionError" in results[3]["_error_message"]


def test_a_tolerance_that_was_written_down_stops_the_run_before_a_cent_is_spent(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"id": "empty", "text": ""}]
    project = make_project(tmp_path / "p", rows=rows, template="{{ text or '' }}", allow_failures="10%")
    done = project.run()
    assert done.code == 3
    assert "more than allow_failures tolerates" in done.event("error")["what"]
    assert not project.state.exists() or not project.witness.uploads()


def test_a_schema_gives_typed_columns(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["kind", "count"],
        "properties": {"kind": {"enum": ["x", "y"]}, "count": {"type": "integer"}},
    }
    project = make_project(tmp_path / "p", output={"path": "results.jsonl", "schema": "schema.json"})
    (project.folder / "schema.json").write_text(json.dumps(schema))
    done = project.run()
    assert done.code == 0, done.stderr
    for row in project.results():
        assert row["kind"] in ("x", "y")
        assert isinstance(row["count"], int)


def test_every_id_is_in_the_ledger_for_people_with_sqlite3(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    (batch,) = project.witness.creates()
    (upload,) = project.witness.uploads()
    assert project.ledger("SELECT batch_id, input_file_id FROM batch") == [
        (batch["batch_id"], upload["file_id"])
    ]
    rows = project.ledger(
        "SELECT key, status, custom_id, batch_id, response_id FROM results ORDER BY position"
    )
    executed = {execution["custom_id"] for execution in project.witness.executions()}
    assert {row[2] for row in rows} == executed
    for key, status, custom_id, batch_id, response_id in rows:
        assert (status, batch_id) == ("succeeded", batch["batch_id"])
        assert re.fullmatch(rf"{key}-[0-9a-f]{{16}}", custom_id)
        assert re.fullmatch(r"batch_req_[0-9a-f-]{36}", response_id)


def test_the_ledger_is_found_from_the_manifest_and_private(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = project.call("run", str(project.manifest_path), cwd=elsewhere)
    assert done.code == 0, done.stderr
    ledger = project.folder / ".runner" / "ledger.db"
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600
    assert stat.S_IMODE(ledger.parent.stat().st_mode) == 0o700
    assert list(elsewhere.iterdir()) == []


def test_a_plan_leaves_nothing_behind_and_spends_nothing(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    before = sorted(path.name for path in project.folder.iterdir())
    done = project.call("plan", str(project.manifest_path), "--json", "--exit-code")
    assert done.code == 10, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["rows"], plan["new"], plan["requests_to_send"], plan["shards"]) == (5, 5, 5, 1)
    assert sorted(path.name for path in project.folder.iterdir()) == before
    project.run()
    again = project.call("plan", str(project.manifest_path), "--json", "--exit-code")
    assert (again.code, json.loads(again.stdout)["unchanged"]) == (0, 5)


def test_set_changes_a_parameter_of_the_prompt(tmp_path: Path) -> None:
    project = make_project(
        tmp_path / "p",
        template="{{ params.tone }}: {{ text }}",
        prompt={"template": "prompt.j2", "params": {"tone": "plain"}},
    )
    project.run()
    done = project.run("--set", "params.tone=formal")
    assert done.event("finished")["requests_sent"] == 5
    assert "formal: question 0" in project.results()[0]["_answer"]


def test_a_limited_run_leaves_the_other_rows_pending_and_a_full_one_completes_them(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    done = project.run("--limit", "2")
    assert (done.code, done.event("finished")["requests_sent"]) == (0, 2)
    assert [row["_status"] for row in project.results()] == ["succeeded"] * 2 + ["pending"] * 3
    assert project.run().event("finished")["requests_sent"] == 3
    succeeded(project)


def test_a_failure_that_may_pass_is_sent_again_alone_and_at_most_so_often(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"id": "bad", "text": "x [[local:fail 500]]"}]
    project = make_project(tmp_path / "p", rows=rows, retry={"attempts": 2})
    done = project.run()
    assert (done.code, done.event("finished")["requests_sent"]) == (3, 4)
    assert [upload["requests"] for upload in project.witness.uploads()] == [3, 1]
    bad = project.results()[2]
    assert (bad["_status"], bad["_attempts"], bad["_error_class"]) == ("failed", 2, "server_error")
    assert project.run().event("finished")["requests_sent"] == 0


def test_rows_that_share_a_request_share_its_price(tmp_path: Path) -> None:
    rows = [{"id": f"k{number}", "text": "the same"} for number in range(4)]
    prices = {"input_per_million": 1_000_000, "output_per_million": 0}
    model = {"provider": "local", "name": "m", "prices": prices}
    project = make_project(tmp_path / "p", rows=rows, model=model)
    finished = project.run().event("finished")
    (tokens,) = {row["_input_tokens"] for row in project.results()}
    assert (finished["input_tokens"], finished["cost"]) == (tokens, float(tokens))


def test_a_batch_whose_requests_failed_says_why_at_once(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "one"}, {"id": "b", "text": "[[local:fail 400]]"}]
    project = make_project(tmp_path / "p", rows=rows)
    done = project.run()
    assert done.code == 3
    told = done.event("trouble")
    assert told["slot"] == 0
    assert told["what"].startswith("1 of 2 requests failed, the first with invalid_request: ")


@pytest.mark.parametrize("most", [2, 3])
def test_a_detached_run_says_that_it_must_wait_for_a_turn(tmp_path: Path, most: int) -> None:
    batch = {"max_requests_per_file": 2, "max_open_batches": most}
    project = make_project(tmp_path / "p", batch=batch)  # five rows: three files
    done = project.run("--detach")
    assert done.code == 75, done.stderr
    assert len(project.witness.creates()) == 3
    told = [event["what"] for event in done.events if event["event"] == "trouble"]
    if most == 3:
        assert told == []
    else:
        (what,) = told
        assert what.startswith("3 batches are to be sent, 2 of them now: 2 may be open at a time")


def test_results_are_read_from_parquet_where_there_is_one(tmp_path: Path) -> None:
    """A CSV file holds texts, and defused ones: not the values of the dataset."""
    output = {"path": ["results.csv", "results.parquet"], "csv_safe": True}
    project = make_project(tmp_path / "p", rows=[{"id": "a", "text": "=1+1"}], output=output)
    assert project.run().code == 0
    shown = project.call("results", str(project.manifest_path), "--format", "jsonl")
    assert json.loads(shown.stdout)["text"] == "=1+1"
