"""The named places where a test kills the program: known by name, exact, and free where nothing is armed."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import failpoints
from runner.failpoints import LOG_VARIABLE, POINTS, VARIABLE, arm, failpoint

PACKAGE = Path(failpoints.__file__).parent
REACHES = (
    "from runner.failpoints import failpoint\n"
    "for _ in range(2):\n    failpoint('create.intended')\n    failpoint('create.answered')\n"
    "print('to the end')\n"
)


def used() -> Iterator[str]:
    """The argument of every `failpoint(...)` in the program."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="failpoint"), args=[ast.Constant(value=str(name))]):
                    yield name
                case ast.Call(func=ast.Name(id="failpoint")):
                    pytest.fail(f"{path}:{node.lineno}: a plain name, please")


def reached(tmp_path: Path, wanted: str) -> tuple[int, list[str]]:
    """The exit code of a program with four points, and those that it logged."""
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", REACHES],
        env={**os.environ, VARIABLE: wanted, LOG_VARIABLE: str(log)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode == 0) == (done.stdout == b"to the end\n")
    return done.returncode, log.read_text().split() if log.exists() else []


def test_every_point_of_the_table_stands_in_the_program_once_and_no_other() -> None:
    assert Counter(used()) == Counter(POINTS.keys())


def test_there_are_at_least_sixty_points() -> None:
    assert len(POINTS) >= 60


@pytest.mark.parametrize(
    ("wanted", "points"),
    [("create.answered", 2), ("create.answered:2", 4), ("create.intended:2", 3), ("*:3", 3)],
)
def test_an_armed_point_kills_at_the_hit_that_was_asked_for(tmp_path: Path, wanted: str, points: int) -> None:
    code, log = reached(tmp_path, wanted)
    assert code == -signal.SIGKILL
    assert log == (["create.intended", "create.answered"] * 2)[:points]


@pytest.mark.parametrize("wanted", ["", "create.answered:3", "upload.begins"])
def test_a_point_that_is_not_reached_kills_nothing(tmp_path: Path, wanted: str) -> None:
    assert reached(tmp_path, wanted) == (0, ["create.intended", "create.answered"] * 2)


def test_a_name_that_is_not_in_the_table_is_an_error_where_something_is_armed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match=r"no point 'create\.anwsered'"):
        arm({VARIABLE: "create.anwsered"})
    monkeypatch.setattr(failpoints, "_armed", None)
    failpoint("create.anwsered")
    arm({VARIABLE: "create.answered:100"})
    with pytest.raises(ValueError, match=r"'create\.anwsered' is not among"):
        failpoint("create.anwsered")


def test_a_stopped_process_goes_on_when_it_is_told_to(tmp_path: Path) -> None:
    environ = {**os.environ, VARIABLE: "create.answered@stop"}
    with subprocess.Popen([sys.executable, "-c", REACHES], env=environ, stdout=subprocess.PIPE) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        assert process.communicate()[0] == b"to the end\n"
