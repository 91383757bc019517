"""YAML text to nodes: the strict reader, and the only place that knows PyYAML.

It takes PyYAML's parser events and builds nodes itself, so that every key and value keeps its place and
nothing is decided by YAML 1.1: no tags, no merge keys, no duplicate keys, one document, scalars by
`scalars.read_plain`. The parser works event by event, so the bounds below stop a hostile file early:
a file of 1 MB, 64 levels, 10,000 keys and values with every alias counted as often as it is used.
Mistakes that leave a readable rest are noted and reading goes on; after the others there is no document.

libyaml reads twenty times as fast as PyYAML's own parser and is asked first, where both are known to agree:
the release that was compared, and texts without the signs on which they differ. What it refuses is read again
by the other: that one decides, and its words are those that people see.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from runner.core.model import Position
from runner.manifest.findings import Findings, dotted, shown
from runner.manifest.nodes import Entry, ListNode, MapNode, Node, Path, ScalarNode, Source
from runner.manifest.scalars import read_plain

MAX_FILE_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 64

_MAX_EVENTS = 2 * MAX_NODES + 4
"""A document of `MAX_NODES` has no more: a start and an end each, those of document and stream beside."""

_BAD_TEXT = re.compile("[\x00\ud800-\udfff]")
_COMPARED_LIBYAML = (0, 2, 6)
_READ_DIFFERENTLY = re.compile("[\t\ufeff]|[|>][0-9+-]*#|(?:^|[\n\r\x85\u2028\u2029])%")
"""libyaml takes tabs between tokens, and a comment right behind the sign of a block or a directive; PyYAML
does not. A byte order mark inside a text has no width for the one, and is no sign of an end for the other.
Directives libyaml compares with each other, every one with all before."""

_HINTS = (
    ("cannot start any token", "text that begins with a special character needs quotes"),
    ("mapping values are not allowed", "check the indentation, and quote text that holds ': '"),
    ("could not find expected ':'", "check that the line before is 'key: value'"),
    ("expected <block end>", "check the indentation: keys of one mapping begin in the same column"),
    ("expected ',' or", "a bracket that was opened is not closed, or a comma is missing"),
    ("unexpected end of stream", "a quote that was opened is not closed"),
)
_PLAIN_WORDS = (
    ("found character '\\t' that cannot start any token", "a tab where only spaces may stand"),
    (
        "expected <block end>, but found '<block mapping start>'",
        "a key is indented differently from the one before",
    ),
    ("expected <block end>, but found '-'", "a list item is indented differently from the one before"),
    (
        "expected <block end>, but found '<block sequence start>'",
        "a list is indented differently from what is before",
    ),
    ("<stream end>", "end of the file"),
    ("<block end>", "end of the block"),
    ("<block mapping start>", "a mapping"),
    ("<block sequence start>", "a list"),
    ("<scalar>", "a value"),
)
_MERGE_HINT = "use `extends`, `profiles`, or an alias for the whole value"


class _UnreadableError(Exception):
    """There is no document; the mistake was noted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Anchored:
    node: Node
    size: int


def read_bytes(data: bytes, source: Source, findings: Findings) -> Node | None:
    """UTF-8 bytes, with or without a byte order mark, as nodes; None where there is no document."""
    if len(data) > MAX_FILE_BYTES:
        findings.add(source.at(1, 1), f"larger than {MAX_FILE_BYTES:,} bytes", hint="is this a manifest?")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # With a byte order mark the codec counts from behind it.
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line_start = data.rfind(b"\n", 0, offset) + 1
        place = source.at(data.count(b"\n", 0, offset) + 1, offset - line_start + 1)
        findings.add(
            place, f"not UTF-8: byte 0x{data[offset]:02x} at offset {offset}", hint="save the file as UTF-8"
        )
        return None
    return read_text(text, source, findings)


def read_text(text: str, source: Source, findings: Findings, *, at: Path = ()) -> Node | None:
    """One YAML document as nodes; None where there is none (then a mistake was noted).

    `at` is the path that mistakes are noted at, for a text that is a part of a manifest.
    """
    try:
        return _Reader(text, source, findings, at).document()
    except _UnreadableError:
        return None


class _Parsed:
    """Events that are there already, behind the two methods of a parser."""

    def __init__(self, events: list[Any]) -> None:
        self._events: Iterator[Any] = iter(events)
        self._next = next(self._events)

    def peek_event(self) -> Any:
        return self._next

    def get_event(self) -> Any:
        found = self._next
        self._next = next(self._events, None)
        return found


