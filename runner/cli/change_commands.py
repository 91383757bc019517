"""The commands that change the course: `cancel`."""

from __future__ import annotations

import os
import shlex
from contextlib import closing

import click

from runner.cli.arguments import (
    Bending,
    Session,
    bending_options,
    check_manifests,
    manifest_options,
    yes_option,
)
from runner.cli.reporting import asker, reporter_for
from runner.cli.streams import say
from runner.cli.texts import clean, counted
from runner.errors import EXIT_DONE, EXIT_REFUSED, InterruptedRunError


@click.command(
    epilog="""\b
Examples:
  run cancel manifest.yaml            answers so far are kept; run it again to go on
"""
)
@click.argument("manifest", metavar="MANIFEST")
@yes_option
@bending_options
@click.pass_obj
def cancel(session: Session, manifest: str, yes: bool, bent: Bending) -> int:
    """Stop the batches that are under way."""
    session.enter("cancel", (manifest,))
    check_manifests((manifest,))
    options = manifest_options(manifest, bent)
    ask = asker(yes=yes, interrupts=session.interrupts)
    if not ask(f"Stop every batch of {manifest} that is under way?"):
        raise InterruptedRunError("nothing was cancelled")
    from runner.commands.cancel import cancel as stop

    with closing(reporter_for(interrupts=session.interrupts, yes=True)) as screen:
        done = stop(options, environ=dict(os.environ), reporter=screen)
    if not any((done.cancelled, done.discarded, done.failed, done.in_doubt, done.held, done.left)):
        told = "told        the run that is at work: it sends nothing more"
        say(told if done.is_beside_run else "nothing is under way")
        return EXIT_DONE
    for batch_id in done.cancelled:
        say(f"cancelling  {clean(batch_id)}")
    if done.discarded:
        say(f"discarded   {counted(done.discarded, 'file')} that had not been sent")
    for batch_id in done.failed:
        say(f"refused     {clean(batch_id)}: each look of a later run tells it to stop again")
    if done.in_doubt:
        what = "that may be on the way: stopped as soon as that is known"
        say(f"told        {counted(done.in_doubt, 'file')} {what}")
    for batch_id, owner in done.left:
        what = clean(batch_id) or "a file that may be on the way"
        say(f"left        {what}: rows wait for it too; `run cancel {shlex.quote(clean(owner))}` stops it")
    if done.held:
        say(f"held        {counted(done.held, 'file')}: whether a batch was made of it is unknown")
        say(f"next:  `run resolve {shlex.quote(clean(manifest))}` shows what can be decided")
    elif done.cancelled:
        say("next:  the same `run` collects what had finished, and asks the rest again")
    return EXIT_REFUSED if done.failed or done.held else EXIT_DONE
