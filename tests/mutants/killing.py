"""Mutants against their tests: each in a copy of the code, in a process of its own."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.mutants.mutant import DoesNotApplyError, Mutant, applied, copy_code

LIMIT_S = 300.0
BASELINE_LIMIT_S = 1800.0
_TESTS_FAILED = 1


class Verdict(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A mutant's end. `text` says why, where it is not killed; where it is, which test failed."""

    mutant: Mutant
    verdict: Verdict
    text: str


def run_tests(
    copy: Path, tests: Sequence[str], *, limit_s: float, workers: int = 0
) -> tuple[int | None, str]:
    """Exit code (None: no end in time) and output of pytest in the copy, which stops at the first failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=short"]
    process = subprocess.Popen(
        [*command, "--timeout=100", f"-n{workers}", *(f"tests/{test}" for test in tests)],
        cwd=copy,
        env=_environment(copy),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    except BaseException:  # who waits is ended, and leaves no process behind
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, text


def _environment(copy: Path) -> dict[str, str]:
    """The copy's code first; nothing of the pytest that may have started us."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def try_one(mutant: Mutant, copy: Path) -> Result:
    """Apply, run, judge, undo."""
    try:
        with applied(mutant, copy):
            code, text = run_tests(copy, mutant.kills, limit_s=LIMIT_S)
    except DoesNotApplyError as error:
        return Result(mutant=mutant, verdict=Verdict.BROKEN, text=str(error))
    if code == _TESTS_FAILED:
        failed = next((line for line in text.splitlines() if line.startswith("FAILED")), "FAILED")
        return Result(mutant=mutant, verdict=Verdict.KILLED, text=failed)
    if code == 0:
        return Result(mutant=mutant, verdict=Verdict.SURVIVED, text=f"passed: {', '.join(mutant.kills)}")
    return Result(mutant=mutant, verdict=Verdict.BROKEN, text=f"pytest ended with {code}\n{text[-2000:]}")


def baseline(mutants: Iterable[Mutant], *, jobs: int) -> str | None:
    """Run every named test on the unchanged code; what went wrong, None if all passed."""
    tests = sorted({test for mutant in mutants for test in mutant.kills})
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy_code(Path(folder))
        code, text = run_tests(Path(folder), tests, limit_s=BASELINE_LIMIT_S, workers=jobs)
    return None if code == 0 else f"the tests fail without any mutant (pytest: {code})\n{text[-4000:]}"


def try_all(mutants: Sequence[Mutant], *, jobs: int, tell: Callable[[Result], None]) -> list[Result]:
    """All of them, so many at once, each job with a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            copy = Path(folder) / str(number)
            copy.mkdir()
            copy_code(copy)
            copies.put(copy)

        def work(mutant: Mutant) -> Result:
            copy = copies.get()
            try:
                result = try_one(mutant, copy)
            finally:
                copies.put(copy)
            tell(result)
            return result

        with ThreadPoolExecutor(max_workers=jobs) as pool:
            return list(pool.map(work, mutants))
