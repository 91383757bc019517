"""A project that is edited, and the model of what its runs should send.

The model is as simple as can be: what a row renders to is a Python function, a request is its server and
its body, and every request that was ever asked is in a set. It shares no code with the runner: bodies are
encoded with the standard library, keys of rows without a key column are the rows themselves.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hypothesis import strategies as st

MANIFESTS = ("a", "b")
"""Two manifests of one project; their rows come from the same few texts, so that they overlap."""


class Row(NamedTuple):
    """One line of the dataset."""

    id: str
    text: str
    note: str


class Request(NamedTuple):
    """What is paid for once: a body, sent to a server."""

    server: int
    body_sha256: str


@dataclass(frozen=True)
class Template:
    """A template, and what it means: the system message (None: no such message) and the user message."""

    source: str
    system: str | None
    user: Callable[[Row, str], str]


TEMPLATES = {
    "plain": Template("{{ text }}", None, lambda row, tone: row.text),
    "system": Template(
        "{% block system %}Be brief.{% endblock %}{% block user %}{{ text }}{% endblock %}",
        "Be brief.",
        lambda row, tone: row.text,
    ),
    "tone": Template("{{ params.tone }}: {{ text }}", None, lambda row, tone: f"{tone}: {row.text}"),
    "note": Template("{{ text }} ({{ note }})", None, lambda row, tone: f"{row.text} ({row.note})"),
    "id": Template("{{ id }} {{ text }}", None, lambda row, tone: f"{row.id} {row.text}"),
}
TEXTS = (
    *("alpha", "beta", "gamma", 'naïve "quoted" 例', "007", "2024-01-01"),
    *("", "x [[local:fail 400]]", "x [[local:refuse]]"),
)
NOTES = ("one", "two")
TONES = ("plain", "formal")
MODELS = ("m", "n")
TEMPERATURES = (0, 0.5)
SCHEMAS: tuple[dict[str, Any] | None, ...] = (
    None,
    {
        "type": "object",
        "additionalProperties": False,
        "required": ["kind"],
        "properties": {"kind": {"enum": ["x", "y"]}},
    },
    {
        "type": "object",
        "additionalProperties": False,
        "required": ["kind", "count"],
        "properties": {"kind": {"enum": ["x", "y", "z"]}, "count": {"type": "integer"}},
    },
)


@dataclass(frozen=True)
class Settings:
    """Everything a person can edit about one manifest. `server` is 0 or 1, `schema` a place in SCHEMAS."""

    rows: tuple[Row, ...] = tuple(Row(f"k{place}", text, "one") for place, text in enumerate(TEXTS[:3]))
    template: str = "plain"
    tone: str = "plain"
    model: str = "m"
    temperature: float = 0
    schema: int = 0
    has_key: bool = True
    server: int = 0
    max_requests_per_file: int | None = None
    completion_window: str = "24h"

    # ------------------------------------------------------------ the model

    def request(self, row: Row) -> Request | None:
        """The request of a row; None where there is nothing to ask."""
        template = TEMPLATES[self.template]
        user = template.user(row, self.tone).strip()  # space around a message is not sent
        if not user:
            return None
        messages = [{"role": "user", "content": user}]
        if template.system is not None:
            messages.insert(0, {"role": "system", "content": template.system})
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "max_tokens": 50,
        }
        schema = SCHEMAS[self.schema]
        if schema is not None:
            wanted = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        data = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        return Request(self.server, sha256(data).hexdigest())

    def keyed(self) -> dict[object, Request | None]:
        """Every row's request under the row's key; without a key column, its content and occurrence."""
        seen: Counter[Row] = Counter()
        keyed: dict[object, Request | None] = {}
        for row in self.rows:
            seen[row] += 1
            keyed[row.id if self.has_key else (row, seen[row])] = self.request(row)
        return keyed

    def wanted(self) -> frozenset[Request]:
        """The distinct requests of all rows."""
        return frozenset(found for row in self.rows if (found := self.request(row)) is not None)

    def failing(self) -> int:
        """How many rows ask for what the server refuses for good."""
        return sum(self.request(row) is not None and "fail 400" in row.text for row in self.rows)

    # ------------------------------------------------------------ the files

    def write(self, folder: Path, name: str, addresses: tuple[str, ...]) -> Path:
        """Dataset, template, schema and manifest `name` in `folder`; the manifest's path."""
        lines = [json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in self.rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
        (folder / f"{name}.j2").write_text(TEMPLATES[self.template].source)
        output = {"path": f"{name}-results.jsonl"}
        if SCHEMAS[self.schema] is not None:
            (folder / f"{name}-schema.json").write_text(json.dumps(SCHEMAS[self.schema]))
            output["schema"] = f"{name}-schema.json"
        manifest = {
            "version": 1,
            "dataset": {"path": f"{name}.jsonl"} | ({"key": "id"} if self.has_key else {}),
            "prompt": {"template": f"{name}.j2", "params": {"tone": self.tone}},
            "model": {
                "provider": self._provider(addresses),
                "name": self.model,
                "parameters": {"temperature": self.temperature, "max_tokens": 50},
            },
            "batch": {"completion_window": self.completion_window}
            | ({"max_requests_per_file": self.max_requests_per_file} if self.max_requests_per_file else {}),
            "output": output,
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(manifest, sort_keys=False))
        return path

    def _provider(self, addresses: tuple[str, ...]) -> Mapping[str, object]:
        """The first server is driven as the hosted service is, the second as an unknown one."""
        known = {"name": "doubleword"} if self.server == 0 else {}
        return {
            **known,
            "base_url": addresses[self.server],
            "api_key_env": "TEST_KEY",
            "poll_interval_s": 0.02,
            "settle_s": 0.5,
        }


# ---------------------------------------------------------------- edits


class Edit(NamedTuple):
    """One edit of a manifest: what kind, and with what."""

    kind: str
    value: Any = None
    place: int = 0


_PLACES = st.integers(0, 7)
_FIRST = st.just(0)


def _edits(kind: str, values: st.SearchStrategy[Any], places: st.SearchStrategy[int] = _FIRST) -> Any:
    return st.builds(Edit, st.just(kind), values, places)


EDITS = st.one_of(
    _edits("add", st.tuples(st.sampled_from(TEXTS), st.sampled_from(NOTES)), _PLACES),
    _edits("change text", st.sampled_from(TEXTS), _PLACES),
    _edits("change note", st.sampled_from(NOTES), _PLACES),
    _edits("remove", st.none(), _PLACES),
    _edits("duplicate", st.none(), _PLACES),
    _edits("copy", st.none(), _PLACES),
    _edits("reorder", st.integers(0, 99)),
    _edits("template", st.sampled_from(sorted(TEMPLATES))),
    _edits("tone", st.sampled_from(TONES)),
    _edits("model", st.sampled_from(MODELS)),
    _edits("temperature", st.sampled_from(TEMPERATURES)),
    _edits("schema", st.integers(0, len(SCHEMAS) - 1)),
    _edits("has_key", st.booleans()),
    _edits("server", st.integers(0, 1)),
    _edits("max_requests_per_file", st.sampled_from([None, 2, 3])),
    _edits("completion_window", st.sampled_from(["1h", "24h"])),
)


def edited(settings: Settings, edit: Edit) -> Settings:
    """The settings after an edit. One that makes no sense (a doubled key, no rows left) changes nothing."""
    rows = list(settings.rows)
    place = edit.place % len(rows)
    match edit.kind:
        case "add":
            rows.insert(place, Row(_free_id(rows), *edit.value))
        case "change text":
            rows[place] = rows[place]._replace(text=edit.value)
        case "change note":
            rows[place] = rows[place]._replace(note=edit.value)
        case "remove" if len(rows) > 1:
            del rows[place]
        case "duplicate":
            rows.append(rows[place]._replace(id=_free_id(rows)))
        case "copy":
            rows.append(rows[place])
        case "reorder":
            rows.sort(key=lambda row: sha256(f"{edit.value} {row}".encode()).digest())
        case _ if hasattr(settings, edit.kind):
            return _sound(settings, replace(settings, **{edit.kind: edit.value}))
    return _sound(settings, replace(settings, rows=tuple(rows)))


def _sound(before: Settings, after: Settings) -> Settings:
    ids = [row.id for row in after.rows]
    return before if after.has_key and len(set(ids)) < len(ids) else after


def _free_id(rows: list[Row]) -> str:
    taken = {row.id for row in rows}
    return next(name for number in range(len(rows) + 1) if (name := f"k{number}") not in taken)
