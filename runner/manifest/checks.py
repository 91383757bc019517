"""What the schema can't say: files that must exist, addresses, limits, and values that don't go together.

Every check takes the document as it is, right or wrong, and looks only at values of the type it is
about; the schema has already spoken about the others. Nothing here needs the network or the dataset.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runner.core import due
from runner.core.model import Position, ScheduleSettings
from runner.core.raising import TOKEN_LIMITS
from runner.manifest.answer_schema import BadAnswerSchemaError, read_answer_schema
from runner.manifest.findings import Findings, dotted, shown
from runner.manifest.nodes import ListNode, MapNode, Node, ScalarNode, find, plain, positions, walk
from runner.manifest.nodes import Path as NodePath
from runner.manifest.paths import absolute, file_trouble, matches_glob, path_trouble, shown_path
from runner.manifest.scalars import duration_s, percent_share, size_bytes

MAX_POLL_INTERVAL_S = 86_400
MAX_PAUSE_S = 86_400
_MAX_BYTES = 2**53
_LITERAL_KEY = re.compile(
    r"(?:^|[\s\"'=:])(?:"
    r"(?:sk|dw|xai)-[\w-]{0,20}(?=[A-Za-z0-9]{0,60}[0-9])[A-Za-z0-9]{16}"
    r"|(?:hf|gsk|ghp)_(?=[A-Za-z0-9]{0,60}[0-9])[A-Za-z0-9]{30}"
    r"|Bearer\s{1,9}\S{8})"
)
_KEY_AS_NAME = re.compile(r"(?=[A-Za-z]*[0-9])(?=[A-Z0-9]*[a-z])[A-Za-z0-9]{20,}")
"""A key that would pass for a variable's name; names of variables have underscores or no small letters."""
_ADDRESS_HINT = "put it into an environment variable, and write that variable's name here"
_SIZES = (
    ("model", "provider", "max_file_bytes"),
    ("model", "provider", "max_body_bytes"),
    ("batch", "max_file_bytes"),
)


def check_meaning(root: MapNode, findings: Findings) -> dict[str, Any] | None:
    """Note everything that is wrong beyond the schema. Returns the document of `output.schema`, if any."""
    checks = _Checks(root, findings)
    checks.run_dataset()
    checks.run_template()
    checks.run_provider()
    checks.run_quantities()
    checks.run_outputs()
    checks.run_parameters()
    checks.run_retries()
    checks.run_schedule()
    return checks.run_answer_schema()


def check_literal_keys(root: MapNode, findings: Findings) -> None:
    """Note each key that stands in the manifest itself, before another message could show it; and an
    address to notify, which holds a key more often than not."""
    hint = "put it into an environment variable, and write that variable's name as api_key_env"
    for path, position, node in walk(root):
        text = node.value if isinstance(node, ScalarNode) else None
        if not isinstance(text, str):
            continue
        if _LITERAL_KEY.search(text) or (path[-1] == "api_key_env" and _KEY_AS_NAME.fullmatch(text)):
            findings.add(position, "looks like an API key", path=dotted(path), hint=hint)
        elif path[-2:] == ("notify", "url_env") and ("/" in text or ":" in text):
            what = "is an address, and that is a secret"
            findings.add(position, what, path=dotted(path), hint=_ADDRESS_HINT)


