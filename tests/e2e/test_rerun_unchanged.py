"""Where nothing moved, nothing is rendered; where anything moved, everything is looked at again."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_rerun_policies import age_answers
from tests.project_factory import ROWS, Done, Project, make_project


def settled(folder: Path, **sections: Any) -> Project:
    """A project that has run, with input files older than the clock's tick."""
    project = make_project(folder, **sections)
    set_back(project)
    done = project.run()
    assert done.code == 0, done.stderr
    return project


def set_back(project: Project, *, by_s: float = 3600) -> None:
    long_ago = time.time() - by_s
    for name in ("rows.csv", "prompt.j2", "manifest.yaml"):
        os.utime(project.folder / name, (long_ago, long_ago))


def has_rendered(done: Done) -> bool:
    assert done.code == 0, done.stderr
    assert done.event("finished")["succeeded"] == done.event("finished")["rows"]
    return any(event["event"] == "rows_rendered" for event in done.events)


def test_a_second_run_does_not_even_render(tmp_path: Path) -> None:
    project = settled(tmp_path / "p")
    before = (project.folder / "results.jsonl").read_bytes()
    calls = len(project.witness.http())
    for _ in range(2):
        done = project.run()
        assert not has_rendered(done)
        finished = done.event("finished")
        assert (finished["requests_sent"], finished["rows"]) == (0, 5)
        assert finished["results"] == [str(project.folder / "results.jsonl")]
    assert (project.folder / "results.jsonl").read_bytes() == before
    assert len(project.witness.http()) == calls
    assert len(project.ledger("SELECT id FROM run WHERE state = 'finished'")) == 3


def touch_rows(project: Project) -> None:
    os.utime(project.folder / "rows.csv", (1_000_000_000, 1_000_000_000))


def replace_rows(project: Project) -> None:
    """The same bytes, size and time, another file."""
    path = project.folder / "rows.csv"
    found = path.stat()
    copy = project.folder / "copy"
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(found.st_mtime_ns, found.st_mtime_ns))
    copy.replace(path)


def delete_table(project: Project) -> None:
    (project.folder / "results.jsonl").unlink()


def edit_table(project: Project) -> None:
    path = project.folder / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-1])


def edit_manifest(project: Project) -> None:
    project.manifest["output"]["csv_safe"] = True
    project.write_manifest()


def edit_history(project: Project) -> None:
    """Another version of the program wrote the tables."""
    with closing(sqlite3.connect(project.folder / ".runner" / "ledger.db", timeout=30)) as ledger, ledger:
        ledger.execute("UPDATE run SET version = 'of another year'")


def edit_in_place(project: Project) -> None:
    """Other bytes of the same number in the same file, its time set back."""
    path = project.folder / "rows.csv"
    found = path.stat()
    data = path.read_bytes().replace(b"question 4", b"question 9")
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("move", [touch_rows, replace_rows])
def test_a_file_that_was_touched_and_holds_the_same_is_not_rendered(
    tmp_path: Path, move: Callable[[Project], None]
) -> None:
    project = settled(tmp_path / "p")
    for _ in range(2):
        move(project)
        assert not has_rendered(project.run())


def test_an_edit_in_place_that_looks_untouched_is_rendered(tmp_path: Path) -> None:
    project = settled(tmp_path / "p")
    edit_in_place(project)
    plan = json.loads(project.call("plan", "--json", str(project.manifest_path)).stdout)
    done = project.run()
    assert has_rendered(done)
    assert done.event("finished")["requests_sent"] == plan["requests_to_send"] == 1


@pytest.mark.parametrize("move", [delete_table, edit_table, edit_manifest, edit_history])
def test_it_is_looked_at_again_where_anything_moved(tmp_path: Path, move: Callable[[Project], None]) -> None:
    project = settled(tmp_path / "p")
    before = (project.folder / "results.jsonl").read_bytes()
    move(project)
    done = project.run()
    assert has_rendered(done)
    assert done.event("finished")["requests_sent"] == 0
    assert (project.folder / "results.jsonl").read_bytes() == before
    set_back(project)


