"""What is done to good bytes and good values to make them bad."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

ODD_TEXTS = (
    *(
        "",
        " ",
        "\0",
        "\ufeff",
        "\u2028",
        "\x85",
        "\x1b[31m\x1b]0;x\x07",
        "\u202e",
        "é",
        "😀",
        "\ud800",
        "null",
    ),
    *("true", "NaN", "1e999", "-0", "00", "0x1f", "../../etc/passwd", "/etc/passwd", "a/b", "${X}", "$$"),
    *("{{ x }}", "'; DROP TABLE request; --", "%s%n", "a" * 300, "<html>", "{}", "[]", "\r\n", "\n"),
)
ODD_NUMBERS = (
    *(0, -1, 1, 255, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30),
    *(0.5, -0.0, 1e308, 5e-324, 1e-7),
)
ODD_BYTES = (
    *(
        b"\0",
        b"\xff",
        b"\xfe\xff",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xe2\x80\xa8",
        b"\r",
        b"\n",
    ),
    *(
        b'"',
        b"'",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\t",
        b"\x1a",
        b"\x1b[2J",
        b"\\u0000",
        b"\\ud800",
    ),
    *(
        b"NaN",
        b"Infinity",
        b"1e999",
        b"9" * 400,
        b"null",
        b"*a",
        b"&a ",
        b"<<: ",
        b"!!python/object:os.system ",
    ),
)


def some_text(random: Random) -> str:
    """A text that somebody might choose to do harm with, or a short one without meaning."""
    if random.random() < 0.6:
        return random.choice(ODD_TEXTS)
    return "".join(
        chr(random.choice((0x20, 0x41, 0xE9, 0x2028, 0x1F600, 9, 10))) for _ in range(random.randrange(8))
    )


def some_scalar(random: Random) -> Any:
    """A JSON scalar of any type."""
    return random.choice(
        (None, True, False, some_text(random), random.choice(ODD_NUMBERS), random.randrange(-9, 99))
    )


def some_value(random: Random, depth: int = 3) -> Any:
    """A JSON value of any shape."""
    match random.randrange(6) if depth else 0:
        case 4:
            return [some_value(random, depth - 1) for _ in range(random.randrange(4))]
        case 5:
            return {some_text(random): some_value(random, depth - 1) for _ in range(random.randrange(4))}
        case _:
            return some_scalar(random)


def nested(random: Random, levels: int) -> Any:
    """A value so many levels deep."""
    value: Any = some_scalar(random)
    in_list = random.random() < 0.5
    for _ in range(levels):
        value = [value] if in_list else {"a": value}
    return value


# ---------------------------------------------------------------- values


def mutated(random: Random, value: Any, words: Sequence[str] = ()) -> Any:
    """A copy of a JSON value, with one to three places changed. `words` are keys that mean something."""
    value = json.loads(json.dumps(value))
    for _ in range(random.choice((1, 1, 2, 3))):
        value = _changed(random, value, words)
    return value


def _changed(random: Random, value: Any, words: Sequence[str]) -> Any:
    holders: list[Any] = []
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict | list) and item:
            holders.append(item)
            stack.extend(item.values() if isinstance(item, dict) else item)
    if not holders or random.random() < 0.02:
        return some_value(random)
    holder = random.choice(holders)
    place = random.choice(list(holder)) if isinstance(holder, dict) else random.randrange(len(holder))
    _change_place(random, holder, place, words)
    return value


def _change_place(random: Random, holder: Any, place: Any, words: Sequence[str]) -> None:
    held = holder[place]
    match random.randrange(10):
        case 0 | 1 | 2:
            holder[place] = some_scalar(random)
        case 3:
            holder[place] = some_value(random)
        case 4:
            del holder[place]
        case 5:
            holder[place] = [held]
        case 6:
            holder[place] = {random.choice((*words, "a")): held}
        case 7:
            holder[place] = json.dumps(held)
        case 8 if isinstance(holder, dict):
            holder[random.choice(words) if words else some_text(random)] = random.choice(
                (held, some_value(random))
            )
        case _:
            holder[place] = nested(random, random.choice((3, 100, 250, 300)))


# ---------------------------------------------------------------- bytes


def shaken(random: Random, data: bytes) -> bytes:
    """Bytes with one to four cuts, flips, repetitions or insertions."""
    for _ in range(random.choice((1, 1, 2, 4))):
        data = random.choice(_SHAKES)(random, data)
    return data


def _flip(random: Random, data: bytes) -> bytes:
    if not data:
        return data
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]


def _cut(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _drop(random: Random, data: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + data[start + random.randrange(1, 12) :]


def _insert(random: Random, data: bytes) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[:place] + random.choice(ODD_BYTES) * random.choice((1, 1, 1, 50)) + data[place:]


def _repeat(random: Random, data: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    end = start + random.randrange(1, 40)
    return data[:end] + data[start:end] * random.choice((1, 2, 9)) + data[end:]


def _replace_byte(random: Random, data: bytes) -> bytes:
    if not data:
        return data
    place = random.randrange(len(data))
    return data[:place] + random.choice(ODD_BYTES)[:1] + data[place + 1 :]


_SHAKES: tuple[Callable[[Random, bytes], bytes], ...] = (_flip, _cut, _drop, _insert, _repeat, _replace_byte)


def in_odd_encoding(random: Random, text: str) -> bytes:
    """Text as an editor of another world would save it."""
    codec = random.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp1252", "utf-7"))
    return text.encode(codec, "replace")
