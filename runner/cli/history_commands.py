"""The commands that look back: `history`, `explain`, `diff`."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from runner.cli.arguments import (
    Bending,
    Count,
    Session,
    bending_options,
    check_manifests,
    json_option,
    manifest_options,
)
from runner.cli.json_lines import json_line
from runner.cli.look_commands import nothing_yet
from runner.cli.streams import say, stdout_width, write_out
from runner.cli.texts import here
from runner.errors import EXIT_DONE

PIPE_WIDTH = 120
"""Side by side needs a width where there is no terminal to ask; `--json` cuts nothing."""
_RUNS_SHOWN = 20
_EXAMPLES_SHOWN = 10


@click.command(
    epilog="""\b
Examples:
  run history                         every manifest of this project
  run history manifest.yaml --limit 5
  run history --json | jq '.runs[].cost'
"""
)
@click.argument("manifest", metavar="[MANIFEST]", required=False)
@click.option(
    "--limit", type=Count(), metavar="N", default=_RUNS_SHOWN, show_default=True, help="At most N runs."
)
@json_option("one object")
@click.pass_obj
def history(session: Session, manifest: str | None, limit: int, as_json: bool) -> int:
    """List past runs, and what had been edited before each."""
    from runner.commands.history import history as look

    manifests = () if manifest is None else (manifest,)
    session.enter("history", manifests)
    check_manifests(manifests)
    found = look(manifest, environ=dict(os.environ), cwd=here(), limit=limit)
    if as_json:
        write_out(json_line({"format_version": 1, "runs": [asdict(one) for one in found]}))
    elif found:
        from runner.cli.history_text import history_text

        _print(history_text(found, width=stdout_width(), names_manifests=manifest is None))
    else:
        say(nothing_yet(manifests))
    return EXIT_DONE


@click.command(
    epilog="""\b
Examples:
  run explain manifest.yaml k42
  run explain manifest.yaml 'k42 #2'        the second repeat of a row
  run explain manifest.yaml k42 --json | jq -r '.attempts[].batch_id'
"""
)
@click.argument("manifest", metavar="MANIFEST")
@click.argument("key", metavar="KEY")
@json_option("one object")
@bending_options
@click.pass_obj
def explain(session: Session, manifest: str, key: str, as_json: bool, bent: Bending) -> int:
    """Show one row: its prompt, every attempt, its answer."""
    from runner.commands.explain import explain as look

    session.enter("explain", (manifest,))
    check_manifests((manifest,))
    options = manifest_options(manifest, bent)
    found = look(options, key, environ=dict(os.environ), cwd=here())
    if as_json:
        write_out(json_line(found.as_json()))
    else:
        from runner.cli.explain_text import explain_text

        _print(explain_text(found))
    return EXIT_DONE


@click.command(
    epilog="""\b
Examples:
  run diff manifest.yaml                    the last two runs
  run diff manifest.yaml 5b0c3f0e latest    ids are those of `run history`
  run diff manifest.yaml --json | jq .tables.changes
"""
)
@click.argument("manifest", metavar="MANIFEST")
@click.argument("before", metavar="[RUN_A]", default="previous")
@click.argument("after", metavar="[RUN_B]", default="latest")
@click.option(
    "--limit",
    type=Count(),
    metavar="N",
    default=_EXAMPLES_SHOWN,
    show_default=True,
    help="At most N rows of each kind.",
)
@json_option("one object")
@click.pass_obj
def diff(session: Session, manifest: str, before: str, after: str, limit: int, as_json: bool) -> int:
    """Compare the answers of two runs."""
    from runner.commands.diffing import diff as compare

    session.enter("diff", (manifest,))
    check_manifests((manifest,))
    found = compare(manifest, before, after, environ=dict(os.environ), cwd=here(), limit=limit)
    if as_json:
        write_out(json_line({"format_version": 1, **asdict(found)}))
    else:
        from runner.cli.sides_text import diff_text

        _print(diff_text(found, width=stdout_width() or PIPE_WIDTH))
    return EXIT_DONE


def _print(lines: list[str]) -> None:
    write_out("".join(f"{line}\n" for line in lines))
