"""The Python interface: the commands without the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from runner import manifest as manifest_room
from runner.commands import plan as plan_command
from runner.commands import run as run_command
from runner.commands.moments import Finished, Reporter, Silent
from runner.commands.options import ManifestOptions, Narrowing, RunOptions
from runner.core.model import Manifest
from runner.core.planning import Plan
from runner.errors import InputError, Mistake


def load(
    path: str | Path,
    *,
    set_values: tuple[str, ...] = (),
    profile: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Manifest:
    """Read a manifest. Raises `InputError` with every mistake.

    `set_values` are `path=value` as after `--set`; `environ` is `os.environ` if not given.
    """
    environ = os.environ if environ is None else environ
    return manifest_room.load(path, set_values=set_values, profile=profile, environ=environ)


def plan(
    path: str | Path,
    *,
    set_values: tuple[str, ...] = (),
    profile: str | None = None,
    limit: int | None = None,
    environ: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> Plan:
    """What a run would do, without doing it: no network, no file left behind. Raises `RunnerError`."""
    options = _options(path, set_values, profile, environ, limit=limit)
    return plan_command.plan(options, reporter=reporter or Silent()).plan


def run(
    path: str | Path,
    *,
    set_values: tuple[str, ...] = (),
    profile: str | None = None,
    limit: int | None = None,
    detach: bool = False,
    wait_s: float | None = None,
    environ: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> Finished | None:
    """The whole job: plan, submit, collect, write the table. None with `detach`: run again to collect.

    Prompts are rendered and results made in this process only: whose interpreter a library runs in, it
    can't know.
    Raises `RunnerError`; see `runner.errors` for the family.
    """
    options = _options(path, set_values, profile, environ, limit=limit, detach=detach, wait_s=wait_s)
    return run_command.run(options, reporter=reporter or Silent()).finished


def _options(
    path: str | Path,
    set_values: tuple[str, ...],
    profile: str | None,
    environ: Mapping[str, str] | None,
    *,
    limit: int | None,
    detach: bool = False,
    wait_s: float | None = None,
) -> RunOptions:
    mistakes = _mistakes(set_values, limit, wait_s)
    if mistakes:
        raise InputError(mistakes)
    return RunOptions(
        manifest=ManifestOptions(path=str(path), set_values=tuple(set_values), profile=profile),
        environ=dict(os.environ if environ is None else environ),
        narrowing=Narrowing(limit=limit),
        detach=detach,
        wait_s=wait_s,
        workers=1,
    )


def _mistakes(set_values: object, limit: object, wait_s: object) -> list[Mistake]:
    """What the command line would refuse, or could not be given; no type checker need have looked."""
    found = []
    if isinstance(set_values, str):
        what = "is one text, and not a sequence of them"
        found.append(Mistake(where="set_values", what=what, hint=f"write [{set_values!r}]"))
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        found.append(Mistake(where="limit", what=f"{limit!r} is not a whole number of 1 or more"))
    if wait_s is not None and (not isinstance(wait_s, int | float) or not wait_s >= 0):
        found.append(Mistake(where="wait_s", what=f"{wait_s!r} is not a number of seconds"))
    return found
