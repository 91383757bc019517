"""Which reporter hears a command, and who answers its questions."""

from __future__ import annotations

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
    ask = asker(yes=yes)
    if as_json:
        from runner.cli.json_lines import JsonReporter

        return JsonReporter(ask)
    if is_quiet:
        return QuietReporter(ask, explain=explain)
    if is_live_terminal():
        from runner.cli.live import LiveReporter, stderr_console

        return LiveReporter(ask, console=stderr_console(), interrupts=interrupts, explain=explain)
    return PlainReporter(ask, explain=explain)


def asker(*, yes: bool) -> Callable[[str], bool]:
    """Ask a person on stderr, default no. With `--yes`, or with nobody at the terminal: go on.

    Ctrl-C and the end of input mean no. A command may have put signals off to its next safe point; while
    somebody is asked there is none, so a signal interrupts the question itself.
    """

    def ask(question: str) -> bool:
        if yes or not can_ask():
            return True
        try:
            with interruptible():
                return click.confirm(clean(question), default=False, err=True)
        except (click.Abort, KeyboardInterrupt):
            say("")
            return False

    return ask
