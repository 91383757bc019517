"""A table is one manifest's: another one of the project that names the same file replaces nothing."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.project_factory import Done, Project, make_project


def with_a_second(folder: Path) -> Project:
    """A project with two manifests, `manifest.yaml` and `other.yaml`, over other rows, into one table."""
    project = make_project(folder)
    (folder / "others.csv").write_text("id,text\nother,another question\n")
    second = {**project.manifest, "name": "other", "dataset": {"path": "others.csv", "key": "id"}}
    (folder / "other.yaml").write_text(yaml.safe_dump(second, sort_keys=False))
    return project


def refusal(done: Done) -> str:
    assert done.code == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_the_table_of_another_manifest_is_not_replaced_and_nothing_is_sent(tmp_path: Path) -> None:
    project = with_a_second(tmp_path)
    assert project.run().code == 0
    for command in (("plan",), ()):
        told = refusal(project.call(*command, "other.yaml"))
        assert "results.jsonl is the table of manifest.yaml (run " in told
        assert (
            "choose another name, or delete that file if manifest.yaml does not write there any more" in told
        )
    assert len(project.witness.creates()) == 1
    assert [row["_key"] for row in project.results()] == ["k0", "k1", "k2", "k3", "k4"]
    assert project.call("other.yaml", "--set", "output.path=other.jsonl").code == 0


def test_two_manifests_of_one_command_keep_both_their_answers(tmp_path: Path) -> None:
    project = with_a_second(tmp_path)
    assert "is the table of manifest.yaml" in refusal(project.call("run", "manifest.yaml", "other.yaml"))
    assert len(project.results()) == 5
    done = project.call("run", "other.yaml", "--json", "--set", "output.path=other.jsonl")
    assert (done.code, done.event("finished")["requests_sent"]) == (0, 0)


def test_a_manifest_that_was_renamed_keeps_its_table(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    assert project.run().code == 0
    project.manifest_path.rename(tmp_path / "renamed.yaml")
    done = project.call("run", "renamed.yaml", "--json")
    assert (done.code, done.event("finished")["requests_sent"]) == (0, 0)


def test_a_table_is_its_manifests_also_when_it_was_touched_or_is_of_an_earlier_run(tmp_path: Path) -> None:
    project = with_a_second(tmp_path)
    assert project.run().code == 0
    (tmp_path / "results.jsonl").touch()
    assert "is the table of manifest.yaml" in refusal(project.call("other.yaml"))
    assert project.run().code == 0
    assert project.run("--set", "output.path=elsewhere.jsonl").code == 0
    assert "is the table of manifest.yaml" in refusal(project.call("other.yaml"))
    assert len(project.results()) == 5


def test_another_name_of_the_same_manifest_is_no_other(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    assert project.run().code == 0
    (tmp_path / "link.yaml").symlink_to("manifest.yaml")
    done = project.call("run", "link.yaml", "--json")
    assert (done.code, done.event("finished")["requests_sent"]) == (0, 0)


def test_a_table_that_was_removed_is_nobodys(tmp_path: Path) -> None:
    project = with_a_second(tmp_path)
    assert project.run().code == 0
    (tmp_path / "results.jsonl").unlink()
    assert project.call("other.yaml").code == 0
    assert [row["_key"] for row in project.results()] == ["other"]
    assert "results.jsonl is the table of other.yaml" in refusal(project.run("--refresh"))
