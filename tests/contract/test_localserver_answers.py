"""What the local stand-in says: deterministic, honest, in the endpoint's shape, within a schema."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.localserver.answers import answer
from runner.localserver.answers.from_schema import SchemaError, value_for

CHAT = "/v1/chat/completions"


def chat(text: str = "What is the capital of France?", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]} | more


def test_a_chat_answer_is_deterministic_and_has_the_openai_shape() -> None:
    given_once = answer(CHAT, chat())
    assert given_once == answer(CHAT, chat())
    assert given_once != answer(CHAT, chat(temperature=1))
    body = given_once.body
    assert list(body) == ["id", "object", "created", "model", "choices", "usage"]
    text = body["choices"][0]["message"]["content"]
    assert text.startswith("local answer ")
    assert text.endswith(": What is the capital of France?")
    assert body["usage"]["completion_tokens"] == math.ceil(len(text) / 4)


def test_an_answer_is_cut_at_the_limit_and_says_so() -> None:
    choice = answer(CHAT, chat(max_tokens=3)).body["choices"][0]
    assert (choice["finish_reason"], len(choice["message"]["content"])) == ("length", 12)
    response = answer("/v1/responses", {"model": "m", "input": "hello", "max_output_tokens": 2}).body
    assert (response["status"], response["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    message = answer("/v1/messages", chat(max_tokens=2)).body
    assert message["stop_reason"] == "max_tokens"


def test_each_endpoint_has_its_shape() -> None:
    assert answer("/v1/completions", {"model": "m", "prompt": ["a", "b"]}).body["choices"][1]["index"] == 1
    response = answer("/v1/responses", {"model": "m", "input": "hello", "instructions": "x"}).body
    assert response["output"][0]["content"][0]["text"].startswith("local answer ")
    message = answer("/v1/messages", chat(max_tokens=99, system="be brief")).body
    assert (message["type"], message["content"][0]["type"]) == ("message", "text")


def test_embeddings_are_unit_vectors_of_the_wanted_size() -> None:
    body = answer("/v1/embeddings", {"model": "m", "input": ["a", "b", "a"], "dimensions": 9}).body
    vectors = [entry["embedding"] for entry in body["data"]]
    assert [len(vector) for vector in vectors] == [9, 9, 9]
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-9 for vector in vectors)
    assert vectors[0] == vectors[2] != vectors[1]
    assert len(answer("/v1/embeddings", {"model": "m", "input": "a"}).body["data"][0]["embedding"]) == 16


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (CHAT, {"model": "m"}),
        (CHAT, {"model": "m", "messages": []}),
        (CHAT, {"model": "m", "messages": "hello"}),
        (CHAT, {"model": "m", "messages": [{"role": "king", "content": "x"}]}),
        (CHAT, chat(max_tokens=0)),
        (CHAT, chat(max_tokens="5")),
        (CHAT, chat(temperature=9)),
        (CHAT, chat(response_format={"type": "json_schema"})),
        (CHAT, chat(response_format={"type": "json_schema", "json_schema": {"schema": False}})),
        ("/v1/completions", {"model": "m"}),
        ("/v1/embeddings", {"model": "m", "input": []}),
        ("/v1/messages", chat()),
        (CHAT, "text"),
    ],
)
def test_a_body_that_an_upstream_would_refuse_is_a_400(url: str, body: Any) -> None:
    given_back = answer(url, body)
    assert given_back.status == 400
    assert given_back.body["error"]["type"] == "invalid_request_error"


def test_directives_show_failures_on_purpose() -> None:
    assert answer(CHAT, chat("[[local:fail 503]]")).status == 503
    assert answer(CHAT, chat("[[local:fail 200]]")).status == 200
    refused = answer(CHAT, chat("[[local:refuse]]")).body["choices"][0]["message"]
    assert refused["content"] is None
    assert refused["refusal"]
    assert answer(CHAT, chat("[[local:truncate]]")).body["choices"][0]["finish_reason"] == "length"
    assert answer(CHAT, chat("[[local:slow 2.5]]")).delay_s == 2.5
    assert isinstance(answer(CHAT, chat("[[local:body-string]]")).body, str)
    assert answer(CHAT, chat("[[local:unknown]]")).status == 200


def test_a_json_object_is_an_object() -> None:
    content = answer(CHAT, chat(response_format={"type": "json_object"})).body["choices"][0]["message"][
        "content"
    ]
    assert isinstance(json.loads(content), dict)


def test_a_schema_answer_satisfies_the_schema_and_varies_with_the_prompt() -> None:
    schema = {
        "type": "object",
        "properties": {
            "label": {"enum": ["bug", "question", "praise"]},
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
            "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "minItems": 1, "maxItems": 3},
        },
        "required": ["label", "score", "parts"],
        "additionalProperties": False,
        "$defs": {
            "part": {
                "type": "object",
                "properties": {"why": {"type": ["string", "null"]}},
                "required": ["why"],
            }
        },
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    labels = set()
    for number in range(30):
        message = answer(CHAT, chat(f"ticket {number}", response_format=wanted)).body["choices"][0]["message"]
        value = json.loads(message["content"])
        jsonschema.validate(value, schema)
        labels.add(value["label"])
    assert labels == {"bug", "question", "praise"}


def test_recursion_without_an_end_is_refused_in_bounded_time() -> None:
    node: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}},
        "required": ["a", "b"],
    }
    with pytest.raises(SchemaError):
        value_for(node, "x")
    with pytest.raises(SchemaError):
        value_for({"anyOf": [{"allOf": [{"$ref": "#"}]}, {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}]}, "x")
    with pytest.raises(SchemaError):
        value_for({"$ref": "#"}, "x")


_leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.just(True),
    st.builds(lambda value: {"const": value}, st.one_of(st.integers(), st.text(max_size=5), st.none())),
    st.builds(
        lambda values: {"enum": values}, st.lists(st.one_of(st.integers(), st.text(max_size=5)), min_size=1)
    ),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-1000, 1000),
        st.integers(0, 1000),
    ),
    st.builds(
        lambda low, more: {"type": "number", "exclusiveMinimum": low, "maximum": low + more},
        st.integers(-100, 100),
        st.floats(0.1, 50),
    ),
    st.builds(lambda step: {"type": "integer", "multipleOf": step}, st.integers(1, 99)),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 40),
        st.integers(0, 40),
    ),
    st.sampled_from(
        [
            {"type": "string", "pattern": pattern}
            for pattern in (
                "^[A-Z]{2,4}-[0-9]+$",
                "^(yes|no)$",
                r"\d{3}",
                "^[^a-z]+$",
                r"^\w+@\w+\.(com|org)$",
                "^a?b*c+$",
            )
        ]
        + [
            {"type": "string", "format": name}
            for name in ("date", "date-time", "email", "uuid", "uri", "ipv4")
        ]
    ),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "c", "d"])
    properties = st.dictionaries(names, inner, max_size=4)
    return st.one_of(
        st.builds(
            lambda found, is_open: {
                "type": "object",
                "properties": found,
                "required": sorted(found)[::2],
                "additionalProperties": is_open,
            },
            properties,
            st.booleans(),
        ),
        st.builds(
            lambda item, low, more: {"type": "array", "items": item, "minItems": low, "maxItems": low + more},
            inner,
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda one, other: {"allOf": [{"properties": {"x": one}}, {"properties": {"y": other}}]},
            inner,
            inner,
        ),
        st.builds(
            lambda item: {"oneOf": [{"type": "null"}, {"type": "object", "properties": {"v": item}}]}, inner
        ),
        st.builds(
            lambda item: {"$defs": {}, "type": "array", "prefixItems": [item], "minItems": 1, "items": False},
            inner,
        ),
    )


_FORMATS = jsonschema.FormatChecker()


@settings(max_examples=150)
@given(
    schema=st.recursive(_leaves, _nested, max_leaves=8),
    digest=st.text("0123456789abcdef", min_size=8, max_size=8),
)
def test_what_is_drawn_satisfies_any_schema(schema: Any, digest: str) -> None:
    value = value_for(schema, digest)
    jsonschema.Draft202012Validator(schema, format_checker=_FORMATS).validate(value)
    assert value_for(schema, digest) == value
