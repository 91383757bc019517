"""The program as this harness runs it: forked, killed by name or by the clock, its errors kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.warm_program import WarmPopen

RUN_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one run ended. A negative code is the signal that killed it."""

    code: int
    stderr: str
    was_too_slow: bool = False


def run_program(
    arguments: Sequence[str], *, cwd: Path, environ: Mapping[str, str], kill_after_s: float | None = None
) -> Ended:
    """One run to its end, whatever that is. `kill_after_s`: SIGKILL so long after its start."""
    command = [sys.executable, "-m", "tests.kills.hurried", *arguments]
    errors = cwd / "stderr"
    was_too_slow = False
    with (
        (cwd / "stdout").open("ab") as out,
        errors.open("wb") as err,
        WarmPopen(
            command, cwd=cwd, env=dict(environ), stdin=subprocess.DEVNULL, stdout=out, stderr=err
        ) as process,
    ):
        if kill_after_s is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(kill_after_s)
            process.kill()
        try:
            process.wait(RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            was_too_slow = True
            process.kill()
    return Ended(
        code=process.returncode, stderr=errors.read_text(errors="replace"), was_too_slow=was_too_slow
    )
