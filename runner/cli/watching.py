"""Status with colour on a terminal, once or again and again until nothing is under way."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.cli.status_text import HEAD, RIGHT, Section, is_over, section, status_text
from runner.cli.streams import say, write_out
from runner.cli.texts import here
from runner.errors import EXIT_DONE

if TYPE_CHECKING:
    from runner.commands.status import ManifestStatus

_STYLES = {
    "done": "dim",
    "completed": "green",
    "in_progress": "cyan",
    "submitted": "cyan",
    "failed": "red",
    "expired": "red",
    "held": "red",
    "refused": "red",
    "unknown": "yellow",
    "cancelling": "yellow",
    "cancelled": "yellow",
}


def stdout_console() -> Console:
    """A console on stdout that interprets nothing."""
    return Console(markup=False, emoji=False, highlight=False)


def print_status(found: Sequence[ManifestStatus]) -> None:
    """With colour on a terminal, else aligned plain text."""
    if sys.stdout.isatty():
        stdout_console().print(drawn(found))
    else:
        write_out(status_text(found))


def watch_status(manifests: Sequence[str], *, every_s: float) -> int:
    """Until nothing is under way. Repainted in place on a terminal; in a pipe printed when it changed."""
    if not sys.stdout.isatty():
        return _watch_plainly(manifests, every_s)
    found = _look(manifests)
    with Live(drawn(found), console=stdout_console(), auto_refresh=False, vertical_overflow="crop") as live:
        while not is_over(found):
            time.sleep(every_s)
            found = _look(manifests)
            live.update(drawn(found), refresh=True)
    return EXIT_DONE


def _watch_plainly(manifests: Sequence[str], every_s: float) -> int:
    said = ""
    while True:
        found = _look(manifests)
        text = status_text(found)
        if text != said:
            write_out(text if not said else f"\n{text}")
            said = text
        if is_over(found):
            return EXIT_DONE
        time.sleep(every_s)


def _look(manifests: Sequence[str]) -> Sequence[ManifestStatus]:
    from runner.commands.status import status

    found = status(manifests, environ=dict(os.environ), cwd=here())
    if not found:
        say("nothing was run here yet")
    return found


def drawn(found: Sequence[ManifestStatus]) -> RenderableType:
    """All manifests, one section below the other."""
    parts: list[RenderableType] = []
    for one in found:
        if parts:
            parts.append(Text(""))
        parts += _section(section(one))
    return Group(*parts)


def _section(shown: Section) -> list[RenderableType]:
    title = Text(shown.title, style="bold").append(f"  {shown.path}", style="dim")
    facts = [
        Text(f"  {label:<8} ", style="bold").append(text, style="default not bold")
        for label, text in shown.facts
    ]
    parts: list[RenderableType] = [title, *facts]
    if shown.batches:
        parts.append(_table(shown))
    return parts + [Text(f"  {note}", style="yellow") for note in shown.notes]


def _table(shown: Section) -> Table:
    table = Table(box=None, pad_edge=True, padding=(0, 1), header_style="dim", show_edge=False)
    for column, head in enumerate(HEAD):
        justify = "right" if column in RIGHT else "left"
        table.add_column(head, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for cells in shown.batches:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    return table