class _Checks:
    def __init__(self, root: MapNode, findings: Findings) -> None:
        self._root = root
        self._findings = findings
        self._positions = positions(root)

    # ------------------------------------------------------------ access

    def _text(self, *path: str | int) -> str | None:
        """The text at a path, None where there is something else or the schema has complained."""
        node = find(self._root, path)
        is_text = isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value
        return str(node.value) if is_text and not self._findings.has(dotted(path)) else None  # type: ignore[union-attr]

    def _texts(self, *path: str) -> Iterator[tuple[NodePath, ScalarNode, str]]:
        """The texts of a value that is one text or a list of them."""
        node = find(self._root, path) if not self._findings.has(dotted(path)) else None
        each: list[tuple[NodePath, Node | None]] = [(path, node)]
        if isinstance(node, ListNode):
            each = [((*path, index), item) for index, item in enumerate(node.items)]
        for place, item in each:
            if isinstance(item, ScalarNode) and isinstance(item.value, str) and item.value:
                yield place, item, item.value

    def _place(self, path: NodePath) -> Position:
        return self._positions.get(dotted(path), self._root.position)

    def _add(self, path: NodePath, what: str, hint: str = "") -> None:
        if not self._findings.has(dotted(path)):
            self._findings.add(self._place(path), what, path=dotted(path), hint=hint)

    # ------------------------------------------------------------ files

    def run_dataset(self) -> None:
        for path, _, text in self._texts("dataset", "path"):
            trouble = path_trouble(text)
            if trouble:
                self._add(path, *trouble)
        query = self._text("dataset", "query")
        if query is not None and not query.strip():
            self._add(("dataset", "query"), "is empty", "write a value, or leave the key out")

    def run_template(self) -> None:
        self._file("prompt", "template")

    def _file(self, *path: str) -> str | None:
        """The absolute path of a file that a text names; None where there is no such file (noted)."""
        node, text = find(self._root, path), self._text(*path)
        if node is None or text is None:
            return None
        whole = absolute(text, node.folder)
        trouble = path_trouble(text) or file_trouble(whole)
        if trouble:
            self._add(path, *trouble)
            return None
        return whole

    def run_answer_schema(self) -> dict[str, Any] | None:
        path = self._file("output", "schema")
        if path is None:
            return None
        if self._text("model", "endpoint") == "/v1/embeddings":
            self._add(("output", "schema"), "embeddings have no text that a schema could describe")
        try:
            return read_answer_schema(path)
        except BadAnswerSchemaError as error:
            at = ("output", "schema")
            for mistake in error.mistakes if not self._findings.has(dotted(at)) else ():
                what = f"{shown_path(path)}{mistake.place}: {mistake.what}"
                self._findings.add(self._place(at), what, path=dotted(at), hint=mistake.hint)
            return None

    def run_outputs(self) -> None:
        seen: set[str] = set()
        for path, node, text in self._texts("output", "path"):
            whole = absolute(text, node.folder)
            trouble = path_trouble(text)
            if trouble:
                self._add(path, *trouble)
            elif whole in seen:
                self._add(path, "the same file twice")
            elif self._is_dataset(whole):
                self._add(path, "would overwrite the dataset", "choose another file")
            elif _is_folder(whole):
                self._add(path, f"{shown_path(whole)} is a folder")
            seen.add(whole)

    def _is_dataset(self, whole: str) -> bool:
        return any(
            matches_glob(whole, absolute(text, node.folder))
            for _, node, text in self._texts("dataset", "path")
        )

    # ------------------------------------------------------------ the provider

    def run_provider(self) -> None:
        here = ("model", "provider")
        node = find(self._root, here)
        if not isinstance(node, MapNode):
            return
        if node.get("name") is None and node.get("base_url") is None:
            self._add(here, "needs base_url (a server of your own) or name (a known server)")
        if node.get("upstream") is not None and self._text(*here, "name") != "local":
            self._add(
                (*here, "upstream"), "goes with name: local only", "another server is named by base_url"
            )
        for key in ("base_url", "upstream"):
            text = self._text(*here, key)
            trouble = _address_trouble(text, sends_key=self._sends_key(node)) if text is not None else None
            if trouble:
                self._add((*here, key), *trouble)

    @staticmethod
    def _sends_key(provider: MapNode) -> bool:
        """Known servers other than `local` have a key variable of their own."""
        name = provider.get("name")
        is_local = name is None or plain(name) == "local"
        return provider.get("api_key_env") is not None or not is_local

    # ------------------------------------------------------------ values

    def run_quantities(self) -> None:
        for path in _SIZES:
            text = self._text(*path)
            if text is not None and not 1 <= size_bytes(text) <= _MAX_BYTES:
                self._add(path, f"'{shown(text)}' is out of range", "at least one byte")
        for name in ("poll_interval_s", "settle_s"):
            path = ("model", "provider", name)
            text = self._text(*path)
            if text is not None and not 0 < duration_s(text) <= MAX_POLL_INTERVAL_S:
                self._add(path, f"'{shown(text)}' is out of range", "more than 0 seconds, at most a day")
        share = self._text("allow_failures")
        if share is not None and share.endswith("%") and percent_share(share) > 1:
            self._add(("allow_failures",), f"'{shown(share)}' is out of range", "at most 100%")

    def run_parameters(self) -> None:
        """What would be paid and not be seen: answers beside the one that is shown, numbers in a form that is
        not read.

        The answer's schema is sent as a parameter of its own; two would contradict each other.
        """
        here = ("model", "parameters")
        path: NodePath = (*here, "response_format")
        if find(self._root, path) is not None and find(self._root, ("output", "schema")) is not None:
            self._add(path, "is set by output.schema", "leave one of the two out")
        answers = self._number(*here, "n")
        if answers is not None and answers > 1:
            what = f"{answers:g} answers to each request are paid, and the table holds the first alone"
            self._add((*here, "n"), what, f"leave it out and write repeats: {answers:g}")
        tried = self._number(*here, "best_of")
        if tried is not None and tried > 1:
            what = f"{tried:g} answers to each request are paid, and the server shows no more than the best"
            self._add((*here, "best_of"), what, f"leave it out, or see them all with repeats: {tried:g}")
        if self._text(*here, "encoding_format") == "base64":
            hint = "leave it out; the table holds lists of numbers"
            self._add((*here, "encoding_format"), "embeddings in base64 are not read", hint)

    def run_retries(self) -> None:
        """A wait has bounds; a limit that is to be raised must be there, and below its ceiling."""
        here = ("retry", "backoff")
        waits = {name: self._seconds(*here, name) for name in ("initial", "max")}
        for name, wait in waits.items():
            if wait is not None and wait > MAX_PAUSE_S:
                text = shown(self._text(*here, name) or f"{wait:g}")
                self._add((*here, name), f"'{text}' is out of range", "at most a day")
        if waits["initial"] is not None and waits["max"] is not None and waits["initial"] > waits["max"]:
            self._add((*here, "initial"), "is more than max", "the first wait is the shortest")
        self._check_raising()

    def _check_raising(self) -> None:
        root = find(self._root, ("on_truncated",))
        if root is None or self._findings.has("on_truncated"):
            return
        names = TOKEN_LIMITS.get(self._text("model", "endpoint") or "/v1/chat/completions", ())
        if not names:
            self._add(("on_truncated",), "embeddings have no token limit", "leave on_truncated out")
            return
        limits = {
            name: number
            for name in names
            if (number := self._number("model", "parameters", name)) is not None
        }
        if not limits:
            what = f"needs {' or '.join(names)} in model.parameters: the limit that is to be raised"
            self._add(("on_truncated",), what)
        ceiling = self._number("on_truncated", "ceiling")
        for name, number in limits.items():
            if ceiling is not None and ceiling <= number:
                what = f"is not above model.parameters.{name}, which is {number:g}"
                self._add(("on_truncated", "ceiling"), what, "write a larger ceiling")

    def run_schedule(self) -> None:
        """The expression by the parser that will read it, the zone by the database that will know it."""
        cron, zone = self._text("schedule", "cron"), self._text("schedule", "timezone")
        if cron is not None and (trouble := _cron_trouble(cron)):
            self._add(("schedule", "cron"), *trouble)
        if zone is not None and (trouble := _timezone_trouble(zone)):
            self._add(("schedule", "timezone"), *trouble)
        within = self._text("schedule", "start_within")
        if within is not None and not duration_s(within):
            self._add(("schedule", "start_within"), f"'{shown(within)}' is out of range", "at least 1s")
        self._check_jitter(cron)

    def _check_jitter(self, cron: str | None) -> None:
        """Jitter as long as the time between two due times would have one overtake the other."""
        jitter = self._text("schedule", "jitter")
        if cron is None or jitter is None or self._findings.has("schedule.cron"):
            return
        gap_s = due.shortest_gap_s(ScheduleSettings(cron=cron))
        if duration_s(jitter) >= gap_s:
            what = f"'{shown(jitter)}' is not shorter than the time between two due times"
            self._add(("schedule", "jitter"), what, f"less than {gap_s / 60:g} minutes")

    def _number(self, *path: str) -> float | None:
        node = find(self._root, path)
        value = node.value if isinstance(node, ScalarNode) and not self._findings.has(dotted(path)) else None
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def _seconds(self, *path: str) -> float | None:
        text = self._text(*path)
        return duration_s(text) if text is not None else self._number(*path)