def is_compared_libyaml() -> bool:
    """Whether PyYAML has libyaml, and the release that was compared: others may differ elsewhere."""
    return bool(yaml.__with_libyaml__) and yaml._yaml.get_version() == _COMPARED_LIBYAML


def _parsed_by_libyaml(text: str) -> _Parsed | None:
    """All events of a text that libyaml and PyYAML read alike; None where that is not sure."""
    if not is_compared_libyaml() or _READ_DIFFERENTLY.search(text):
        return None
    events: list[Any] = []
    try:
        parser = yaml.CSafeLoader(text)
        while parser.check_event():
            event = parser.get_event()
            if len(events) >= _MAX_EVENTS or _may_differ(event):
                return None
            events.append(event)
    except (yaml.YAMLError, ValueError, OverflowError):
        return None
    return _Parsed(events)


def _may_differ(event: Any) -> bool:
    """A tag, which is a mistake anyway; nothing where a value is due, which the two see in different places;
    a question mark, which PyYAML does not take inside a plain text between brackets."""
    is_plain = isinstance(event, yaml.ScalarEvent) and not event.style
    return (is_plain and (not event.value or "?" in event.value)) or getattr(event, "tag", None) is not None


class _Reader:
    def __init__(self, text: str, source: Source, findings: Findings, at: Path) -> None:
        self._source = source
        self._findings = findings
        self._anchors: dict[str, _Anchored | None] = {}  # None: begun and not yet ended
        self._path = at
        self._count = 0
        try:
            self._loader: Any = _parsed_by_libyaml(text) or yaml.SafeLoader(text)
        except yaml.reader.ReaderError as error:
            self._refuse_character(text, error)

    def document(self) -> Node:
        """The node of the only document."""
        self._next()  # the stream's start
        if isinstance(self._peek(), yaml.StreamEndEvent):
            self._stop(self._source.at(1, 1), "the file is empty")
        self._next()  # the document's start
        node = self._node(depth=0)
        self._next()  # the document's end
        rest = self._peek()
        if not isinstance(rest, yaml.StreamEndEvent):
            self._stop(self._place(rest.start_mark), "a second document begins here; only one is allowed")
        return node

    # ------------------------------------------------------------ events

    def _peek(self) -> Any:
        return self._guarded(self._loader.peek_event)

    def _next(self) -> Any:
        return self._guarded(self._loader.get_event)

    def _guarded(self, call: Any) -> Any:
        try:
            return call()
        except yaml.MarkedYAMLError as error:
            self._refuse_syntax(error)
        except (ValueError, OverflowError):
            # PyYAML lets these out of chr() and int() for "\UFFFFFFFF" and absurd %YAML versions.
            self._stop(self._place(self._loader.get_mark()), "not valid YAML: a number that is out of range")

    def _place(self, mark: Any) -> Position:
        return self._source.at(mark.line + 1, mark.column + 1)

    def _note(self, place: Position, what: str, hint: str = "") -> None:
        self._findings.add(place, what, path=dotted(self._path), hint=hint)

    def _stop(self, place: Position, what: str, hint: str = "") -> NoReturn:
        self._note(place, what, hint)
        raise _UnreadableError

    def _refuse_syntax(self, error: yaml.MarkedYAMLError) -> NoReturn:
        problem = error.problem or "it can't be read"
        hint = next((hint for part, hint in _HINTS if part in problem), "")
        if "'\\t'" in problem:
            hint = "indent with spaces"
        for word, ours in _PLAIN_WORDS:
            problem = problem.replace(word, ours)
        mark = error.problem_mark or error.context_mark
        begun = error.context_mark
        if begun and mark and begun.line != mark.line:
            problem += f" (in what begins at line {begun.line + 1})"
        self._path = ()  # the place says it better: the parser is ahead of the path
        place = self._place(mark) if mark else self._source.at(1, 1)
        self._stop(place, f"not valid YAML: {problem}", hint)

    def _refuse_character(self, text: str, error: yaml.reader.ReaderError) -> NoReturn:
        before = text[: error.position]
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character[:1] or "?")
        self._stop(
            self._source.at(line, column),
            f"the character U+{code:04X} is not allowed",
            'in text write it as an escape, such as "\\u0007"',
        )

    # ------------------------------------------------------------ nodes

    def _node(self, depth: int) -> Node:
        event = self._next()
        place = self._place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), place, depth)
        before = self._count
        self._spend(1, place)
        self._refuse_tag(event, place)
        if isinstance(event, yaml.ScalarEvent):
            node: Node = self._scalar(event, place)
        else:
            node = self._collection(event, place, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(node=node, size=self._count - before)
        return node

    def _spend(self, nodes: int, place: Position) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            self._stop(place, f"more than {MAX_NODES:,} keys and values, aliases expanded")

    def _alias(self, anchor: str, place: Position, depth: int) -> Node:
        if anchor not in self._anchors:
            self._stop(place, f"the alias *{shown(anchor)} has no anchor before it")
        anchored = self._anchors[anchor]
        if anchored is None:
            self._stop(place, f"the alias *{shown(anchor)} stands inside its own anchor")
        self._spend(anchored.size, place)
        if depth + anchored.node.height > MAX_DEPTH:
            self._stop(place, f"nested deeper than {MAX_DEPTH} levels")
        return anchored.node

    def _scalar(self, event: Any, place: Position) -> ScalarNode:
        is_plain = not event.style  # None with PyYAML's parser, "" with libyaml's
        value = read_plain(event.value) if is_plain else event.value
        self._check_text(event.value, place)
        if isinstance(value, float) and not math.isfinite(value):
            self._note(place, f"{shown(event.value)} is not a number that JSON can hold")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            self._note(place, f"{shown(event.value)} does not fit into 64 bits", "quotes make it text")
        return ScalarNode(value=value, position=place, folder=self._source.folder)

    def _check_text(self, text: str, place: Position) -> None:
        if _BAD_TEXT.search(text):
            self._note(place, "holds NUL or half of a surrogate pair, which can't be sent")

    def _refuse_tag(self, event: Any, place: Position) -> None:
        if event.tag is not None:
            tag = shown(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self._note(
                place, f"the tag {tag} is not allowed", "write the value without it; quotes make it text"
            )

    def _collection(self, event: Any, place: Position, depth: int) -> Node:
        if depth >= MAX_DEPTH:
            self._stop(place, f"nested deeper than {MAX_DEPTH} levels")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.MappingStartEvent):
            return self._map(place, depth)
        return self._list(place, depth)

    def _list(self, place: Position, depth: int) -> ListNode:
        items: list[Node] = []
        here = self._path
        while not isinstance(self._peek(), yaml.SequenceEndEvent):
            self._path = (*here, len(items))
            items.append(self._node(depth + 1))
        self._path = here
        self._next()
        height = 1 + max((item.height for item in items), default=0)
        return ListNode(items=tuple(items), position=place, folder=self._source.folder, height=height)

    def _map(self, place: Position, depth: int) -> MapNode:
        entries: dict[str, Entry] = {}
        here = self._path
        while not isinstance(self._peek(), yaml.MappingEndEvent):
            key_place = self._place(self._peek().start_mark)
            key = self._key(depth)
            self._path = (*here, key if key is not None else "?")
            value = self._node(depth + 1)
            if key is not None and key in entries:
                first = entries[key].position
                self._note(
                    key_place, "duplicate key", f"the first is at line {first.line}, column {first.column}"
                )
            elif key is not None:
                entries[key] = Entry(position=key_place, value=value)
            self._path = here
        self._next()
        height = 1 + max((entry.value.height for entry in entries.values()), default=0)
        return MapNode(entries=entries, position=place, folder=self._source.folder, height=height)

    def _key(self, depth: int) -> str | None:
        """A key as it is written (`1` and `true` too: JSON's keys are text), or None where it is none."""
        event = self._peek()
        place = self._place(event.start_mark)
        if not isinstance(event, yaml.ScalarEvent):
            self._note(place, "a key must be plain text")
            self._node(depth + 1)
            return None
        self._next()
        self._spend(1, place)
        self._refuse_tag(event, place)
        self._check_text(event.value, place)
        if event.anchor is not None:
            node = ScalarNode(value=event.value, position=place, folder=self._source.folder)
            self._anchors[event.anchor] = _Anchored(node=node, size=1)
        if not event.style and event.value == "<<":
            self._note(place, "merge keys (<<) are not supported", _MERGE_HINT)
            return None
        if not event.value:
            self._note(place, "a key is missing before ':'")
            return None
        return str(event.value)
