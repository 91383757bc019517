"""Whatever is in the file: a manifest or an InputError, nothing else, in bounded time."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.model import Manifest
from runner.errors import InputError
from runner.manifest import load, load_what_stands
from tests.contract.manifest_factories import GOOD, make_project

MAX_SECONDS = 20

KEYS = st.sampled_from(
    [
        *("version", "name", "dataset", "path", "query", "key", "prompt", "template", "params", "model"),
        *("provider", "base_url", "api_key_env", "upstream", "poll_interval_s", "parameters", "batch"),
        *("max_file_bytes", "completion_window", "output", "schema", "retry", "attempts"),
        *("allow_failures", "budget", "extends", "profiles"),
    ]
)
SCALARS = st.one_of(
    st.sampled_from(
        ["1", "", "null", "~", "no", "0o7", ".nan", "1e999", "${X}", "'${X:-}'", "$${", "triage.j2"]
    ),
    st.sampled_from(
        ["90MB", "0.5%", "24h", "local", "m.yaml", "http://[", "https://x:99999", "a.csv", "*", "'\\0'"]
    ),
    st.text(max_size=12).map(lambda text: repr(text)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.dictionaries(KEYS, inner, max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        ),
    ),
    max_leaves=8,
)


def outcome(data: bytes, **options: object) -> Manifest | InputError:
    """What load makes of a file; it may take a few seconds and no longer."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_project(Path(folder))
        path.write_bytes(data)
        begun = time.monotonic()
        result = _loaded(path, options)
        assert time.monotonic() - begun < MAX_SECONDS
    if isinstance(result, InputError):
        assert result.mistakes
        assert str(result).encode()
    return result


def _loaded(path: Path, options: dict[str, object]) -> Manifest | InputError:
    """Also: what stands of a wrong manifest is a manifest too, and its mistakes are the same."""
    result: Manifest | InputError
    try:
        result = load(path, environ={"X": "5"}, **options)  # type: ignore[arg-type]
    except InputError as error:
        result = error
    try:
        stands, mistakes = load_what_stands(path, environ={"X": "5"}, **options)  # type: ignore[arg-type]
    except InputError as error:
        stands, mistakes = None, list(error.mistakes)
    if isinstance(result, InputError):
        assert isinstance(stands, Manifest | None)
        assert mistakes == list(result.mistakes)
    else:
        assert (stands, mistakes) == (result, [])
    return result


@settings(max_examples=150)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_a_mistake(data: bytes) -> None:
    assert isinstance(outcome(data), Manifest | InputError)


@settings(max_examples=150)
@given(st.text(alphabet="ab:-[]{}'\"\n\t #&*!|>%@?,<~$\\0.\ufeff\x85\u2028é", max_size=80))
def test_any_signs_of_yaml_are_a_manifest_or_a_mistake(text: str) -> None:
    assert isinstance(outcome(text.encode()), Manifest | InputError)


@settings(max_examples=200)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=4))
def test_any_values_in_any_keys_are_a_manifest_or_a_mistake(pairs: list[tuple[str, str]]) -> None:
    text = GOOD + "".join(f"{key}: {value}\n" for key, value in pairs)
    assert isinstance(outcome(text.encode("utf-8", "surrogatepass")), Manifest | InputError)


SETS = st.tuples(KEYS, KEYS, VALUES).map(lambda parts: f"{parts[0]}.{parts[1]}={parts[2]}")


@settings(max_examples=150)
@given(st.lists(st.one_of(st.text(max_size=20), SETS), max_size=3), st.none() | st.text(max_size=8))
def test_any_options_are_a_manifest_or_a_mistake(set_values: list[str], profile: str | None) -> None:
    assert isinstance(outcome(GOOD.encode(), set_values=set_values, profile=profile), Manifest | InputError)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 999_000,
        "? " * 499_000,
        "a: |\n" + "  x\n" * 240_000,
        "".join(f"a{index}: 1\n" for index in range(80_000)),
        "a: 'sk-" + "_" * 900_000 + "'",
        "dataset: {path: '" + "*a" * 2000 + "'}\noutput: {path: '" + "a" * 4000 + ".csv'}",
    ],
    ids=["depth", "keys-of-keys", "lines", "many-keys", "long-text", "glob"],
)
def test_hostile_files_end_soon(text: str) -> None:
    assert isinstance(outcome(text.encode()), InputError)
