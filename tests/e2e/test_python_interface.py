"""`import runner`: Python code is refused what the command line refuses, and nothing is lost by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import runner
from runner.errors import InputError
from tests.project_factory import make_project


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limit": 0}, "limit: 0 is not a whole number of 1 or more"),
        ({"limit": -1}, "limit: -1 is not a whole number of 1 or more"),
        ({"limit": "3"}, "limit: '3' is not a whole number of 1 or more"),
        ({"limit": True}, "limit: True is not a whole number of 1 or more"),
        ({"wait_s": "x"}, "wait_s: 'x' is not a number of seconds"),
        ({"wait_s": -1}, "wait_s: -1 is not a number of seconds"),
        ({"set_values": "params.a=x"}, "set_values: is one text, and not a sequence of them"),
    ],
)
def test_what_is_no_value_is_a_mistake_and_the_table_stays(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    project = make_project(tmp_path)
    assert project.run().code == 0
    before = project.results()
    with pytest.raises(InputError) as caught:
        runner.run(project.manifest_path, **given)
    assert str(caught.value.mistakes[0]).startswith(said)
    assert project.results() == before
    assert len(project.witness.creates()) == 1


def test_the_functions_are_found_by_who_looks_around() -> None:
    assert {"load", "plan", "run"} <= set(dir(runner))


def test_a_condition_that_no_row_fits_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    for command in (("plan", "manifest.yaml"), ("run", "manifest.yaml")):
        done = project.call(*command, "--where", "id = 'none'")
        assert "--where: no row fits it" in done.stdout + done.stderr
    assert "no row fits" not in project.call("plan", "manifest.yaml", "--where", "id = 'k1'").stderr
