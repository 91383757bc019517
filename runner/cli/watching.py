"""Status with colour on a terminal, once or again and again until nothing is under way."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.cli.signals import cursor_hidden_on
from runner.cli.status_text import HEAD, RIGHT, Section, is_over, section, status_text
from runner.cli.streams import say, stdout_width, write_out
from runner.cli.texts import here
from runner.errors import EXIT_DONE

if TYPE_CHECKING:
    from runner.commands.status import ManifestStatus

_ID, _SHORTEST_ID = HEAD.index("batch"), 8
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
    if stdout_width() is not None:
        console = stdout_console()
        console.print(drawn(found, console.width))
    else:
        write_out(status_text(found))


def watch_status(manifests: Sequence[str], *, every_s: float) -> int:
    """Until nothing is under way. Repainted in place on a terminal; in a pipe printed when it changed."""
    if stdout_width() is None:
        return _watch_plainly(manifests, every_s)
    found, console = _look(manifests), stdout_console()
    live = Live(drawn(found, console.width), console=console, auto_refresh=False, vertical_overflow="crop")
    with cursor_hidden_on(sys.stdout.fileno()), live:
        while not is_over(found):
            time.sleep(every_s)
            found = _look(manifests)
            live.update(drawn(found, console.width), refresh=True)
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


def drawn(found: Sequence[ManifestStatus], width: int) -> RenderableType:
    """All manifests, one section below the other."""
    parts: list[RenderableType] = []
    for one in found:
        if parts:
            parts.append(Text(""))
        parts += _section(section(one), width)
    return Group(*parts)


def _section(shown: Section, width: int) -> list[RenderableType]:
    title = Text(shown.title, style="bold").append(f"  {shown.path}", style="dim")
    facts = [
        Text(f"  {label:<8} ", style="bold").append(text, style="default not bold")
        for label, text in shown.facts
    ]
    parts: list[RenderableType] = [title, *facts]
    if shown.batches:
        parts.append(_table(shown, width))
    return parts + [Text(f"  {note}", style="yellow") for note in shown.notes]


def _table(shown: Section, width: int) -> Table:
    """The id gives way where the window is narrow; everything else keeps its width."""
    table = Table(box=None, pad_edge=True, padding=(0, 1), header_style="dim", show_edge=False)
    widths = [max(map(len, cells)) for cells in zip(HEAD, *shown.batches, strict=True)]
    others = sum(widths) + 2 * len(widths) - widths[_ID]
    widths[_ID] = max(min(widths[_ID], width - others), _SHORTEST_ID)
    for column, head in enumerate(HEAD):
        justify: JustifyMethod = "right" if column in RIGHT else "left"
        table.add_column(head, justify=justify, no_wrap=True, overflow="ellipsis", width=widths[column])
    for cells in shown.batches:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    return table
