"""Small texts: cleaned words of others, counts, sizes, spans of time, money, paths.

Whatever a server, a dataset or a path brings is cleaned here before it reaches a terminal: escape
sequences, control characters and direction overrides could repaint the screen or hide a word.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from runner.core.planning import cost_text

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC, DCS and kin, to their end
    r"|\x1b[ -/]*[0-~]"
    r"|\x9b[0-?]*[ -/]*[@-~]",
    re.DOTALL,
)
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_JOINERS = "\u200c\u200d\u00ad"
"""Format characters that words of some scripts and emoji need; they can't reorder or hide text."""
MAX_CHARACTERS = 600


def clean(text: str, *, limit: int = MAX_CHARACTERS) -> str:
    """One line that is safe to show: no escapes, no control characters, at most `limit` characters."""
    visible = "".join(map(_shown, _ESCAPES.sub("", text[: limit * 4])))
    line = " ".join(visible.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def clean_lines(text: str) -> list[str]:
    """The lines of a text, each cleaned; empty ones left out."""
    return [line for line in map(clean, text.split("\n")) if line]


def clean_text(text: str) -> list[str]:
    """The lines of a longer text, safe to show, with their indentation and empty lines."""
    cleaned = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\t", "    "))
    return ["".join(map(_shown, line)).rstrip() for line in cleaned.split("\n")]


def _shown(character: str) -> str:
    if character in "\n\t\r\f\v":
        return " "
    if character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    return "\ufffd" if "\ud800" <= character <= "\udfff" else ""


def counted(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`, `3 batches`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}es" if noun.endswith("ch") else f"{number:,} {noun}s"


def compact(number: int) -> str:
    """Five places at most, below a trillion: `9,999` whole, then `123k`, `1.2M`, `3.4B`."""
    if number < 10_000:
        return f"{number:,}"
    units = ["k", "M", "B"]
    amount = number / 1000
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{amount:.1f}{units[0]}" if amount < 9.95 else f"{amount:.0f}{units[0]}"


def size(size_bytes: int) -> str:
    """Decimal units, as the provider's limits are stated: `142 kB`, `1.2 GB`."""
    amount = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 999.5 or (unit == "bytes" and amount < 1000):
            break
        amount /= 1000
    else:
        unit = "TB"
    if unit == "bytes":
        return "1 byte" if size_bytes == 1 else f"{size_bytes} bytes"
    return f"{amount:.1f} {unit}" if amount < 9.95 else f"{amount:.0f} {unit}"


def span(seconds: float) -> str:
    """A length of time, two units at most: `0.4 s`, `12 s`, `4m 10s`, `23h 41m`, `2d 3h`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 172_800:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600}h"


def time_left(seconds: float) -> str:
    """A countdown that does not twitch: minutes, then seconds under a minute."""
    if seconds <= 0:
        return "due"
    if seconds < 60:
        return f"{int(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds) // 60}m"
    return span(seconds)


def money(amount: float, currency: str | None) -> str:
    """`12.30 USD`, `0.0042 USD`."""
    figure = cost_text(amount)
    return f"{figure} {clean(currency)}" if currency else figure


def here() -> str:
    """The current folder; the root where it was deleted under us."""
    try:
        return str(Path.cwd())
    except OSError:
        return os.sep


def path_here(path: str, cwd: str) -> str:
    """The path as a person in `cwd` would type it: relative where that is shorter. Cleaned."""
    if not path.startswith(os.sep):
        return clean(path)
    relative = os.path.relpath(path, cwd)
    return clean(min(relative, path, key=len))
