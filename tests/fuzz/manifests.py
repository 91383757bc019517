"""Manifests: signs of YAML, keys of the schema with odd values, good manifests made bad, bombs, options.

Each example is a folder (manifest, parent, template, answer schema) with `--set` and `--profile`. Judged:
the strict load and the one that goes on after mistakes agree, and every mistake has a place in one of the
files or options that were given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from runner.commands.options import ManifestOptions
from runner.commands.workplace import open_workplace, survey_workplace
from runner.errors import InputError, Mistake
from runner.manifest import answer_checker, schema
from tests.fuzz.mutation import in_odd_encoding, mutated, nested, shaken, some_scalar, some_text, some_value

PLAIN = """\
version: 1
dataset:
  path: data/tickets.csv   # rows
  key: [id, lang]
prompt:
  template: triage.j2
  params: &p {tone: "neutral", n: 3}
model:
  provider: local
  name: some-model
"""
FULL: dict[str, Any] = {
    "version": 1,
    "name": "ticket-triage",
    "description": "Route support tickets",
    "extends": "base.yaml",
    "dataset": {"path": ["a.csv", "b*.csv"], "query": "SELECT * FROM dataset", "key": "id"},
    "prompt": {"template": "triage.j2", "params": {"tone": "neutral", "list": [1, 2.5, None]}},
    "model": {
        "provider": {
            "name": "doubleword",
            "base_url": "https://llm.example.com/v1",
            "api_key_env": "SOME_KEY",
        },
        "name": "Qwen/Qwen3.5-9B",
        "endpoint": "/v1/chat/completions",
        "parameters": {"temperature": 0, "max_tokens": 200},
    },
    "batch": {"completion_window": "24h", "max_file_bytes": "90MB", "max_requests_per_file": 100},
    "output": {"schema": "answer.schema.json", "path": ["r.parquet", "r.csv"], "csv_safe": True},
    "retry": {"attempts": 3},
    "allow_failures": "0.5%",
    "repeats": 1,
    "budget": {"max_cost": 20},
    "profiles": {"prod": {"dataset": {"path": "${X:-a}/*.parquet"}}},
}
FULL_IN_BLOCKS = yaml.safe_dump(FULL, sort_keys=False).encode()
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"enum": ["a", "b"]}, "score": {"$ref": "#/$defs/score"}},
    "$defs": {"score": {"type": "number", "minimum": 0}},
    "required": ["label"],
    "additionalProperties": False,
}
SCHEMA_WORDS = (
    "$ref", "$defs", "$schema", "$id", "$anchor", "$dynamicRef", "type", "properties", "items", "enum",
    "pattern", "allOf", "anyOf", "not", "minimum", "patternProperties", "format", "multipleOf"
)  # fmt: skip
VALUES = (
    "1", "", "null", "~", "no", "0o7", ".nan", "-.inf", "1e999", "${X}", "'${X:-}'", "$${", "${X:?no}",
    "90MB", "0.5%", "24h", "local", "m.yaml", "http://[", "https://x:99999", "a.csv", "'\\0'",
    "2024-01-01", "12:30:45", "!!str 1", "&a 1", "*a", "|\n  x", "'", '"\\x', "sk-abcdefghijklmnop1234",
    "..", "/dev/zero", "- a", "? b", "9" * 30, "file:///etc/passwd", "0x" + "f" * 40, "1_000"
)  # fmt: skip
SIGNS = "ab:-[]{}'\"\n\n\t  #&*!|>%@?,<~$\\0.\ufeff\x85\u2028é"


def _keys(part: Any) -> set[str]:
    """Every key that the manifest's schema names."""
    found: set[str] = set()
    if isinstance(part, dict):
        found |= set(part.get("properties", {}))
        for inner in part.values():
            found |= _keys(inner)
    elif isinstance(part, list):
        for inner in part:
            found |= _keys(inner)
    return found


KEYS = sorted(_keys(schema()))


@dataclass(frozen=True)
class ManifestExample:
    """The files' bytes and the options."""

    manifest: bytes
    parent: bytes
    answer_schema: bytes
    set_values: tuple[str, ...]
    profile: str | None
    twice: bool


