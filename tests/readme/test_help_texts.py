"""What `--help` says: each command begins with what it does, shows examples, and its examples parse."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from runner import errors
from runner.cli.app import COMMANDS, EPILOG, cli
from runner.cli.arguments import COMMAND_NAMES, Session

BELOW = tuple(
    below for group in COMMANDS if isinstance(group, click.Group) for below in group.commands.values()
)
EVERY = (cli, *COMMANDS, *BELOW)


def name_of(command: click.Command) -> str:
    return "(group)" if command is cli else str(command.name)


def examples(epilog: str) -> list[list[str]]:
    """The words behind `run` of each example; comments, pipes and redirections left out."""
    found = []
    for line in epilog.split("\n"):
        text = re.split(r" {3,}| [|>] ", line.strip())[0]
        if text.startswith("run "):
            found.append(shlex.split(text)[1:])
    return found


def test_the_names_of_the_parser_are_those_of_the_commands() -> None:
    assert tuple(command.name for command in COMMANDS) == COMMAND_NAMES


@pytest.mark.parametrize("command", EVERY, ids=name_of)
def test_help_begins_with_an_imperative_sentence(command: click.Command) -> None:
    first = (command.help or "").strip().split("\n")[0]
    assert re.match(r"[A-Z][a-z]+ .*\.$", first), first
    assert not re.match(r"\w+(?<!s)s |\w+ing |\w+ed |(?:The|A|An|This) ", first), first


@pytest.mark.parametrize("command", EVERY, ids=name_of)
def test_every_option_says_what_it_does(command: click.Command) -> None:
    for option in command.params:
        if isinstance(option, click.Option):
            assert re.match(r"[A-Z].*\.", option.help or ""), (command.name, option.opts)


@pytest.mark.parametrize("command", EVERY, ids=name_of)
def test_every_command_has_examples_that_parse(command: click.Command) -> None:
    """An example may begin with another command that it needs, but one is of the command itself."""
    shown: set[click.Command] = set()
    for words in examples(command.epilog or ""):
        is_named = words[0] in COMMAND_NAMES
        meant = cli.commands[words[0] if is_named else "run"]
        rest = words[1:] if is_named else list(words)
        if isinstance(meant, click.Group):
            shown.add(meant)
            meant, rest = meant.commands[rest[0]], rest[1:]
        meant.make_context(str(meant.name), rest, obj=Session())
        shown.add(meant)
    assert shown if command is cli else command in shown


def test_help_names_every_exit_code_of_a_run() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    told = EPILOG.partition("Exit codes:")[2]
    assert {int(word) for word in re.findall(r"\b\d+\b", told)} == codes - {errors.EXIT_WORK_TO_DO}
