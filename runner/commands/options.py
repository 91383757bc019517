"""What the commands are asked to do, as frozen values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Literal

from runner.core.model import RunTimes

Only = Literal["failed", "new", "changed"]


class Pace(Enum):
    """How far a run goes before it leaves: until all is done, until all is submitted, or as far as it comes
    at this moment (every batch is looked at once, what must wait is left to a later step)."""

    DONE = "done"
    SUBMITTED = "submitted"
    STEP = "step"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestOptions:
    """Which manifest, and how it is bent: `--set path=value`, `--profile name`.

    `is_isolated`: it is a stranger's, see `commands.isolation`; `allowed_paths` are the absolute folders that
    it may use beside its project.
    """

    path: str
    set_values: tuple[str, ...] = ()
    profile: str | None = None
    is_isolated: bool = False
    allowed_paths: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """How it is bent, as options of a command line."""
        words = [word for value in self.set_values for word in ("--set", value)]
        words += ["--profile", self.profile] if self.profile is not None else []
        words += ["--isolated"] if self.is_isolated else []
        return words + [word for folder in self.allowed_paths for word in ("--allow-path", folder)]


AS_WRITTEN = ManifestOptions(path="")
"""Bends no manifest; a path takes the place of the empty one."""


def command_line(command: str, options: ManifestOptions) -> str:
    """The command line for this manifest, bent as it is now, to be typed as it stands."""
    words = ["run", *([command] if command else []), options.path, *options.words()]
    return shlex.join(words)


def with_manifest(text: str, options: ManifestOptions) -> str:
    """A next step of whoever does not know the manifest, with this one in the place of `MANIFEST`."""
    return _UNNAMED.sub(lambda found: f"`{command_line(found[1] or '', options)}`", text)


_UNNAMED = re.compile(r"`run (?:([a-z]+) )?MANIFEST`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """What the person at the keyboard asked for. All given conditions must hold.

    `only`: rows that failed before; whose key the last run did not have; whose request is another one
    than in the last run. Rows that an earlier narrowed run left unasked count as new and as changed:
    nobody can mean to leave them out twice. `sample`: so many rows by chance, the same for the same
    `seed` and rows. `limit`: the first so many of the rows that are left; a row's repeats are one row.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    where: str | None = None
    only: Only | None = None

    @property
    def takes_all(self) -> bool:
        """Whether nothing is narrowed."""
        return self == Narrowing(seed=self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDigests:
    """What a plan rests on, each as a digest: two plans are the same where all of these are equal.

    `last_run` is the run whose rows the plan was compared with, empty for none: what is asked again
    (`--refresh`, `--only failed`) looks the same before and after it was asked, and only this tells them
    apart. `requests` is empty where nothing is to be sent.
    """

    manifest: str
    template: str
    dataset: str
    last_run: str
    requests: str

    @property
    def whole(self) -> str:
        """One digest of them all."""
        parts = (self.manifest, self.template, self.dataset, self.last_run, self.requests)
        return sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedPlan:
    """The saved plan that a run is to carry out; `path` is the file it was read from."""

    path: str
    digests: PlanDigests


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How far to go. `wait_s`: give up waiting after so many seconds (None: until done).

    `is_step`: go as far as one comes at this moment. `goes_on`: plan nothing, ask nothing that the last run
    did not want; bring that to its end.
    `refresh`: ask everything again; `refresh_older_than_s`: what is older. `retry_failed`: ask failed rows
    again, whatever their cause.
    `retry_failed_before_s`: of those, what had failed before this moment (Unix seconds; None: all).
    `goes_on_from_s`: this run goes on with one that began at this moment (Unix seconds), so what that one
    asked again is not asked a third time.
    `expected`: carry out this plan or none. `times`: the moments it is about (None: the usual ones).
    `tells_errors`: an error is told as `notify` says; False where the caller tells of it, and knows whether
    it was told before.
    `workers`: processes that render, and make results (None: one for each processor).
    """

    manifest: ManifestOptions
    detach: bool = False
    wait_s: float | None = None
    narrowing: Narrowing = field(default_factory=Narrowing)
    is_step: bool = False
    goes_on: bool = False
    refresh: bool = False
    refresh_older_than_s: float | None = None
    retry_failed: bool = False
    retry_failed_before_s: float | None = None
    goes_on_from_s: float | None = None
    expected: ExpectedPlan | None = None
    times: RunTimes | None = None
    workers: int | None = None
    tells_errors: bool = True
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_bent(self) -> bool:
        """Whether more, less or something else is asked for than the manifest says."""
        is_narrowed = self.narrowing != Narrowing() or self.expected is not None
        return is_narrowed or self.refresh or self.retry_failed

    def pace(self, *, is_local: bool) -> Pace:
        """How far to go. What the built-in server works on stands still while nobody waits for it, so there
        a step goes to the end."""
        if self.is_step and not is_local:
            return Pace.STEP
        return Pace.SUBMITTED if self.detach else Pace.DONE


def run_line(options: RunOptions) -> str:
    """The command line of this run, its manifest bent and its rows narrowed as they are."""
    words = [*(["--refresh"] if options.refresh else []), *narrowing_words(options.narrowing)]
    return " ".join([command_line("", options.manifest), *map(shlex.quote, words)])


def narrowing_words(narrowing: Narrowing) -> list[str]:
    """The options that narrow a run so."""
    given = {
        "--only": narrowing.only,
        "--where": narrowing.where,
        "--sample": narrowing.sample,
        "--seed": narrowing.seed or None,
        "--limit": narrowing.limit,
    }
    return [word for name, value in given.items() if value is not None for word in (name, str(value))]
