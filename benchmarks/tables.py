"""Tables as text, in Markdown's form: what is printed can be put into a document as it is."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | float | int | None


@dataclass(slots=True)
class Table:
    """A title, the names of its columns, and rows of cells; `notes` follow below."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """One more row; missing cells stay empty."""
        self.rows.append(cells + (None,) * (len(self.columns) - len(cells)))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def __str__(self) -> str:
        texts = [self.columns, *(tuple(map(_shown, row)) for row in self.rows)]
        widths = [max(len(text[place]) for text in texts) for place in range(len(self.columns))]
        lines = [_line(text, widths, row) for row, text in enumerate(texts)]
        ruled = [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
        return "\n".join([f"## {self.title}", "", *ruled, *(f"\n{note}" for note in self.notes), ""])


def _line(texts: Sequence[str], widths: Sequence[int], row: int) -> str:
    first = texts[0].ljust(widths[0])
    rest = [
        text.rjust(width) if row else text.ljust(width)
        for text, width in zip(texts[1:], widths[1:], strict=True)
    ]
    return "| " + " | ".join([first, *rest]) + " |"


def _shown(cell: Cell) -> str:
    match cell:
        case None:
            return ""
        case str():
            return cell
        case int():
            return f"{cell:,}"
        case _ if cell >= 1_000:
            return f"{cell:,.0f}"
        case _ if cell >= 100:
            return f"{cell:.0f}"
        case _:
            return f"{cell:.2f}"


def machine() -> str:
    """What the figures were measured on."""
    return (
        f"{len(os.sched_getaffinity(0))} cores of {platform.machine()}, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}; "
        f"load before it began: {os.getloadavg()[0]:.1f}"
        if sys.platform == "linux"
        else f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"
    )
