"""Two parsers, one reading: what libyaml takes of a manifest is what PyYAML's own parser takes of it.

The wider comparison is `python -m tests.fuzz`: it judges manifests whichever parser read them.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.manifest import reading
from tests.fuzz.manifests import SIGNS, Manifests

GOOD = "version: 1\nmodel: {name: a, parameters: {stop: ['#', \"x\"]}}\ntext: |\n  a\n  b\n"


def facts(parser: Any) -> list[tuple[Any, ...]] | None:
    """All that the reader looks at, event by event; None where the text is refused.

    The ends of collections have no place in it: nobody looks at it.
    """
    found: list[tuple[Any, ...]] = []
    try:
        while (event := parser.peek_event()) is not None:
            event = parser.get_event()
            words = [getattr(event, name, None) for name in ("value", "anchor", "tag")]
            is_plain = isinstance(event, yaml.ScalarEvent) and not event.style
            is_end = isinstance(event, yaml.CollectionEndEvent | yaml.DocumentEndEvent | yaml.StreamEndEvent)
            place = None if is_end else (event.start_mark.line, event.start_mark.column)
            found.append((type(event), place, is_plain, *words))
    except (yaml.YAMLError, ValueError, OverflowError):
        return None
    return found


def by_pyyaml(text: str) -> list[tuple[Any, ...]] | None:
    """The same of PyYAML's own parser, which refuses some characters at once."""
    try:
        return facts(yaml.SafeLoader(text))
    except yaml.YAMLError:
        return None


def assert_alike(text: str) -> bool:
    """Whether libyaml read it; then both say the same."""
    parsed = reading._parsed_by_libyaml(text)
    if parsed is None:
        return False
    assert facts(parsed) == by_pyyaml(text)
    return True


@settings(max_examples=200)
@given(st.text(SIGNS + "\r", max_size=60))
@example("[a?b]")
@example("{a: b?c}")
@example("[a\n?b]")
@example("%YAML 1.1#c\n---\na")
@example("a: b\r\n'c': |+\r\n  d\r\n\r\n")
@example("a: |# no\n  b")
@example("a:\t1")
@example("? |\n  a\n: - b\n  - &c d\n")
@example("[a, b")
@example("\ud800")
def test_any_signs_of_yaml_are_read_alike(text: str) -> None:
    assert_alike(text)


def test_good_and_damaged_manifests_are_read_alike(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    read_by_libyaml = 0
    for seed in range(400):
        text = manifests.make(Random(seed)).manifest.decode("utf-8", "replace")
        read_by_libyaml += assert_alike(text)
    assert read_by_libyaml > 100 or not reading.is_compared_libyaml()


@pytest.mark.skipif(not reading.is_compared_libyaml(), reason="PyYAML has another libyaml, or none")
def test_a_usual_manifest_is_read_by_libyaml() -> None:
    assert assert_alike(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a:\tb", id="tab"),
        pytest.param("a: |#\n  b", id="comment"),
        pytest.param("a: 'b", id="mistake"),
        pytest.param("\ud800", id="surrogate"),
        pytest.param("- a\n" * (2 * reading.MAX_NODES + 9), id="long"),
        pytest.param("a:", id="missing"),
        pytest.param("!a b", id="tag"),
        pytest.param("[a?b]", id="question mark"),
        pytest.param("%TAG !a! x\n--- a", id="directive"),
        pytest.param("a\r%YAML 1.1\r--- b", id="later directive"),
    ],
)
def test_what_is_not_sure_is_left_to_pyyaml(text: str) -> None:
    assert reading._parsed_by_libyaml(text) is None