def _cron_trouble(text: str) -> tuple[str, str] | None:
    """What is wrong with a cron expression, and a hint."""
    try:
        due.check_cron(text)
    except due.BadCronError as error:
        fields = "minute, hour, day of the month, month, day of the week, such as 17 2 * * 1-5"
        what = "says something else than it seems to" if error.hint else "is no cron expression"
        return f"'{shown(text)}' {what}: {error}", error.hint or fields
    return None


def _timezone_trouble(name: str) -> tuple[str, str] | None:
    """What is wrong with a time zone, and names like it."""
    try:
        due.check_timezone(name)
    except due.BadTimezoneError as error:
        near = " or ".join(f"'{zone}'" for zone in error.near)
        hint = f"did you mean {near}?" if near else "write an IANA name such as Europe/London, or UTC"
        return f"'{shown(name)}' {error}", hint
    return None


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _address_trouble(text: str, *, sends_key: bool) -> tuple[str, str] | None:
    """What is wrong with a server's address, and a hint. The text is not shown: it may hold a password."""
    example = "such as https://llm.example.com/v1"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is not an address", example
    if (
        parts.scheme not in ("http", "https")
        or not host
        or port == 0
        or not text.isprintable()
        or " " in text
    ):
        return "is not an http(s) address", example
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        return "holds a user name or password", "name the key's variable in api_key_env instead"
    if parts.query or parts.fragment:
        return "holds '?' or '#'", f"write where the API begins, {example}"
    if parts.scheme == "http" and sends_key and not _is_loopback(host):
        return (
            "would send the API key unencrypted",
            "use https, or leave api_key_env out where no key is needed",
        )
    return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
