"""A plan as a file: what `run plan -o` writes, and what `run apply` carries out or refuses."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project_factory import ROWS, Done, Project, make_project


def plan_of(project: Project, *options: str) -> Path:
    """A saved plan, in a folder of its own."""
    path = project.folder / "plans" / "plan.json"
    path.parent.mkdir(exist_ok=True)
    done = project.call("plan", str(project.manifest_path), "-o", str(path), *options)
    assert done.code == 0, done.stderr
    return path


def test_apply_takes_yes_as_every_command_that_sends(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    done = apply(project, plan_of(project), "--yes")
    assert (done.code, requests_asked(project)) == (0, 5), done.stderr


def apply(project: Project, path: Path, *options: str) -> Done:
    done = project.call("apply", str(path), "--json", *options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def requests_asked(project: Project) -> int:
    return len(project.witness.executions()) if (project.state / "server.db").exists() else 0


def test_a_saved_plan_holds_the_plan_and_what_it_was_asked_with(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    options = ("--limit", "2", "--set", "model.name=n")
    path = plan_of(project, *options)
    saved = json.loads(path.read_text())
    printed = json.loads(project.call("plan", str(project.manifest_path), "--json", *options).stdout)
    assert {name: saved[name] for name in printed} == printed
    assert set(saved) - set(printed) == {"digest", "digests", "options", "created_at", "version"}
    assert saved["options"] == {
        "manifest": "../manifest.yaml",
        "set": ["model.name=n"],
        "profile": None,
        "isolated": False,
        "allowed_paths": [],
        "narrowing": {"limit": 2, "sample": None, "seed": 0, "where": None, "only": None},
        "refresh": False,
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["plan.json"]
    assert not (project.folder / ".runner").exists()


def test_apply_carries_out_the_plan_with_its_options_and_once(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    path = plan_of(project, "--limit", "2", "--set", "model.name=n")
    done = apply(project, path)
    assert (done.code, done.event("finished")["requests_sent"]) == (0, 2), done.stderr
    assert [row["_model"] for row in project.results()] == ["n", "n", None, None, None]
    again = apply(project, path)
    assert (again.code, again.event("finished")["requests_sent"]) == (0, 0), again.stderr
    assert requests_asked(project) == 2


def test_a_plan_that_asks_again_is_carried_out_once(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    project.run()
    path = plan_of(project, "--refresh")
    assert apply(project, path).event("finished")["requests_sent"] == 5
    done = apply(project, path)
    assert done.code == 2
    assert "another run of the manifest has taken place" in done.stderr
    assert requests_asked(project) == 10


def test_a_plan_that_was_left_on_its_way_is_collected_by_the_same_command(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", rows=[*ROWS[:2], {"id": "slow", "text": "x [[local:slow 2]]"}])
    path = plan_of(project)
    assert apply(project, path, "--detach").code == 75
    done = apply(project, path)
    assert (done.code, done.event("finished")["succeeded"]) == (0, 3), done.stderr
    assert requests_asked(project) == 3


def edit_template(project: Project) -> None:
    project.write_template("{{ text }}!")


def edit_rows(project: Project) -> None:
    project.write_rows([*ROWS, {"id": "more", "text": "more"}])


def edit_manifest(project: Project) -> None:
    project.manifest["model"]["parameters"] = {"temperature": 1}
    project.write_manifest()


def run_part(project: Project) -> None:
    assert project.run("--limit", "1").code == 0


@pytest.mark.parametrize(
    ("move", "said"),
    [
        (edit_template, "the template is another one"),
        (edit_rows, "the dataset's rows are others"),
        (edit_manifest, "the manifest is another one"),
        (run_part, "another run of the manifest has taken place"),
    ],
)
def test_apply_refuses_and_says_what_moved(
    tmp_path: Path, move: Callable[[Project], None], said: str
) -> None:
    project = make_project(tmp_path / "p")
    path = plan_of(project)
    move(project)
    before = requests_asked(project)
    done = apply(project, path)
    assert done.code == 2
    assert said in done.stderr
    assert "nothing was sent" in done.stderr
    assert json.loads(done.stdout.rstrip("\n").split("\n")[-1])["exit_code"] == 2
    assert requests_asked(project) == before


def test_a_plan_takes_the_place_of_a_plan_and_of_no_other_file(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    path = plan_of(project)
    edit_rows(project)
    first = path.read_bytes()
    assert plan_of(project).read_bytes() != first
    for target in ("manifest.yaml", "rows.csv", "plans", "nowhere/plan.json"):
        before = (project.folder / "manifest.yaml").read_bytes(), (project.folder / "rows.csv").read_bytes()
        done = project.call("plan", str(project.manifest_path), "-o", target)
        assert (done.code, done.stdout) == (2, ""), target
        assert done.stderr.startswith(f"error: {target}: ")
        assert before == (
            (project.folder / "manifest.yaml").read_bytes(),
            (project.folder / "rows.csv").read_bytes(),
        )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"digest": 1}', "version: 1\n", "\x00\xff"])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: str) -> None:
    project = make_project(tmp_path / "p")
    path = project.folder / "plan.json"
    path.write_bytes(content.encode("latin-1"))
    done = apply(project, path)
    assert done.code == 2
    assert "this file is not a plan" in done.stderr


def test_a_plan_that_was_edited_by_hand_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    path = plan_of(project)
    saved = json.loads(path.read_text())
    for name, value in [("digests", {**saved["digests"], "last_run": "x"}), ("options", {}), ("digest", "0")]:
        path.write_text(json.dumps({**saved, name: value}))
        done = apply(project, path)
        assert (done.code, "the plan is damaged" in done.stderr) == (2, True), done.stderr
    saved["options"]["narrowing"]["limit"] = 1
    path.write_text(json.dumps(saved))
    done = apply(project, path)
    assert (done.code, "the requests to send are others than planned" in done.stderr) == (2, True), (
        done.stderr
    )
    assert requests_asked(project) == 0
