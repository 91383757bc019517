"""The commands that look and change nothing: `validate`, `plan`, `status`, `results`."""

from __future__ import annotations

import os
import shlex
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from runner.cli.arguments import (
    Bending,
    Count,
    Session,
    bending_options,
    check_manifests,
    json_option,
    manifest_options,
    narrowing_options,
    refresh_option,
)
from runner.cli.boundary import failure_of, tell
from runner.cli.json_lines import json_line
from runner.cli.plan_text import plan_text, validate_text
from runner.cli.reporting import reporter_for
from runner.cli.streams import is_stdout_coloured, say, write_out
from runner.cli.texts import clean, here
from runner.commands.options import Narrowing, RunOptions, run_line
from runner.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_WORK_TO_DO, InputError, Mistake

WATCH_EVERY_S = 2.0
FORMATS = ("table", "csv", "jsonl", "json")


@click.command(
    epilog="""\b
Examples:
  run validate manifest.yaml
  run validate manifests/*.yaml
"""
)
@click.argument("manifests", metavar="MANIFEST...", nargs=-1, required=True)
@bending_options
@click.pass_obj
def validate(session: Session, manifests: tuple[str, ...], bent: Bending) -> int:
    """Check manifest, template and dataset, without network."""
    from runner.commands.validate import validate as check

    session.enter("validate", manifests)
    code = EXIT_DONE
    for path in manifests:
        options = manifest_options(path, bent)
        try:
            check_manifests((path,))
            found = check(options, environ=dict(os.environ))
        except InputError as error:
            code = tell(failure_of(error, session, manifest=path), session)
            continue
        for line in validate_text(found, path):
            say(line)
    return code


@click.command(
    epilog="""\b
Examples:
  run plan manifest.yaml
  run plan manifest.yaml --exit-code        0 nothing to do, 10 work
  run plan manifest.yaml --json | jq .requests_to_send
  run plan manifest.yaml -o plan.json       later: run apply plan.json
  run plan manifest.yaml --diff 3           three rows that changed, old prompt against new
"""
)
@click.argument("manifest", metavar="MANIFEST")
@json_option("the plan as one object")
@click.option(
    "--exit-code", "wants_code", is_flag=True, help="Exit 0 where there is nothing to do, 10 where there is."
)
@click.option("--out", "-o", metavar="FILE", help="Save the plan, for `run apply FILE`.")
@click.option(
    "--diff", type=Count(), metavar="N", help="Show N rows that changed, the old prompt against the new."
)
@refresh_option
@narrowing_options
@bending_options
@click.pass_obj
def plan(
    session: Session,
    manifest: str,
    as_json: bool,
    wants_code: bool,
    out: str | None,
    diff: int | None,
    refresh: bool,
    narrowing: Narrowing,
    bent: Bending,
) -> int:
    """Show what a run would send and what that may cost. Sends nothing."""
    from runner.commands.plan import plan as make_plan
    from runner.commands.planfile import check_target, write_plan

    session.enter("plan", (manifest,))
    check_manifests((manifest,))
    if out is not None:
        check_target(Path(out))
    options = RunOptions(
        manifest=manifest_options(manifest, bent),
        narrowing=narrowing,
        refresh=refresh,
        environ=dict(os.environ),
    )
    with closing(reporter_for(is_quiet=True, interrupts=session.interrupts)) as screen:
        made = make_plan(options, reporter=screen, most_examples=diff or 0)
    if out is not None:
        write_plan(Path(out), made.plan, made.digests, options, made.warnings)
    for warning in made.warnings:
        say(f"warning: {clean(str(warning))}")
    if as_json:
        shown: dict[str, object] = {"warnings": [str(warning) for warning in made.warnings]}
        if diff is not None:
            shown["examples"] = [one.as_json() for one in made.examples]
        write_out(json_line(made.plan.as_json() | shown))
    else:
        from runner.cli.sides_text import examples_text

        command = run_line(options) if out is None else f"run apply {shlex.quote(out)}"
        lines = plan_text(made.plan, made.causes, path=manifest, command=command)
        lines += examples_text(made.examples, is_coloured=is_stdout_coloured())
        write_out("\n".join(lines) + "\n")
    return EXIT_WORK_TO_DO if wants_code and made.plan.has_work else EXIT_DONE


@click.command(
    epilog="""\b
Examples:
  run status                          every manifest of this project
  run status manifest.yaml --watch
  run status --json | jq '.manifests[].by_status'
"""
)
@click.argument("manifests", metavar="[MANIFEST]...", nargs=-1)
@click.option("--watch", is_flag=True, help="Show it again every 2 s until nothing is under way.")
@json_option("one object")
@click.pass_obj
def status(session: Session, manifests: tuple[str, ...], watch: bool, as_json: bool) -> int:
    """Show the state of runs and batches, from the ledger alone."""
    session.enter("status", manifests)
    check_manifests(manifests)
    if watch and as_json:
        raise InputError(
            [Mistake(where="--watch", what="can't be combined with --json", hint="leave one out")]
        )
    from runner.cli.watching import print_status, watch_status

    if watch:
        try:
            return watch_status(manifests, every_s=WATCH_EVERY_S)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
    from runner.commands.status import status as look

    found = look(manifests, environ=dict(os.environ), cwd=here())
    if as_json:
        write_out(json_line({"format_version": 1, "manifests": [asdict(one) for one in found]}))
    elif found:
        print_status(found)
    else:
        say(nothing_yet(manifests))
    return EXIT_DONE


def nothing_yet(manifests: tuple[str, ...]) -> str:
    """What to say where the ledger has no run."""
    if manifests:
        return f"never run: {', '.join(map(clean, manifests))}\nnext:  run {shlex.quote(clean(manifests[0]))}"
    return (
        "nothing was run in this project yet\nnext:  run MANIFEST, or `run status MANIFEST` for one elsewhere"
    )


@click.command(
    epilog="""\b
Examples:
  run results manifest.yaml
  run results manifest.yaml --format csv --where "_status <> 'succeeded'" > left.csv
  run results manifest.yaml --sql "SELECT _status, count(*) FROM results GROUP BY ALL"
"""
)
@click.argument("manifest", metavar="MANIFEST")
@click.option(
    "--format", "-f", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print it."
)
@click.option("--where", metavar="SQL", help="Only the rows for which this holds.")
@click.option("--sql", metavar="QUERY", help="A query of your own over `results`.")
@click.option("--limit", type=Count(), metavar="N", help="At most N rows.")
@click.option(
    "--run", metavar="RUN", help="The table of an earlier run: an id of `run history`, or `previous`."
)
@bending_options
@click.pass_obj
def results(
    session: Session,
    manifest: str,
    format: str,  # noqa: A002 - the option's name
    where: str | None,
    sql: str | None,
    limit: int | None,
    run: str | None,
    bent: Bending,
) -> int:
    """Print the results table, or a part of it."""
    from runner.commands.results import results as read
    from runner.commands.results import written_by_another

    session.enter("results", (manifest,))
    check_manifests((manifest,))
    options = manifest_options(manifest, bent)
    chunks = read(
        options, environ=dict(os.environ), format=format, where=where, sql=sql, limit=limit, run=run
    )
    if run is None and (note := written_by_another(options, environ=dict(os.environ))) is not None:
        say(f"note: {clean(note)}")
    for chunk in chunks:
        write_out(chunk)
    return EXIT_DONE
