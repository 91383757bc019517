"""A project may lie anywhere: spaces, brackets, letters beyond ASCII in its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project_factory import make_project


@pytest.mark.parametrize("name", ["with space", "we[ird]*dir", "größe", "it's"])
def test_a_project_may_lie_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    project = make_project(tmp_path / name)
    done = project.run()
    assert done.code == 0, done.stderr
    assert [row["_status"] for row in project.results()] == ["succeeded"] * 5
    assert project.run().event("finished")["requests_sent"] == 0
