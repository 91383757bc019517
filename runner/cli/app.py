"""The group `run`: the first word is a command if it is one of the known names, else a manifest.

    run MANIFEST...      = run run MANIFEST...
    run plan MANIFEST    a command by its name

Only names and help texts live here; each command imports what it needs when it is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from runner import __version__
from runner.cli.apply_command import apply
from runner.cli.arguments import COMMAND_NAMES, Session, missing
from runner.cli.begin_commands import init, local_server, schema
from runner.cli.boundary import guarded
from runner.cli.change_commands import cancel
from runner.cli.gc_command import gc
from runner.cli.history_commands import diff, explain, history
from runner.cli.look_commands import plan, results, status, validate
from runner.cli.resolve_command import rebuild, resolve
from runner.cli.run_command import retry, run
from runner.cli.schedule_group import schedule
from runner.errors import InputError

COMMANDS: tuple[click.Command, ...] = (
    run,
    validate,
    plan,
    apply,
    status,
    results,
    history,
    explain,
    diff,
    retry,
    cancel,
    resolve,
    rebuild,
    gc,
    schedule,
    init,
    schema,
    local_server,
)
CONTEXT_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class RunGroup(click.Group):
    """A group whose default command is `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the word `run` before what is not a command. Raises InputError for a misspelt command."""
        own = ("-h", "--help", "--version")
        if args and args[0] not in COMMAND_NAMES and args[0] not in own:
            self._check_first_word(args[0])
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def _check_first_word(self, word: str) -> None:
        """Before its options are looked at: they are those of the command that was meant."""
        if word.startswith("-") or os.path.lexists(word):
            return
        mistake = missing(word)
        if mistake.what == "no such file or command":
            raise InputError([mistake])

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used, not of the alphabet."""
        return list(COMMAND_NAMES)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Both ways to call it."""
        return ["MANIFEST... [OPTIONS]", "| COMMAND [ARGS]"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of `run MANIFEST` too: that is what most people look for here."""
        options = [one for one in run.params if isinstance(one, click.Option)]
        records = [option.get_help_record(ctx) for option in [*options, *self.get_params(ctx)]]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record is not None])
        self.format_commands(ctx, formatter)


EPILOG = """\b
Examples:
  run init                            make a small project that works at once
  run validate manifest.yaml          check it, without network
  run plan manifest.yaml              see what it would send and cost
  run manifest.yaml                   do it; again: only what changed
  run manifest.yaml --detach          submit and return; later: collect

\b
Exit codes: 0 done, 1 a fault of this program, 2 usage or manifest, 3 too many
failed rows, 4 refused by the provider or your decision is needed, 75 still on
its way, 130 interrupted (remote work goes on).
"""


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"run {__version__}")
        ctx.exit()


@click.group(cls=RunGroup, context_settings=CONTEXT_SETTINGS, epilog=EPILOG)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version.",
)
def cli() -> None:
    """Make the answers that a manifest declares exist, and write the table.

    The same command starts, resumes, collects, retries and repeats; what is answered is never paid twice.
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole program: parse, run, tell, and return the exit code. Never raises."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    session = Session(wants_json="--json" in words)

    def work() -> int:
        session.interrupts.listen()
        with cli.make_context("run", words, obj=session) as context:
            return int(cli.invoke(context) or 0)

    return guarded(work, session)