class Manifests:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "m.yaml"
        (folder / "triage.j2").write_text("{{ body }}")
        self._environ = {"X": "5", "EMPTY": "", "HOME": str(folder)}

    # ------------------------------------------------------------ making

    def make(self, random: Random) -> ManifestExample:
        """One of the ways to be bad, and now and then a bad parent or schema beside a good manifest."""
        parent, answer = b"version: 1\ndescription: base\n", json.dumps(ANSWER).encode()
        set_values: tuple[str, ...] = ()
        profile = None
        data = random.choice(_WAYS)(random)
        chance = random.random()
        if chance < 0.1:
            data, answer = json.dumps(FULL).encode(), _bad_schema(random)
        elif chance < 0.15:
            data, parent = json.dumps(FULL).encode(), random.choice(_WAYS)(random)
        elif chance < 0.3:
            data = random.choice((PLAIN.encode(), json.dumps(FULL).encode()))
            set_values = tuple(_set_value(random) for _ in range(random.randrange(1, 4)))
            profile = random.choice((None, "prod", some_text(random)))
        return ManifestExample(data, parent, answer, set_values, profile, random.random() < 0.25)

    # ------------------------------------------------------------ judging

    def judge(self, example: ManifestExample) -> str:
        """Accepted or refused; every fourth time twice, and in the same words."""
        self._path.write_bytes(example.manifest)
        (self._folder / "base.yaml").write_bytes(example.parent)
        (self._folder / "answer.schema.json").write_bytes(example.answer_schema)
        options = ManifestOptions(
            path=str(self._path), set_values=example.set_values, profile=example.profile
        )
        try:
            workplace = open_workplace(options, self._environ)
        except InputError as error:
            _check_mistakes(error.mistakes)
            if example.twice:
                self._check_survey(options, list(error.mistakes))
            return "refused"
        if example.twice:
            assert survey_workplace(options, self._environ) == (workplace, [])
        if workplace.manifest.output.schema is not None:
            check = answer_checker(workplace.manifest.output.schema)
            for answer in ('{"label": "a"}', "[]", '{"label":' * 200, "\ud800", "NaN"):
                assert isinstance(check(answer), str | None)
        return "accepted"

    def _check_survey(self, options: ManifestOptions, mistakes: list[Mistake]) -> None:
        try:
            _, found = survey_workplace(options, self._environ)
        except InputError as error:
            found = list(error.mistakes)
        assert found[: len(mistakes)] == mistakes


def _check_mistakes(mistakes: tuple[Mistake, ...]) -> None:
    assert mistakes
    for mistake in mistakes:
        assert mistake.where, mistake
        assert mistake.what, mistake
        text = str(mistake)
        assert len(text) < 3000, len(text)
        text.encode()
    assert len(mistakes) <= 1000, len(mistakes)


# ---------------------------------------------------------------- ways to be bad


def _signs(random: Random) -> bytes:
    return "".join(random.choice(SIGNS) for _ in range(random.randrange(80))).encode()


def _some_yaml(random: Random, depth: int) -> str:
    """A flow value; block values come from mutated texts."""
    match random.randrange(4) if depth else 0:
        case 1:
            return "[" + ", ".join(_some_yaml(random, depth - 1) for _ in range(random.randrange(4))) + "]"
        case 2:
            parts = (
                f"{random.choice(KEYS)}: {_some_yaml(random, depth - 1)}" for _ in range(random.randrange(4))
            )
            return "{" + ", ".join(parts) + "}"
        case 3:
            return json.dumps(some_text(random))
        case _:
            return random.choice(VALUES)


def _keys_added(random: Random) -> bytes:
    lines = (f"{random.choice(KEYS)}: {_some_yaml(random, 3)}\n" for _ in range(random.randrange(1, 4)))
    return (PLAIN + "".join(lines)).encode("utf-8", "surrogatepass")


def _full_changed(random: Random) -> bytes:
    """JSON is YAML: a good manifest with places changed."""
    value = mutated(random, FULL, KEYS)
    return json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


