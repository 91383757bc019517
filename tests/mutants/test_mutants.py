"""Every mutant still fits the code it was made for, and the command that tries them tells the truth."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.killing import Verdict, run_tests, try_one
from tests.mutants.mutant import HOME, DoesNotApplyError, Mutant, copy_code

CHEAP = "last-duplicate-wins"


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_changes_one_place_and_is_still_a_program(mutant: Mutant) -> None:
    file = HOME / "runner" / mutant.path
    text = file.read_text(encoding="utf-8")
    changed = mutant.changed(text)
    assert changed != text
    assert compile(changed, str(file), "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_the_tests_that_a_mutant_names_exist(mutant: Mutant) -> None:
    assert mutant.kills
    for test in mutant.kills:
        file, _, function = test.partition("::")
        text = (HOME / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {function}\(" if function else r"^def test_", text, re.MULTILINE), test


def test_no_mutant_dies_of_a_name_that_is_not_there(tmp_path: Path) -> None:
    """It would be killed by any test at all, and so prove nothing."""
    for mutant in MUTANTS:
        text = (HOME / "runner" / mutant.path).read_text(encoding="utf-8")
        (tmp_path / f"{mutant.name}.py").write_text(mutant.changed(text), encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F822", "--no-cache"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_at_least_25_with_names_of_their_own() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 25


def test_a_text_that_is_not_there_exactly_once_does_not_apply() -> None:
    mutant = Mutant(name="x", path="core/states.py", old="a", new="b", kills=())
    for text in ("", "aa"):
        with pytest.raises(DoesNotApplyError):
            mutant.changed(text)


def test_a_mutant_is_killed_and_a_harmless_change_survives(tmp_path: Path) -> None:
    copy_code(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "runner").rglob("*.py")}
    cheap = next(mutant for mutant in MUTANTS if mutant.name == CHEAP)
    result = try_one(cheap, tmp_path)
    assert result.verdict is Verdict.KILLED, result.text
    harmless = Mutant(
        name="harmless",
        path="core/settling.py",
        old="_MESSAGE_LIMIT = 2000\n",
        new="_MESSAGE_LIMIT = 2001\n",
        kills=("unit/test_core_settling.py::test_content_in_several_parts_is_joined",),
    )
    assert try_one(harmless, tmp_path).verdict is Verdict.SURVIVED
    nothing_to_run = Mutant(
        name="idle", path=harmless.path, old=harmless.old, new=harmless.new, kills=("unit/no_such_test.py",)
    )
    assert try_one(nothing_to_run, tmp_path).verdict is Verdict.BROKEN
    assert {path: path.read_bytes() for path in (tmp_path / "runner").rglob("*.py")} == before


def test_who_waits_for_tests_and_is_ended_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    communicate = subprocess.Popen.communicate

    def interrupted(process: subprocess.Popen[str], *given: Any, **named: Any) -> Any:
        started.append(process)
        if len(started) == 1:
            raise KeyboardInterrupt
        return communicate(process, *given, **named)

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_tests(tmp_path, ["none.py"], limit_s=60)
    assert started[0].returncode == -signal.SIGKILL
