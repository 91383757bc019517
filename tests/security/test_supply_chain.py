"""What the package brings along: no code that runs by itself."""

from __future__ import annotations

from pathlib import Path

import runner

PACKAGE = Path(runner.__file__).parent


def test_nothing_of_the_package_is_run_by_the_interpreter_on_its_own() -> None:
    names = {path.name for path in PACKAGE.rglob("*")}
    assert not [name for name in names if name.endswith(".pth")]
    assert not names & {"sitecustomize.py", "usercustomize.py", "conftest.py"}


def test_no_source_loads_pickles_or_evaluates_text() -> None:
    forbidden = (
        "import pickle",
        "import marshal",
        "import shelve",
        "yaml.load(",
        "eval(",
        "exec(",
        "shell=True",
    )
    found = [
        (path.name, word)
        for path in PACKAGE.rglob("*.py")
        for word in forbidden
        if any(
            word in line and "re." not in line and "_exec" not in line
            for line in path.read_text().splitlines()
        )
    ]
    assert found == []
