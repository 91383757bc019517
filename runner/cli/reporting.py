"""Which reporter hears a command, and who answers its questions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

import click

from runner.cli.plain import PlainReporter, QuietReporter
from runner.cli.signals import Interrupts, interruptible
from runner.cli.streams import can_ask, is_live_terminal, say
from runner.cli.summary import Explain, unexplained
from runner.cli.texts import clean
from runner.commands.moments import Reporter


class Screen(Reporter, Protocol):
    """A reporter that may hold a terminal; `close` gives it back."""

    def close(self) -> None:
        """Leave the terminal as it was. Safe to call twice."""


def reporter_for(
    *,
    as_json: bool = False,
    is_quiet: bool = False,
    yes: bool = False,
    interrupts: Interrupts,
    explain: Explain = unexplained,
) -> Screen:
    """JSON where asked for; else quiet, live on a terminal, or plain."""
    ask = asker(yes=yes, interrupts=interrupts)
    if as_json:
        from runner.cli.json_lines import JsonReporter

        return JsonReporter(ask)
    if is_quiet:
        return QuietReporter(ask, explain=explain)
    if is_live_terminal():
        from runner.cli.live import LiveReporter, stderr_console

        return LiveReporter(ask, console=stderr_console(), interrupts=interrupts, explain=explain)
    return PlainReporter(ask, explain=explain)


def asker(*, yes: bool, interrupts: Interrupts) -> Callable[[str], bool]:
    """Ask a person on stderr, default no. With `--yes`, or with nobody at the terminal: go on.

    Ctrl-C and the end of input mean no. A command may have put signals off to its next safe point; while
    somebody is asked there is none, so a signal interrupts the question itself.
    """

    def ask(question: str) -> bool:
        if yes or not can_ask():
            return True
        try:
            with interruptible():
                return _answer(clean(question), interrupts)
        except KeyboardInterrupt:
            say("")
            return False

    return ask


_ANSWERS = {"y": True, "yes": True, "": False, "n": False, "no": False}


def _answer(question: str, interrupts: Interrupts) -> bool:
    """Until it is a yes or a no. Waits for the line before it reads it: a Ctrl-C that comes just before a
    blocking read starts would not end that read."""
    while True:
        click.echo(f"{question} [y/N]: ", nl=False, err=True)
        interrupts.wait_for_input(sys.stdin)
        line = sys.stdin.readline()
        answer = _ANSWERS.get(line.strip().lower())
        if answer is not None:
            if not line:
                say("")
            return answer
        say("please type y or n")
