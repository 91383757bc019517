"""`run schedule emit`: the click side of files for other schedulers."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.arguments import (
    Bending,
    Duration,
    Session,
    bending_options,
    check_manifests,
    manifest_options,
)
from runner.cli.streams import say, write_out
from runner.cli.texts import clean, here, path_here
from runner.errors import EXIT_DONE, InputError, Mistake

if TYPE_CHECKING:
    from runner.schedule.emitting import Emitted


@click.command(
    epilog="""\b
Whatever keeps the time calls `run schedule tick MANIFEST` when it is due and
every few minutes in between; `tick` decides what there is to do.

\b
Examples:
  run schedule emit --target systemd manifest.yaml -o ~/.config/systemd/user
  run schedule emit --target cron manifest.yaml > my.crontab
  run schedule emit --target github manifest.yaml -o .github/workflows
  run schedule emit --target kubernetes --image example.com/runner:1 manifest.yaml
"""
)
@click.argument("manifest")
@click.option(
    "--target",
    type=click.Choice(("systemd", "cron", "github", "kubernetes", "airflow")),
    required=True,
    help="Who keeps the time.",
)
@click.option(
    "--output",
    "-o",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the files there instead of printing them.",
)
@click.option(
    "--every",
    type=Duration(),
    default="10m",
    show_default=True,
    metavar="TIME",
    help="How often to look in between: collects, and makes up for what was missed.",
)
@click.option("--image", metavar="IMAGE", help="The image with `run` in it, for Kubernetes.")
@bending_options
@click.pass_obj
def emit(
    session: Session,
    manifest: str,
    target: str,
    folder: Path | None,
    every: float,
    image: str | None,
    bent: Bending,
) -> int:
    """Print ready files for systemd, cron, GitHub Actions, Kubernetes or Airflow."""
    from runner.schedule.emitting import USUAL_IMAGE, EmitOptions, Target, write
    from runner.schedule.emitting import emit as make

    session.enter("schedule emit", (manifest,))
    check_manifests((manifest,))
    if image is not None and target != Target.KUBERNETES:
        what = "goes with --target kubernetes"
        raise InputError([Mistake(where="--image", what=what, hint="leave it out")])
    if every % 60:
        what = f"{every:g} seconds are no whole number of minutes"
        raise InputError([Mistake(where="--every", what=what, hint="for example 10m")])
    options = EmitOptions(
        manifest=manifest_options(manifest, bent),
        target=Target(target),
        program=_program(),
        every_min=int(every / 60),
        image=image or USUAL_IMAGE,
    )
    emitted = make(options, environ=os.environ)
    if folder is None:
        write_out(_printed(emitted))
    else:
        for path in write(emitted, folder):
            say(f"wrote    {path_here(str(path), here())}")
    _tell_needed(emitted)
    return EXIT_DONE


def _program() -> list[str]:
    """How this program is started from anywhere: schedulers have a short PATH of their own."""
    own = Path(sys.argv[0])
    if own.name == "run" and own.is_file():
        return [str(own.absolute())]
    beside = Path(sys.executable).with_name("run")
    found = str(beside) if beside.is_file() else shutil.which("run")
    return [found] if found else [sys.executable, "-m", "runner"]


def _printed(emitted: Emitted) -> str:
    """The files one after the other; each begins with a comment, so its name can be one, too."""
    if len(emitted.files) == 1:
        return emitted.files[0].text
    return "\n".join(f"# ---- {file.name}\n{file.text}" for file in emitted.files)


def _tell_needed(emitted: Emitted) -> None:
    for index, one in enumerate(emitted.needed):
        label = "to set" if index == 0 else ""
        kind = "secret" if one.is_secret else "variable"
        say(f"{label:<8} {clean(one.name)}  ({kind}: {one.what_for})")
    if not emitted.needed:
        say("to set   nothing: this manifest needs no variable of the environment")
