"""`run schedule tick` and `run schedule list`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from runner.cli.arguments import (
    Bending,
    Session,
    bending_options,
    json_option,
    manifest_options,
    quiet_option,
)
from runner.cli.json_lines import json_line
from runner.cli.reporting import reporter_for
from runner.cli.run_command import worst
from runner.cli.streams import say, write_out
from runner.errors import EXIT_DONE, EXIT_INPUT


@click.command(
    epilog="""\b
Examples:
  run schedule tick                   every manifest of this folder that has a schedule
  run schedule tick manifests
  run schedule tick nightly.yaml --json
  run schedule tick nightly.yaml --profile prod
  * * * * * cd /srv/tickets && run schedule tick --quiet      as a line of a crontab

\b
Exit codes: 0 also while runs are under way; else that of what went wrong most.
"""
)
@click.argument("targets", metavar="[DIR|MANIFEST]...", nargs=-1)
@json_option("one object")
@quiet_option
@bending_options
@click.pass_obj
def tick(session: Session, targets: tuple[str, ...], as_json: bool, quiet: bool, bent: Bending) -> int:
    """Start what is due, bring on what is under way, and return.

    Safe to repeat at any moment, from anywhere: what was started is not started again.
    """
    session.enter("schedule tick", targets)
    from runner.schedule import ticking

    screen = reporter_for(is_quiet=quiet or as_json, yes=True, interrupts=session.interrupts)
    with closing(screen):
        report = ticking.tick(
            _paths(targets),
            environ=dict(os.environ),
            reporter=screen,
            bent=manifest_options("", bent),
            clock=ticking.wall_clock,
        )
    code = worst([one.exit_code for one in report.failed]) if report.failed else EXIT_DONE
    if as_json:
        write_out(json_line({"format_version": 1, **asdict(report), "exit_code": code}))
    from runner.cli.schedule_text import report_lines

    for line in report_lines(report, is_quiet=quiet or as_json):
        say(line)
    return code


@click.command(
    "list",
    epilog="""\b
Examples:
  run schedule list
  run schedule list manifests
  run schedule list --json | jq '.schedules[].next[0]'
""",
)
@click.argument("targets", metavar="[DIR|MANIFEST]...", nargs=-1)
@json_option("one object")
@bending_options
@click.pass_obj
def list_(session: Session, targets: tuple[str, ...], as_json: bool, bent: Bending) -> int:
    """List the schedules: in words, how each went last, when it is due."""
    session.enter("schedule list", targets)
    from runner.schedule import ticking
    from runner.schedule.listing import list_schedules

    found = list_schedules(
        _paths(targets),
        environ=dict(os.environ),
        now_s=ticking.wall_clock(),
        bent=manifest_options("", bent),
    )
    if as_json:
        write_out(json_line({"format_version": 1, "schedules": [asdict(one) for one in found]}))
    elif found:
        from runner.cli.schedule_text import listed_lines

        write_out("".join(f"{line}\n" for one in found for line in listed_lines(one)))
    else:
        say("no manifest here has a schedule")
    return EXIT_INPUT if any(one.problem for one in found) else EXIT_DONE


def _paths(targets: Sequence[str]) -> list[Path]:
    return [Path(target) for target in targets] or [Path()]
