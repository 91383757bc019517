"""A run that takes answers out of its table says so before, and the table of before can be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.project_factory import ROWS, TEMPLATE, Project, make_project

EDITED = "Now {{ text }}"
NO_ROWS = "SELECT * FROM dataset WHERE id = 'none'"


def planned_warnings(project: Project, *options: str) -> list[str]:
    done = project.call("plan", str(project.manifest_path), "--json", *options)
    warnings: list[str] = json.loads(done.stdout)["warnings"]
    assert [f"warning: {one}" for one in warnings] == done.stderr.splitlines()
    return warnings


def run_warnings(project: Project, *options: str) -> list[str]:
    """Those of a run, all told before it sends or writes anything."""
    events = project.run(*options).events
    told = [event["event"] for event in events]
    last = max((at for at, event in enumerate(told) if event == "warning"), default=0)
    assert not {"uploaded", "publishing", "finished"} & set(told[:last])
    return [event["what"] for event in events if event["event"] == "warning"]


def earlier_rows(project: Project, advice: str) -> list[dict[str, Any]]:
    """What the command prints that a warning advises."""
    command = advice[advice.index("`run results") :].split("`")[1].split()
    done = project.call(*command[1:], "--format", "jsonl")
    assert done.code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def emptied(project: Project, how: str) -> None:
    """The dataset without rows: a file with a header alone, or a query that finds none."""
    if how == "file":
        (project.folder / "rows.csv").write_text("id,text\n")
    else:
        project.manifest["dataset"]["query"] = NO_ROWS
        project.write_manifest()


@pytest.mark.parametrize("how", ["file", "query"])
@pytest.mark.parametrize("output", ["results.jsonl", "results.parquet"])
def test_a_full_table_that_an_empty_dataset_will_empty_is_told(tmp_path: Path, how: str, output: str) -> None:
    project = make_project(tmp_path / "p", output={"path": output})
    project.run()
    emptied(project, how)
    (told,) = planned_warnings(project)
    assert "the dataset has no rows, so the table will be empty; the one before has 5 rows" in told
    assert run_warnings(project) == [told]
    assert [row["_status"] for row in earlier_rows(project, told)] == ["succeeded"] * 5
    assert project.call("results", "manifest.yaml", "--format", "jsonl").stdout == ""


def test_an_empty_dataset_that_takes_no_answers_is_no_news(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    emptied(project, "file")
    assert (planned_warnings(project), run_warnings(project)) == ([], [])
    project.write_template(EDITED)
    assert (planned_warnings(project), run_warnings(project)) == ([], [])


def test_a_quiet_run_tells_it_too(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    emptied(project, "file")
    assert "the one before has 5 rows" in project.call("run", "manifest.yaml", "--quiet").stderr


@pytest.mark.parametrize(
    ("options", "rows"), [(("--limit", "1"), 4), (("--where", "id = 'k2'"), 4), (("--limit", "4"), 1)]
)
def test_rows_that_lose_their_answer_to_a_narrowed_run_are_counted(
    tmp_path: Path, options: tuple[str, ...], rows: int
) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    project.write_template(EDITED)
    (told,) = planned_warnings(project, *options)
    noun = "row" if rows == 1 else "rows"
    assert f"{rows} {noun} with an answer will be pending in the table" in told
    assert run_warnings(project, *options) == [told]
    assert [row["_status"] for row in project.results()].count("pending") == rows
    assert [row["_status"] for row in earlier_rows(project, told)] == ["succeeded"] * 5
    assert planned_warnings(project, *options) == []  # they are pending by now


def test_a_narrowed_run_that_takes_no_answers_warns_of_nothing(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    assert planned_warnings(project, "--limit", "1") == []
    project.run("--limit", "1")
    assert planned_warnings(project, "--limit", "2") == []
    project.run()
    assert planned_warnings(project, "--limit", "1") == []
    project.write_template(EDITED)
    assert planned_warnings(project) == []
    project.run()
    project.write_template(TEMPLATE)
    assert planned_warnings(project, "--limit", "1") == []  # the earlier answers are found again


def test_a_row_that_shares_the_request_of_one_that_is_sent_is_not_left_out(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=[*ROWS[:4], {"id": "k4", "text": "question 0"}])
    project.run()
    project.write_template(EDITED)
    (told,) = planned_warnings(project, "--limit", "1")
    assert "3 rows with an answer" in told


def test_the_table_of_an_earlier_run_is_printed_by_its_id(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    first = project.run().event("finished")["run"]
    project.write_template(EDITED)
    project.run()

    def answers(*options: str) -> str:
        sql = "SELECT count(*) AS n FROM results WHERE _answer LIKE '%Now%'"
        done = project.call("results", "manifest.yaml", "--format", "csv", "--sql", sql, *options)
        return done.stdout.split()[-1] if done.code == 0 else done.stderr

    assert [answers(), answers("--run", first), answers("--run", "previous")] == ["5", "0", "0"]
    assert "it has no run 'zzz'" in answers("--run", "zzz")
    for table in (project.folder / ".runner" / "history").iterdir():
        table.unlink()
    assert f"the table of run {first[:8]} is no longer kept" in answers("--run", first[:8])


def test_a_table_that_another_manifest_has_written_since_is_told(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    other = project.folder / "other.yaml"
    other.write_text(project.manifest_path.read_text().replace("name: test", "name: other"))

    def note(*options: str, path: str = "manifest.yaml") -> str:
        done = project.call("results", path, "--limit", "1", *options)
        assert (done.code, "k0" in done.stdout) == (0, True)
        return done.stderr

    project.run()
    assert note() == ""
    (project.folder / "results.jsonl").unlink()  # as a run that would replace it says
    second = json.loads(project.call("run", "other.yaml", "--json").stdout.splitlines()[-1])["run"]
    assert f"note: this table was last written by other.yaml (run {second[:8]}, 2" in note()
    assert "`run results manifest.yaml --run latest` prints that of this manifest" in note()
    assert (note(path="other.yaml"), note("--run", "latest")) == ("", "")
    (project.folder / ".runner" / "ledger.db").write_bytes(b"no database")
    assert note() == ""
    project.call("rebuild", "manifest.yaml", "other.yaml")
    assert project.run().code == 0
    assert note() == ""
