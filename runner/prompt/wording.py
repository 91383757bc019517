"""What a template says, as part of what is said of it: on one line, in text that can be written, and short.

A template's names, texts and tags are a stranger's words: they may hold control characters, halves of
characters (`"\\ud800"`), or a hundred thousand letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from runner.errors import Mistake

MAX_MESSAGE_CHARACTERS = 500
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def readable(text: str) -> str:
    """At most MAX_MESSAGE_CHARACTERS; control characters as a blank, halves of characters as `\\ud800`."""
    text = _CONTROL.sub(" ", text).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else text[: MAX_MESSAGE_CHARACTERS - 3] + "..."


def readable_mistakes(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """The same mistakes; their places stay as they are, for people click on them."""
    return [
        Mistake(where=one.where, path=one.path, what=readable(one.what), hint=readable(one.hint))
        for one in mistakes
    ]
