"""The group `run schedule`: what repeats a manifest by itself."""

from __future__ import annotations

import click

from runner.cli.schedule_emit import emit
from runner.cli.schedule_serve import serve
from runner.cli.schedule_tick import list_, tick


@click.group(
    epilog="""\b
Examples:
  run schedule list                   what is due when, and how it went
  run schedule tick                   start what is due, collect what has come
  run schedule serve                  do that in a loop
  run schedule emit --target systemd manifest.yaml
"""
)
def schedule() -> None:
    """Run manifests at the times that they name."""


for _command in (tick, serve, list_, emit):
    schedule.add_command(_command)