def _full_in_blocks(random: Random) -> bytes:
    return shaken(random, FULL_IN_BLOCKS)


def _plain_shaken(random: Random) -> bytes:
    return shaken(random, PLAIN.encode())


def _plain_respelt(random: Random) -> bytes:
    """One value of the good manifest replaced by another in the same place."""
    lines = PLAIN.splitlines()
    place = random.randrange(len(lines))
    key, _, _ = lines[place].partition(": ")
    lines[place] = f"{key}: {_some_yaml(random, 2)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _odd_encoding(random: Random) -> bytes:
    return in_odd_encoding(random, PLAIN + f"description: {random.choice(('é', 'x', '“'))}\n")


def _alias_bomb(random: Random) -> bytes:
    width, levels = random.randrange(2, 12), random.randrange(2, 15)
    lines = ["a0: &a0 [x, y]\n"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]\n")
    return ("prompt: {template: triage.j2, params: {\n" + ",".join(lines) + "}}\n").encode() + PLAIN.encode()


def _deep(random: Random) -> bytes:
    levels = random.choice((60, 64, 65, 200, 5_000))
    sign = random.choice(("[", "{a: ", "- ", "? ", "a:\n", "!!seq ["))
    if sign == "a:\n":
        return b"".join(b" " * level + b"a:\n" for level in range(min(levels, 300)))
    return (sign * levels).encode()


def _huge(random: Random) -> bytes:
    size = random.choice((100, 100, 2_000, 2_000, 12_000))
    return random.choice(
        (
            b"a: '" + b"x" * size * 80 + b"'\n",
            b"".join(b"k%d: 1\n" % number for number in range(size)),
            b"version: 1\n" * size,
            b"a: " + b"9" * size + b"\n",
            b"- x\n" * size,
            b"description: |\n" + b"  x\n" * size,
            PLAIN.encode() + b"#" * size * 80,
            b"dataset: {path: '" + b"*a" * size + b"'}\n",
            b"description: ${" + b"X:-${" * size + b"}" * size + b"\n",
            b"%YAML " + b"9" * size + b".1\n---\na: 1\n",
        )
    )


def _many_documents(random: Random) -> bytes:
    return random.choice((b"---\n", b"...\n", b"--- ", b"%TAG ! x\n---\n")).join([PLAIN.encode()] * 2)


def _any_bytes(random: Random) -> bytes:
    return random.randbytes(random.randrange(200))


def _valid(random: Random) -> bytes:
    return random.choice((PLAIN.encode(), json.dumps(FULL).encode()))


_WAYS: tuple[Callable[[Random], bytes], ...] = (
    *(_signs, _signs, _keys_added, _keys_added, _keys_added, _full_changed, _full_changed, _full_in_blocks),
    *(_plain_shaken, _plain_shaken, _plain_respelt, _plain_respelt, _odd_encoding, _alias_bomb, _deep),
    *(_many_documents, _any_bytes, _valid),
) * 6 + (_huge,)


def _bad_schema(random: Random) -> bytes:
    match random.randrange(4):
        case 0:
            return shaken(random, json.dumps(ANSWER).encode())
        case 1:
            return json.dumps({**ANSWER, random.choice(SCHEMA_WORDS): some_value(random)}).encode()
        case 2:
            levels = random.choice((10, 63, 64, 300, 1_000))
            return b'{"type":"object","not":' * levels + b"{}" + b"}" * levels
        case _:
            value = mutated(random, ANSWER, SCHEMA_WORDS)
            return json.dumps(value).encode()


def _set_value(random: Random) -> str:
    match random.randrange(4):
        case 0:
            return some_text(random)
        case 1:
            value = json.dumps(nested(random, random.choice((2, 70))))
        case 2:
            value = json.dumps(some_scalar(random))
        case _:
            value = _some_yaml(random, 2)
    path = ".".join(random.choice(KEYS) for _ in range(random.choice((1, 2, 2, 3, 20))))
    return f"{path}={value}"
