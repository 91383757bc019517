"""`run MANIFEST...`: the click side of the whole job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing

import click

from runner.cli.arguments import (
    Duration,
    Session,
    bending_options,
    check_manifests,
    json_option,
    limit_option,
    manifest_options,
    yes_option,
)
from runner.cli.boundary import failure_of, tell
from runner.cli.explaining import Explainer
from runner.cli.reporting import reporter_for
from runner.commands.options import Narrowing, RunOptions
from runner.errors import EXIT_DONE, EXIT_FAULT, EXIT_INPUT, EXIT_STILL_RUNNING, RunnerError

_WORST_FIRST = (EXIT_FAULT, EXIT_INPUT, 4, 3, EXIT_STILL_RUNNING, EXIT_DONE)

EPILOG = """\b
Examples:
  run manifest.yaml
  run manifest.yaml --limit 20 --set model.name=Qwen/Qwen3.5-9B
  run a.yaml b.yaml --detach          all are submitted; later: run a.yaml b.yaml
  run manifest.yaml --json | jq .     one event per line
"""


@click.command(epilog=EPILOG)
@click.argument("manifests", metavar="MANIFEST...", nargs=-1, required=True)
@click.option("--detach", is_flag=True, help="Submit everything and return; run again to collect.")
@click.option(
    "--wait", "wait_s", type=Duration(), metavar="SECONDS", help="Stop waiting after this time: 90, 30m, 2h."
)
@yes_option
@limit_option
@bending_options
@json_option("one JSON object per event")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing unless something goes wrong.")
@click.pass_obj
def run(
    session: Session,
    manifests: tuple[str, ...],
    detach: bool,
    wait_s: float | None,
    yes: bool,
    limit: int | None,
    set_values: tuple[str, ...],
    profile: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Send what is unanswered, collect, write the table."""
    session.enter("run", manifests)
    check_manifests(manifests)
    environ = dict(os.environ)
    wanted = [
        RunOptions(
            manifest=manifest_options(path, set_values, profile),
            detach=detach,
            wait_s=wait_s,
            narrowing=Narrowing(limit=limit),
            environ=environ,
        )
        for path in manifests
    ]
    screen = reporter_for(
        as_json=as_json,
        is_quiet=quiet,
        yes=yes,
        interrupts=session.interrupts,
        explain=Explainer([one.manifest for one in wanted], environ),
    )
    with closing(screen):
        if len(wanted) == 1:
            from runner.commands.run import run as run_one

            return run_one(wanted[0], reporter=screen).exit_code
        from runner.commands.run import run_all

        outcomes = run_all(wanted, reporter=screen)
    codes = []
    for path, outcome in zip(manifests, outcomes, strict=True):
        if isinstance(outcome, RunnerError):
            codes.append(tell(failure_of(outcome, session, manifest=path), session))
        else:
            codes.append(outcome.exit_code)
    return worst(codes)


def worst(codes: Sequence[int]) -> int:
    """The exit code of several manifests: the one that most needs somebody's attention."""
    return min(codes, key=lambda code: _WORST_FIRST.index(code) if code in _WORST_FIRST else -1)
