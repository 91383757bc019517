"""Looking back as a user does: `history`, `diff`, `explain` and `plan --diff`, over real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.project_factory import ROWS, TEMPLATE, Done, Project, make_project

POLITE = TEMPLATE.replace("Be brief.", "Be polite.\nBe brief.")


def asked(project: Project, *arguments: str, code: int = 0) -> Any:
    """The JSON object that a command prints."""
    done = said(project, *arguments, "--json", code=code)
    return json.loads(done.stdout)


def said(project: Project, *arguments: str, code: int = 0) -> Done:
    done = project.call(*arguments)
    assert done.code == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def edited(project: Project) -> None:
    """One row changed, one removed, one added."""
    project.write_rows([*ROWS[:3], {"id": "k3", "text": "another question"}, {"id": "new", "text": "x"}])


# ---------------------------------------------------------------- history


def test_history_tells_what_was_edited_before_each_run(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    project.run()
    edited(project)
    project.write_template(POLITE)
    project.run()
    project.run("--set", "model.parameters.temperature=1", "--set", "retry.attempts=2")
    project.run("--set", "model.parameters.temperature=1")
    runs = asked(project, "history", "manifest.yaml")["runs"]
    assert [run["changed"] for run in runs] == [
        ["manifest"],
        ["model"],
        ["dataset", "template"],
        [],
        None,
    ]
    assert [run["requests_sent"] for run in runs] == [0, 5, 5, 0, 5]
    assert {run["state"] for run in runs} == {"finished"}
    assert [(run["rows"], run["succeeded"], run["failed"]) for run in runs] == [(5, 5, 0)] * 5
    assert all(run["input_tokens"] > 0 and run["duration_s"] >= 0 for run in runs)


def test_history_without_a_manifest_is_that_of_the_project(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    other = project.folder / "other.yaml"
    other.write_text(project.manifest_path.read_text().replace("name: test", "name: other"))
    project.run()
    project.call("run", "other.yaml", "--set", "output.path=other.jsonl")
    assert [run["manifest"] for run in asked(project, "history")["runs"]] == ["other.yaml", "manifest.yaml"]
    assert len(asked(project, "history", "--limit", "1")["runs"]) == 1
    assert [run["name"] for run in asked(project, "history", "other.yaml")["runs"]] == ["other"]
    head, *lines = said(project, "history").stdout.splitlines()
    assert head.split()[:2] == ["run", "started"]
    assert ["first run" in line for line in lines] == [True, True]
    assert "other.yaml" in lines[0]


def test_where_nothing_was_run_history_says_so(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    done = said(project, "history")
    assert done.stdout == ""
    assert "nothing was run" in done.stderr
    assert asked(project, "history") == {"format_version": 1, "runs": []}


# ---------------------------------------------------------------- diff


def test_diff_shows_what_came_went_and_changed(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    edited(project)
    project.run()
    found = asked(project, "diff", "manifest.yaml")
    tables = found["tables"]
    assert found["changed"] == ["dataset"]
    assert [tables[name] for name in ("equal", "changed", "added", "removed")] == [3, 1, 1, 1]
    (change,) = tables["changes"]
    (value,) = change["values"]
    assert (change["key"], value["column"]) == ("k3", "_answer")
    assert "question 3" in value["before"]
    assert "another question" in value["after"]
    assert [one["key"] for one in tables["additions"]] == ["new"]
    assert [one["key"] for one in tables["removals"]] == ["k4"]
    text = said(project, "diff", "manifest.yaml", "previous", "latest").stdout
    assert "changed answers (1)" in text
    assert " | " in text


def test_diff_counts_the_values_of_the_schemas_fields(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": ["x", "y", "z"]}}}
    output = {"path": "results.jsonl", "schema": "schema.json"}
    rows = [{"id": f"k{n}", "text": f"question {n}"} for n in range(30)]
    project = make_project(tmp_path / "p", rows=rows, output=output)
    (project.folder / "schema.json").write_text(json.dumps(schema))
    project.run()
    project.write_template(POLITE)
    project.run()
    tables = asked(project, "diff", "manifest.yaml")["tables"]
    counts = {
        column: [one for one in tables["counts"] if one["column"] == column] for column in ("_status", "kind")
    }
    assert [(one["value"], one["before"], one["after"]) for one in counts["_status"]] == [
        ("succeeded", 30, 30)
    ]
    assert sum(one["before"] for one in counts["kind"]) == 30
    assert sum(one["after"] for one in counts["kind"]) == 30
    assert {one["value"] for one in counts["kind"]} <= {"x", "y", "z"}


def test_diff_names_runs_by_the_beginning_of_their_id(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    first = project.run().event("finished")["run"]
    project.run()
    assert asked(project, "diff", "manifest.yaml", first[:8], first)["tables"]["equal"] == 5
    assert asked(project, "diff", "manifest.yaml", first[:8], "latest")["before"] == first
    unknown = said(project, "diff", "manifest.yaml", "zzz", code=2)
    assert "no run 'zzz'" in unknown.stderr
    assert "run history" in unknown.stderr


def test_diff_needs_runs_that_left_tables(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    assert "never run" in said(project, "diff", "manifest.yaml", code=2).stderr
    project.run()
    assert "no previous run" in said(project, "diff", "manifest.yaml", code=2).stderr
    for table in (project.folder / ".runner" / "history").iterdir():
        table.unlink()
    assert "no longer kept" in said(project, "diff", "manifest.yaml", "latest", code=2).stderr


def test_history_keeps_bytes_of_its_own_and_names_the_run_whose_table_is_damaged(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", output={"path": "out.parquet"})
    first = project.run().event("finished")["run"]
    edited(project)
    second = project.run().event("finished")["run"]
    tables = {run: project.folder / ".runner" / "history" / f"{run}.parquet" for run in (first, second)}
    assert {table.stat().st_mode & 0o777 for table in tables.values()} == {0o600}
    before = tables[second].read_bytes()
    assert before == (project.folder / "out.parquet").read_bytes()
    (project.folder / "out.parquet").write_bytes(b"written in place by its owner")
    assert tables[second].read_bytes() == before
    assert asked(project, "diff", "manifest.yaml")["tables"]["added"] == 1
    whole = tables[first].read_bytes()
    damaged = whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :]
    for content in (damaged, whole[:-9], b""):
        tables[first].write_bytes(content)
        told = said(project, "diff", "manifest.yaml", code=2).stderr
        assert f"the table of run {first[:8]} can't be compared: the file is damaged" in told
        assert "scratch" not in told


# ---------------------------------------------------------------- explain


def test_explain_shows_what_was_asked_and_where_the_answer_is(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    run = project.run().event("finished")["run"]
    found = asked(project, "explain", "manifest.yaml", "k3")
    (batch,) = project.witness.creates()
    (upload,) = project.witness.uploads()
    (attempt,) = found["attempts"]
    assert (found["status"], found["position"], found["repeat"]) == ("succeeded", 3, 1)
    assert found["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "question 3"},
    ]
    assert (attempt["batch_id"], attempt["input_file_id"]) == (batch["batch_id"], upload["file_id"])
    assert (attempt["number"], attempt["status"], attempt["run"]) == (1, "succeeded", run)
    assert attempt["answered_at"].endswith("Z")
    result = project.results()[3]
    assert attempt["response_id"] == result["_response_id"]
    assert (found["custom_id"], found["fingerprint"]) == (result["_custom_id"], result["_fingerprint"])
    assert found["answer"] == result["_answer"]
    place = found["place"]
    raw = (project.folder / ".runner" / place["path"]).read_bytes()
    line = json.loads(raw[place["offset"] : place["offset"] + place["length"]])
    assert line["custom_id"] == found["custom_id"]


def test_explain_shows_the_old_prompt_after_an_edit_and_says_so(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    assert asked(project, "explain", "manifest.yaml", "k3")["edited_since"] == []
    project.write_template(POLITE)
    edited(project)
    found = asked(project, "explain", "manifest.yaml", "k3")
    assert found["edited_since"] == ["dataset", "template"]
    assert [message["content"] for message in found["prompt"]] == ["Be brief.", "question 3"]
    assert "below is what was asked" in said(project, "explain", "manifest.yaml", "k3").stdout
    project.manifest_path.write_text("nonsense: [")
    found = asked(project, "explain", "manifest.yaml", "k3")
    assert (found["edited_since"], found["prompt"][1]["content"]) == (["manifest"], "question 3")


def test_explain_shows_every_attempt_with_its_own_batch_and_cause(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"id": "bad", "text": "x [[local:fail 500]]"}]
    project = make_project(tmp_path / "p", rows=rows, retry={"attempts": 3})
    project.run()
    found = asked(project, "explain", "manifest.yaml", "bad")
    assert (found["status"], found["cause"]["error_class"]) == ("failed", "server_error")
    attempts = found["attempts"]
    assert [one["number"] for one in attempts] == [1, 2, 3]
    assert [one["batch_id"] for one in attempts] == [one["batch_id"] for one in project.witness.creates()]
    assert [one["cause"]["error_class"] for one in attempts] == ["server_error"] * 3
    text = said(project, "explain", "manifest.yaml", "bad").stdout
    assert all(f"attempt {number}: failed" in text for number in (1, 2, 3))


def test_explain_knows_repeats_and_rows_that_were_never_sent(tmp_path: Path) -> None:
    rows = [ROWS[0], {"id": "empty", "text": ""}]
    project = make_project(tmp_path / "p", rows=rows, template="{{ text or '' }}", repeats=2)
    project.run()
    second = asked(project, "explain", "manifest.yaml", "k0 #2")
    assert (second["position"], second["repeat"], second["repeats"]) == (0, 2, 2)
    assert second["prompt"][0]["content"] == "question 0"
    assert second["fingerprint"] != asked(project, "explain", "manifest.yaml", "k0")["fingerprint"]
    empty = asked(project, "explain", "manifest.yaml", "empty")
    assert (empty["status"], empty["cause"]["error_class"]) == ("unsendable", "empty_prompt")
    assert (empty["attempts"], empty["prompt"], empty["place"]) == ([], None, None)
    assert empty["prompt_problem"]


def test_explain_names_keys_that_look_like_an_unknown_one(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    for key, meant in (("K3", "'k3'"), ("kk3", "'k3'"), ("nothing like it", "`_key`")):
        done = said(project, "explain", "manifest.yaml", key, code=2)
        assert f"no row with key {key!r}" in done.stderr
        assert meant in done.stderr


# ---------------------------------------------------------------- plan --diff


def test_plan_shows_old_prompts_against_new(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    assert "examples" not in asked(project, "plan", "manifest.yaml")
    assert asked(project, "plan", "manifest.yaml", "--diff", "3")["examples"] == []
    project.write_template(POLITE)
    found = asked(project, "plan", "manifest.yaml", "--diff", "2")["examples"]
    assert [(one["key"], one["changed"], one["columns"]) for one in found] == [
        ("k0", ["template"], []),
        ("k1", ["template"], []),
    ]
    (message,) = found[0]["messages"]
    assert (message["role"], message["before"], message["after"]) == (
        "system",
        "Be brief.",
        "Be polite.\nBe brief.",
    )
    assert message["diff"][1:] == ["+Be polite.", " Be brief."]
    text = said(project, "plan", "manifest.yaml", "--diff", "1").stdout
    assert "row 1, key k0: template changed" in text
    assert "    +Be polite." in text.splitlines()


def test_plan_pairs_rows_by_key_wherever_they_stand(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", repeats=2)
    project.run()
    project.write_rows([{"id": "new", "text": "x"}, {"id": "k3", "text": "another question"}, *ROWS[:3]])
    (found,) = asked(project, "plan", "manifest.yaml", "--diff", "5")["examples"]
    assert (found["key"], found["position"], found["columns"]) == ("k3", 1, ["text"])
    assert found["changed"] == ["dataset"]
    assert [(one["before"], one["after"]) for one in found["messages"]] == [
        ("question 3", "another question")
    ]


def test_plan_says_where_only_the_model_changed_or_a_row_has_no_prompt(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", template="{{ text or '' }}")
    project.run()
    (found,) = asked(project, "plan", "manifest.yaml", "--diff", "1", "--set", "model.name=other")["examples"]
    assert (found["changed"], found["messages"], found["problem"]) == (["model"], [], None)
    project.write_rows([{"id": "k0", "text": ""}, *ROWS[1:]])
    (found,) = asked(project, "plan", "manifest.yaml", "--diff", "1")["examples"]
    assert "can't be sent now" in found["problem"]
    assert [(one["before"], one["after"]) for one in found["messages"]] == [("question 0", None)]