def test_a_template_saved_again_with_the_same_prompts_leaves_the_table_alone(tmp_path: Path) -> None:
    project = settled(tmp_path / "p")
    table = project.folder / "results.jsonl"
    before = table.stat()
    project.write_template((project.folder / "prompt.j2").read_text() + "{# saved again #}")
    done = project.run()
    assert has_rendered(done)
    finished = done.event("finished")
    assert (finished["requests_sent"], finished["rows"], finished["results"]) == (0, 5, [str(table)])
    assert (table.stat().st_ino, table.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    set_back(project)
    assert not has_rendered(project.run()), "what it was compared with now is the template as saved"


def test_another_cause_of_a_row_that_can_t_be_sent_comes_into_the_table(tmp_path: Path) -> None:
    rows = [{"id": "a", "n": "0", "text": "hi"}, {"id": "b", "n": "1", "text": "ho"}]
    project = make_project(tmp_path, rows=rows, template="{{ text if n else text.nope.nope }}")
    project.run()
    project.write_template("{{ text if n else 1 // n }}")
    assert project.run().event("finished")["requests_sent"] == 0
    assert "division" in project.results()[0]["_error_message"]
    before = (project.folder / "results.jsonl").stat()
    project.run()
    assert (project.folder / "results.jsonl").stat().st_ino == before.st_ino


def test_a_query_writes_its_table_again_though_no_prompt_is_another(tmp_path: Path) -> None:
    query = "SELECT *, epoch_ns(now()::TIMESTAMP) AS read_at FROM dataset"
    project = settled(tmp_path / "p", dataset={"path": "rows.csv", "key": "id", "query": query})
    before = {row["read_at"] for row in project.results()}
    done = project.run()
    assert has_rendered(done)
    assert done.event("finished")["requests_sent"] == 0
    assert before.isdisjoint({row["read_at"] for row in project.results()})


def test_an_edited_template_is_rendered_again_even_with_its_old_time(tmp_path: Path) -> None:
    project = settled(tmp_path / "p")
    project.write_template("{{ text }}#")
    set_back(project)
    done = project.run()
    assert has_rendered(done)
    assert done.event("finished")["requests_sent"] == 5


def test_an_edited_include_is_rendered_again(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", template="{% include 'tone.j2' %} {{ text }}")
    (project.folder / "tone.j2").write_text("Be brief.")
    set_back(project)
    project.run()
    assert not has_rendered(project.run())
    (project.folder / "tone.j2").write_text("Be long..")
    done = project.run()
    assert has_rendered(done)
    assert done.event("finished")["requests_sent"] == 5


def test_an_edited_schema_is_rendered_again(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", output={"path": "results.jsonl", "schema": "s.json"})
    (project.folder / "s.json").write_text('{"type": "object", "properties": {"a": {"type": "string"}}}')
    set_back(project)
    project.run()
    assert not has_rendered(project.run())
    (project.folder / "s.json").write_text('{"type": "object", "properties": {"b": {"type": "string"}}}')
    done = project.run()
    assert has_rendered(done)
    assert done.event("finished")["requests_sent"] == 5


@pytest.mark.parametrize(
    "options", [("--limit", "9"), ("--set", "params.x=1"), ("--only", "new"), ("--refresh",)]
)
def test_an_option_that_bends_the_run_is_looked_at(tmp_path: Path, options: tuple[str, ...]) -> None:
    project = settled(tmp_path / "p")
    assert has_rendered(project.run(*options))


def test_a_file_that_changed_no_earlier_than_the_run_is_read(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    set_back(project, by_s=-3600)
    project.run()
    assert not has_rendered(project.run())
    edit_in_place(project)
    assert has_rendered(project.run())


def test_a_run_that_left_something_to_do_is_followed_by_a_whole_one(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    set_back(project)
    assert project.run("--limit", "2").code == 0
    done = project.run()
    assert has_rendered(done)
    assert done.event("finished")["requests_sent"] == 3
    assert not has_rendered(project.run())


def test_a_query_is_always_asked_again_because_it_may_read_the_clock(tmp_path: Path) -> None:
    query = {"path": "rows.csv", "key": "id", "query": "SELECT * FROM dataset WHERE id <> 'k9'"}
    assert has_rendered(settled(tmp_path / "p", dataset=query).run())


def test_answers_that_grow_too_old_are_seen_and_younger_ones_are_not_rendered(tmp_path: Path) -> None:
    project = settled(tmp_path / "p", refresh={"older_than": "30d"})
    assert not has_rendered(project.run())
    age_answers(project, 31, where="line = 0")
    done = project.run()
    assert has_rendered(done)
    assert done.event("finished")["requests_sent"] == 1
    assert not has_rendered(project.run())


def test_going_back_after_an_edit_brings_the_first_table_back(tmp_path: Path) -> None:
    project = settled(tmp_path / "p")
    before = (project.folder / "results.jsonl").read_bytes()
    project.write_rows([*ROWS[:4], {"id": "k4", "text": "another"}])
    assert project.run().event("finished")["requests_sent"] == 1
    project.write_rows(ROWS)
    set_back(project)
    done = project.run()
    assert has_rendered(done)
    assert done.event("finished")["requests_sent"] == 0
    assert (project.folder / "results.jsonl").read_bytes() == before
    assert not has_rendered(project.run())
