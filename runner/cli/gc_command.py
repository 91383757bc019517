"""`run gc`: the click side of housekeeping."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import click

from runner.cli.arguments import (
    Bending,
    Duration,
    Session,
    bending_options,
    check_manifests,
    json_option,
    manifest_options,
)
from runner.cli.json_lines import json_line
from runner.cli.reporting import reporter_for
from runner.cli.streams import say, write_out
from runner.cli.texts import clean, counted, here, size
from runner.errors import EXIT_DONE

if TYPE_CHECKING:
    from runner.commands.gc import GcResult


@click.command(
    epilog="""\b
Removed: scratch of dead processes, input files and snapshots that nothing
needs, tables of old runs but for the last ten, and answers that no row has
wanted for so long: a row that wants one again is asked again.

\b
Examples:
  run gc --dry-run                    list it all, remove nothing
  run gc --older-than 90d
  run gc manifest.yaml --remote       its input files on the server, too
"""
)
@click.argument("manifest", metavar="[MANIFEST]", required=False)
@click.option("--dry-run", is_flag=True, help="List what would be removed.")
@click.option(
    "--older-than",
    type=Duration(),
    default="30d",
    show_default=True,
    metavar="TIME",
    help="How old tables of runs and unwanted answers must be.",
)
@click.option(
    "--remote",
    is_flag=True,
    help="Input files on the server, too: where all answers are here, and uploads that nothing uses.",
)
@json_option("one object")
@bending_options
@click.pass_obj
def gc(
    session: Session,
    manifest: str | None,
    dry_run: bool,
    older_than: float,
    remote: bool,
    as_json: bool,
    bent: Bending,
) -> int:
    """Remove what nothing refers to any more."""
    from runner.commands.gc import GcOptions
    from runner.commands.gc import gc as tidy

    manifests = () if manifest is None else (manifest,)
    session.enter("gc", manifests)
    check_manifests(manifests)
    options = GcOptions(
        manifest=None if manifest is None else manifest_options(manifest, bent),
        older_than_s=older_than,
        is_dry_run=dry_run,
        remote=remote,
        cwd=here(),
        environ=dict(os.environ),
    )
    with closing(reporter_for(interrupts=session.interrupts, yes=True)) as screen:
        found = tidy(options, reporter=screen)
    _tell(found, as_json=as_json)
    return EXIT_DONE


def _tell(found: GcResult, *, as_json: bool) -> None:
    """Every file on stdout where nothing was removed, the sum on stderr."""
    if as_json:
        listed = [{"kind": one.kind, "name": one.name, "bytes": one.size_bytes} for one in found.removed]
        whole = {
            "format_version": 1,
            "dry_run": found.is_dry_run,
            "removed": listed,
            "freed_bytes": found.freed_bytes,
            "busy": list(found.busy),
        }
        write_out(json_line(whole))
        return
    if found.is_dry_run:
        write_out(
            "".join(f"{one.kind:<9} {size(one.size_bytes):>9}  {clean(one.name)}\n" for one in found.removed)
        )
    kinds = Counter(one.kind for one in found.removed)
    for kind, number in kinds.items():
        freed = sum(one.size_bytes for one in found.removed if one.kind is kind)
        say(f"{kind:<9} {counted(number, 'file')}, {size(freed)}")
    for name in found.busy:
        say(f"left alone: {clean(name)}: another process works on it")
    if not found.removed:
        say("nothing to remove")
    elif found.is_dry_run:
        say("nothing was removed: --dry-run")
