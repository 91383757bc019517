"""Who is who: bodies, fingerprints, custom_ids."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.identity import (
    CUSTOM_ID_MAX_BYTES,
    ENDPOINTS,
    custom_id,
    is_strict,
    key_part,
    recognise,
    response_format,
)
from runner.core.model import Fingerprint, Message
from tests.unit.core_factories import make_shape

MESSAGES = (Message(role="system", content="Be brief."), Message(role="user", content="Hi"))
FINGERPRINT = Fingerprint(bytes(range(16)))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_the_literal_line_of_a_chat_request() -> None:
    shape = make_shape()
    line = shape.line(custom_id("k", FINGERPRINT), shape.body(MESSAGES))
    assert line == (
        b'{"custom_id":"k-0001020304050607","method":"POST","url":"/v1/chat/completions","body":'
        b'{"max_tokens":5,"messages":[{"role":"system","content":"Be brief."},'
        b'{"role":"user","content":"Hi"}],"model":"m","temperature":0}}\n'
    )


@given(key=st.text(), digest=st.binary(min_size=16, max_size=16))
def test_a_custom_id_is_printable_ascii_of_at_most_64_bytes(key: str, digest: bytes) -> None:
    text = custom_id(key_part(key), Fingerprint(digest))
    assert text.isascii()
    assert text.isprintable()
    assert 18 <= len(text) <= CUSTOM_ID_MAX_BYTES
    assert text.endswith(digest.hex()[:16])


@given(key=st.text(), digest=st.binary(min_size=16, max_size=16), body=st.binary())
def test_a_line_by_name_is_the_line_of_that_custom_id(key: str, digest: bytes, body: bytes) -> None:
    name, fingerprint = key_part(key), Fingerprint(digest)
    shape = make_shape()
    assert shape.named_line(name, fingerprint, body) == shape.line(custom_id(name, fingerprint), body)


ROLES = st.sampled_from(["system", "user", "assistant"])


@given(
    dialogues=st.lists(
        st.lists(st.builds(Message, role=ROLES, content=st.sampled_from(["", "a", "é\n"]) | TEXT), max_size=4)
    )
)
def test_a_body_has_the_messages_in_their_order_whatever_came_before(dialogues: list[list[Message]]) -> None:
    shape = make_shape()
    for messages in dialogues:
        told = json.loads(shape.body(messages))["messages"]
        assert told == [{"role": role, "content": content} for role, content in messages]
        assert shape.body(messages) == make_shape().body(messages)


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("ticket 17/b", "ticket-17-b"),
        ("", "row"),
        ("日本", "row"),
        ("a" * 60, "a" * 40),
        ("x_y.z-1", "x_y.z-1"),
    ],
)
def test_the_readable_half_of_a_custom_id(key: str, part: str) -> None:
    assert key_part(key) == part


@given(
    parameters=st.dictionaries(
        TEXT.filter(lambda key: key not in ("messages", "model")), st.integers(-9, 9), max_size=5
    ),
    texts=st.lists(TEXT, min_size=1, max_size=3),
)
def test_a_body_is_what_sorted_json_of_the_whole_would_be(
    parameters: dict[str, int], texts: list[str]
) -> None:
    messages = tuple(Message(role="user", content=text) for text in texts)
    body = make_shape(parameters=parameters).body(messages)
    decoded = json.loads(body)
    assert list(decoded) == sorted(decoded, key=lambda key: key.encode())
    assert decoded == parameters | {
        "model": "m",
        "messages": [{"role": "user", "content": text} for text in texts],
    }


@pytest.mark.parametrize(
    "change",
    [
        {"provider_identity": "other"},
        {"endpoint": "/v1/responses"},
        {"model": "other"},
        {"parameters": {"temperature": 1, "max_tokens": 5}},
        {"parameters": {"temperature": 0}},
        {"schema": {"type": "object"}},
    ],
)
def test_everything_that_can_change_an_answer_changes_the_fingerprint(change: dict[str, Any]) -> None:
    plain, changed = make_shape(), make_shape(**change)
    assert plain.fingerprint(plain.body(MESSAGES)) != changed.fingerprint(changed.body(MESSAGES))


def test_the_repeat_number_and_the_messages_are_part_of_the_fingerprint() -> None:
    shape = make_shape()
    body = shape.body(MESSAGES)
    assert shape.fingerprint(body, 1) != shape.fingerprint(body, 2)
    assert shape.fingerprint(body) != shape.fingerprint(shape.body(MESSAGES[1:]))
    assert shape.fingerprint(body) == shape.fingerprint(shape.body(MESSAGES))


def test_the_order_of_parameters_is_no_part_of_the_fingerprint() -> None:
    one = make_shape(parameters={"a": 1, "b": {"x": 1, "y": 2}})
    other = make_shape(parameters={"b": {"y": 2, "x": 1}, "a": 1})
    assert one.body(MESSAGES) == other.body(MESSAGES)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_each_endpoint_gets_its_own_form_of_the_prompt(endpoint: str) -> None:
    body = json.loads(make_shape(endpoint=endpoint, parameters={}).body(MESSAGES))
    rest = {key: value for key, value in body.items() if key != "model"}
    expected: dict[str, Any] = {
        "/v1/chat/completions": {"messages": [{"role": m.role, "content": m.content} for m in MESSAGES]},
        "/v1/responses": {"input": [{"role": m.role, "content": m.content} for m in MESSAGES]},
        "/v1/completions": {"prompt": "Be brief.\n\nHi"},
        "/v1/embeddings": {"input": "Be brief.\n\nHi"},
    }
    assert rest == expected[endpoint]


def test_a_schema_is_sent_the_way_the_endpoint_takes_it() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    chat = response_format("/v1/chat/completions", schema, "n")
    assert chat["response_format"]["json_schema"] == {"name": "n", "schema": schema, "strict": False}
    assert response_format("/v1/responses", schema, "n")["text"]["format"]["schema"] == schema
    assert response_format("/v1/embeddings", schema, "n") == {}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        (
            {
                "type": "object",
                "properties": {"a": {}, "b": {}},
                "required": ["a"],
                "additionalProperties": False,
            },
            False,
        ),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"type": "string"}, True),
    ],
)
def test_strict_is_claimed_only_where_every_object_is_closed(schema: dict[str, Any], strict: bool) -> None:
    assert is_strict(schema) is strict


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("repeat", [1, 2, 57])
def test_a_request_is_recognised_by_its_line_in_whatever_order_its_keys_are(
    endpoint: str, repeat: int
) -> None:
    shape = make_shape(endpoint=endpoint, schema={"type": "object", "properties": {"a": {"type": "string"}}})
    body = shape.body([Message(role="user", content="a\u2028b \u00e9")])
    known = ("k-1", shape.fingerprint(body, repeat))
    line = shape.line(custom_id(*known), body)
    theirs = dict(reversed(json.loads(line).items()))
    theirs["body"] = dict(sorted(theirs["body"].items(), reverse=True))
    for sent in (line, json.dumps(theirs).encode()):
        assert recognise(sent, provider_identity="test", endpoint=endpoint) == known


def test_a_line_that_is_not_that_request_is_not_recognised() -> None:
    shape = make_shape()
    body = shape.body([Message(role="user", content="hello")])
    line = shape.line(custom_id("k", shape.fingerprint(body)), body)
    others = [line.replace(b"hello", b"hullo"), b"", b"{}", b"[]", b"not json", b'{"custom_id":1,"body":{}}']
    others += [line.replace(b'"custom_id":"k-', b'"custom_id":"'), line.replace(b'"messages"', b'"prompts"')]
    for other in others:
        found = recognise(other, provider_identity="test", endpoint="/v1/chat/completions", most_repeats=3)
        assert found is None, other
    for identity, endpoint in (("other", "/v1/chat/completions"), ("test", "/v1/responses")):
        found = recognise(line, provider_identity=identity, endpoint=endpoint, most_repeats=3)
        assert found is None
