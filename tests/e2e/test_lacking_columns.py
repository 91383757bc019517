"""Files with different columns: what a prompt would lack is told before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path

from tests.project_factory import Project, make_project


def with_another_file(folder: Path, name: str, content: str) -> Project:
    """A project over `rows.*` of which another file calls the text `body`."""
    suffix = Path(name).suffix
    project = make_project(folder, dataset={"path": f"rows*{suffix}", "key": "id"})
    if suffix == ".jsonl":
        (folder / "rows.jsonl").write_text('{"id": "a", "text": "question"}\n')
    (folder / name).write_text(content)
    return project


def test_nothing_is_sent_where_a_file_lacks_what_the_template_reads(tmp_path: Path) -> None:
    project = with_another_file(tmp_path / "p", "rows2.csv", "id,body\nk9,question 9\n")
    done = project.run()
    (mistake,) = done.event("error")["mistakes"]
    assert (done.code, mistake["path"]) == (2, "dataset.path")
    assert "'text', and 1 of 2 files has none (it is NULL in their rows): rows2.csv" in mistake["what"]
    assert mistake["what"] in project.call("validate", "manifest.yaml").stderr
    assert mistake["what"] in project.call("plan", "manifest.yaml").stderr
    assert not project.state.exists()
    assert not (project.folder / "results.jsonl").exists()


def test_a_run_warns_of_json_records_without_the_field_before_it_sends(tmp_path: Path) -> None:
    project = with_another_file(tmp_path / "p", "rows2.jsonl", '{"id": "b", "body": "question"}\n')
    what = "'text', and 1 of 2 files has none (it is NULL in their rows): rows2.jsonl"
    (told,) = json.loads(project.call("plan", "manifest.yaml", "--json").stdout)["warnings"]
    assert what in told
    events = project.run().events
    names = [event["event"] for event in events]
    warned = next(index for index, event in enumerate(events) if what in event.get("what", ""))
    assert warned < names.index("uploaded")
