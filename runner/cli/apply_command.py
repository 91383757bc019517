"""`run apply PLAN`: the click side of carrying out a saved plan."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from runner.cli.arguments import Session, Voice, check_manifests, pace_options, voice_options
from runner.cli.run_command import carry_out


@click.command(
    epilog="""\b
Examples:
  run plan manifest.yaml -o plan.json     look at it, show it around
  run apply plan.json                     that, or nothing: exit code 2 where anything moved
"""
)
@click.argument("plan", metavar="PLAN")
@pace_options
@voice_options
@click.pass_obj
def apply(
    session: Session,
    plan: str,
    detach: bool,
    wait_s: float | None,
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Carry out a saved plan, or refuse where anything moved."""
    from runner.commands.planfile import read_plan

    session.enter("apply", (plan,))
    check_manifests((plan,))
    wanted = replace(read_plan(Path(plan), dict(os.environ)), detach=detach, wait_s=wait_s)
    session.about = wanted.manifest
    # Somebody has looked at the plan before it was applied: that is the answer to the question.
    return carry_out(session, [wanted], Voice(yes=True, as_json=as_json, quiet=quiet))
