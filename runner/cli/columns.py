"""Cells in columns as a terminal counts them: wide letters take two places, cut texts end in `…`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len, set_cell_size

GAP = "  "


def cut(text: str, width: int) -> str:
    """At most `width` places."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)).rstrip() + "…" if width > 0 else ""


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Exactly `width` places, or more where the text is longer."""
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


def table(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Rows of cells as lines; columns as wide as their widest cell, those in `right` to the right.

    A column that is empty but for its head is left out.
    """
    if not rows:
        return []
    widths = [max(cell_len(row[place]) for row in rows) for place in range(len(rows[0]))]
    kept = [place for place in range(len(widths)) if any(row[place] for row in rows[1:]) or len(rows) == 1]
    return [
        GAP.join(padded(row[place], widths[place], right=place in right) for place in kept).rstrip()
        for row in rows
    ]


def width_of(lines: Sequence[str]) -> int:
    """The places of the longest line."""
    return max(map(cell_len, lines), default=0)
