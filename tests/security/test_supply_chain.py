"""What the package brings along: no code that runs by itself."""

from __future__ import annotations

from pathlib import Path

import runner

PACKAGE = Path(runner.__file__).parent


def test_nothing_of_the_package_is_run_by_the_interpreter_on_its_own() -> None:
    names = {path.name for path in PACKAGE.rglob("*")}
    assert not [name for name in names if name.endswith(".pth")]
    assert not names & {"sitecustomize.py", "usercustomize.py", "conftest.py"}


TOLD_TO_A_CHILD = {
    (name, "import pickle")
    for name in ("worker_process.py", "worker.py", "isolated.py", "isolated_process.py")
}
"""What is to be done goes to a child from the process that started it, over a socket pair of those two."""
TOLD_BY_A_WORKER = {("work.py", "import marshal")}
"""What is made comes back as plain values: marshal makes no object that runs anything."""


def test_what_a_child_sends_is_not_unpickled() -> None:
    loading = {path.name for path in PACKAGE.rglob("*.py") if "pickle.load" in path.read_text()}
    assert loading == {"worker.py", "isolated_process.py"}
    isolated = (PACKAGE / "prompt" / "isolated_process.py").read_text()
    assert isolated.count("pickle.load") == isolated.count("pickle.loads(_take(descriptor))") == 2
    worker = (PACKAGE / "commands" / "worker.py").read_text()
    assert worker.count("pickle.load") == 1
    assert "pickle.loads(take_work(channel))" in worker.partition("def main(")[2]


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
    assert set(found) == TOLD_TO_A_CHILD | TOLD_BY_A_WORKER
