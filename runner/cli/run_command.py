"""`run MANIFEST...` and `run retry MANIFEST...`: the click side of the whole job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import click

from runner.cli.arguments import (
    Bending,
    Session,
    Voice,
    bending_options,
    check_manifests,
    manifest_options,
    narrowing_options,
    pace_options,
    refresh_option,
    voice_options,
)
from runner.cli.boundary import failure_of, tell
from runner.cli.explaining import Explainer
from runner.cli.reporting import reporter_for
from runner.commands.options import Narrowing, RunOptions
from runner.errors import (
    EXIT_DONE,
    EXIT_FAULT,
    EXIT_INPUT,
    EXIT_STILL_RUNNING,
    InputError,
    Mistake,
    RunnerError,
)

_WORST_FIRST = (EXIT_FAULT, EXIT_INPUT, 4, 3, EXIT_STILL_RUNNING, EXIT_DONE)

EPILOG = """\b
Examples:
  run manifest.yaml
  run manifest.yaml --limit 20 --set model.name=Qwen/Qwen3.5-9B
  run manifest.yaml --refresh --where "lang = 'de'"     ask those rows again
  run a.yaml b.yaml --detach          all are submitted; later: run a.yaml b.yaml
  run manifest.yaml --json | jq .     one event per line
"""


@click.command(epilog=EPILOG)
@click.argument("manifests", metavar="MANIFEST...", nargs=-1, required=True)
@pace_options
@refresh_option
@narrowing_options
@bending_options
@voice_options
@click.pass_obj
def run(
    session: Session,
    manifests: tuple[str, ...],
    detach: bool,
    wait_s: float | None,
    refresh: bool,
    narrowing: Narrowing,
    bent: Bending,
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Send what is unanswered, collect, write the table."""
    session.enter("run", manifests)
    check_manifests(manifests)
    environ = dict(os.environ)
    wanted = [
        RunOptions(
            manifest=manifest_options(path, bent),
            detach=detach,
            wait_s=wait_s,
            narrowing=narrowing,
            refresh=refresh,
            environ=environ,
        )
        for path in manifests
    ]
    return carry_out(session, wanted, Voice(yes=yes, as_json=as_json, quiet=quiet))


@click.command(
    epilog="""\b
Examples:
  run retry manifest.yaml             whatever the cause, whatever the attempts so far
  run retry manifest.yaml --limit 10
"""
)
@click.argument("manifests", metavar="MANIFEST...", nargs=-1, required=True)
@pace_options
@narrowing_options
@bending_options
@voice_options
@click.pass_obj
def retry(
    session: Session,
    manifests: tuple[str, ...],
    detach: bool,
    wait_s: float | None,
    narrowing: Narrowing,
    bent: Bending,
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Ask the rows again that failed, for good or not."""
    session.enter("retry", manifests)
    check_manifests(manifests)
    if narrowing.only not in (None, "failed"):
        what = f"--only {narrowing.only} leaves nothing to retry"
        raise InputError([Mistake(where="--only", what=what, hint="leave it out")])
    environ = dict(os.environ)
    wanted = [
        RunOptions(
            manifest=manifest_options(path, bent),
            detach=detach,
            wait_s=wait_s,
            narrowing=replace(narrowing, only="failed"),
            retry_failed=True,
            environ=environ,
        )
        for path in manifests
    ]
    return carry_out(session, wanted, Voice(yes=yes, as_json=as_json, quiet=quiet))


def carry_out(session: Session, wanted: Sequence[RunOptions], voice: Voice) -> int:
    """One run or several, heard by one reporter. Gives the exit code."""
    screen = reporter_for(
        as_json=voice.as_json,
        is_quiet=voice.quiet,
        yes=voice.yes,
        interrupts=session.interrupts,
        explain=Explainer([one.manifest for one in wanted], wanted[0].environ),
    )
    with closing(screen):
        if len(wanted) == 1:
            from runner.commands.run import run as run_one

            return run_one(wanted[0], reporter=screen).exit_code
        from runner.commands.run import run_all

        outcomes = run_all(wanted, reporter=screen)
    codes = []
    for one, outcome in zip(wanted, outcomes, strict=True):
        if isinstance(outcome, RunnerError):
            codes.append(tell(failure_of(outcome, session, manifest=one.manifest.path), session))
        else:
            codes.append(outcome.exit_code)
    return worst(codes)


def worst(codes: Sequence[int]) -> int:
    """The exit code of several manifests: the one that most needs somebody's attention."""
    return min(codes, key=lambda code: _WORST_FIRST.index(code) if code in _WORST_FIRST else -1)
