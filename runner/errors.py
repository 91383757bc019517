"""The family of errors: what is wrong, where, what to do next, and the exit code.

    RunnerError                     1  a fault of this program (never raised on purpose)
    |-- InputError                  2  manifest, dataset, template or option is wrong; lists every mistake
    |-- ProviderRefusedError        4  the server refused: authentication, payment, a rejected batch
    |-- DecisionNeededError         4  only a person can decide (an unknown create without proof)
    |-- StillRunningError          75  the work goes on elsewhere, or another process has the manifest
    |   `-- UnreachedError         75  no look of a step at the server worked
    |-- LedgerError                 1  the ledger can't be read or written: disk, permission, version
    `-- InterruptedRunError       130  Ctrl-C or SIGTERM; remote work goes on

The class shows where the fault is, the exit code sits on the class, and only the command line exits.
An outcome of work (a failed row, an expired batch) is a value, never an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_INPUT = 2
EXIT_FAILED_ROWS = 3
EXIT_REFUSED = 4
EXIT_WORK_TO_DO = 10
EXIT_STILL_RUNNING = 75
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing that is wrong in what the user gave us.

    `where` is `file:line:column`, `file:line`, `file`, an option (`--set`) or a row (`row 7, key 'a'`);
    `path` is the place inside the manifest (`dataset.path`) or empty;
    `what` says what is wrong; `hint` says what is allowed or meant, or is empty.
    """

    where: str
    what: str
    path: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """`file:line:column: path: what is wrong; what is allowed or meant`."""
        text = ": ".join(part for part in (self.where, self.path, self.what) if part)
        return f"{text}; {self.hint}" if self.hint else text


class RunnerError(Exception):
    """A known error. `what` is one line or several; `next_step` tells the user what to do now."""

    exit_code: ClassVar[int] = EXIT_FAULT

    def __init__(self, what: str, *, next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step


class InputError(RunnerError):
    """Manifest, dataset, template or command line is wrong. Carries every mistake that was found."""

    exit_code: ClassVar[int] = EXIT_INPUT

    def __init__(self, mistakes: Sequence[Mistake], *, next_step: str = "") -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes), next_step=next_step)
        self.mistakes = tuple(mistakes)


class UnpublishedError(InputError):
    """An output path took no table when the answers were there. They are kept, and may have been paid for."""


class ProviderRefusedError(RunnerError):
    """The provider said no in a way that waiting won't cure: key, credit, a rejected file or batch."""

    exit_code: ClassVar[int] = EXIT_REFUSED


class DecisionNeededError(RunnerError):
    """The program can't know whether money was spent and won't guess; a person must decide."""

    exit_code: ClassVar[int] = EXIT_REFUSED


class StillRunningError(RunnerError):
    """Work is on its way and this process stops waiting, or another process holds the manifest."""

    exit_code: ClassVar[int] = EXIT_STILL_RUNNING


class UnreachedError(StillRunningError):
    """Whatever a step asked of the server failed: it can't be reached, or is not working now."""


class LedgerError(RunnerError):
    """The ledger or a file beside it can't be used: damaged, newer version, disk, permissions."""


class InterruptedRunError(RunnerError):
    """The user interrupted. Nothing is lost; the same command goes on."""

    exit_code: ClassVar[int] = EXIT_INTERRUPTED
