"""One word of a command, written so that each scheduler's file hands over exactly that word.

    cron          sh's quotes, then `%` as `\\%`: a bare one ends cron's command
    systemd       double quotes; `%` and `$` doubled: they begin specifiers and variables
    yaml          JSON's quotes, which are YAML's; printable text stays as it is
    github        YAML, and `${{` as an expression that gives `${{`
    python        a literal

Pure. The words are printable (`emitting` refuses others), so no line ends within one.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from runner.core.wire import encode_json

MAX_CRON_COMMAND = 990
"""Debian's cron takes commands of at most 998 characters and cuts longer ones without a word."""


def cron_command(command: str) -> str:
    """A command for sh, as a crontab's line holds it.

    cron takes a backslash before `%` away, and passes over the character behind any other backslash. So one
    that stands right before a `%` of the command itself is parted from it by an empty pair of quotes.
    """
    return command.replace("\\%", "\\''%").replace("%", "\\%")


def shell(words: Sequence[str]) -> str:
    """A command line of sh."""
    return shlex.join(words)


def systemd(words: Sequence[str]) -> str:
    """`ExecStart=` (systemd.service(5)). The program is no place for variables: a `$` in it stays single."""
    program, *arguments = words
    quoted = [_systemd_word(program)]
    return " ".join([*quoted, *(_systemd_word(word.replace("$", "$$")) for word in arguments)])


def _systemd_word(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def yaml(text: str) -> str:
    """A text as a YAML scalar."""
    return encode_json(text).decode()


def yaml_list(words: Sequence[str]) -> str:
    """Texts as a YAML list, in its short form."""
    return encode_json(list(words)).decode()


def github(text: str) -> str:
    """A text as a YAML scalar of a workflow, where `${{` begins an expression."""
    return yaml(text.replace("${{", "${{ '${{' }}"))


def python(value: object) -> str:
    """A Python literal."""
    return repr(value)
