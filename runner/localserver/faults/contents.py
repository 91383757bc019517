"""Kinds at the point `content`: the lines of a result file as they are told, not as they are.

`act` takes the lines (each with its newline) and a `Reading`, and gives the pieces to send. Lines are chosen
by custom_id, so that the same requests are hit at every reading, whatever the order in the file. The
server's own state is untouched. A reading under such a fault is held in memory; all others are streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.core.wire import decode_json, encode_json
from runner.localserver.faults.kind import CONTENT, FaultKind, Point
from runner.localserver.result_lines import http_error_line

Lines = list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is read: the kind of file (input, output or error), and the fault's parameters.

    `elsewhere`: (line id, custom_id) of each request of the batch whose line is in the other result file.
    """

    kind: str
    params: Mapping[str, Any]
    elsewhere: Sequence[tuple[str, str]]


Act = Callable[[Lines, Reading], Lines]


def _chosen(lines: Lines, reading: Reading) -> set[bytes]:
    """The lines that a fault hits: so many by custom_id, those with `match` in it; 0 means all of them."""
    wanted = str(reading.params["match"])
    fitting = sorted((line for line in lines if wanted in _custom_id(line)), key=_custom_id)
    return set(fitting[: reading.params["lines"] or len(fitting)])


def _custom_id(line: bytes) -> str:
    return str(decode_json(line)["custom_id"])


def _each(change: Callable[[bytes, Mapping[str, Any]], Lines]) -> Act:
    """What `change` makes of each chosen line; the others as they are."""

    def act(lines: Lines, reading: Reading) -> Lines:
        chosen = _chosen(lines, reading)
        return [
            piece for line in lines for piece in (change(line, reading.params) if line in chosen else [line])
        ]

    return act


def _encoded(value: object) -> bytes:
    return encode_json(value) + b"\n"


def _with_response(status_code: int, body: object) -> Callable[[bytes, Mapping[str, Any]], Lines]:
    def change(line: bytes, _params: Mapping[str, Any]) -> Lines:
        response = {"status_code": status_code, "request_id": None, "body": body}
        return [_encoded({**decode_json(line), "response": response, "error": None})]

    return change


def _with_choice(**fields: Any) -> Callable[[bytes, Mapping[str, Any]], Lines]:
    """Another first choice in the body, at status 200."""

    def change(line: bytes, _params: Mapping[str, Any]) -> Lines:
        value = decode_json(line)
        choice = {"index": 0, "message": {"role": "assistant", "content": None}, "finish_reason": "stop"}
        value["response"]["body"]["choices"] = [{**choice, **fields}]
        return [_encoded(value)]

    return change


def _in_answer(text: bytes) -> Callable[[bytes, Mapping[str, Any]], Lines]:
    """Raw bytes at the beginning of the answer's text; a line without one is left."""
    return lambda line, _: [line.replace(b'"content":"', b'"content":"' + text, 1)]


def _second_answer(line: bytes, params: Mapping[str, Any]) -> Lines:
    other = _with_choice(message={"role": "assistant", "content": "another answer"})(line, params)
    return [line, *other]


def _foreign(lines: Lines, _reading: Reading) -> Lines:
    value = decode_json(lines[0]) if lines else {"id": "x", "response": None, "error": {"message": "odd"}}
    known = str(value.get("custom_id", "stranger-0000"))
    strangers: tuple[object, ...] = (f"{known[:-4]}0000", "stranger", "", None, 7)
    return [*(_encoded({**value, "custom_id": stranger}) for stranger in strangers), *lines]


def _no_objects(line: bytes, _params: Mapping[str, Any]) -> Lines:
    return [b"null\n", b"7\n", b'"text"\n', b"[]\n", b"\n", b"  \r\n", line]


def _torn(lines: Lines, _reading: Reading) -> Lines:
    return [*lines[:-1], lines[-1][: len(lines[-1]) // 2]] if lines else lines


def _unended(lines: Lines, _reading: Reading) -> Lines:
    return [*lines[:-1], lines[-1].removesuffix(b"\n")] if lines else lines


def _late(lines: Lines, reading: Reading) -> Lines:
    """Without the earliest lines: later ones are seen before them."""
    return lines[reading.params["lines"] :]


def _shrunk(lines: Lines, reading: Reading) -> Lines:
    return lines[: reading.params["keep"]]


def _in_both(lines: Lines, reading: Reading) -> Lines:
    if reading.kind != "error":
        return lines
    wanted = sorted(reading.elsewhere, key=lambda entry: entry[1])[: reading.params["lines"] or None]
    return lines + [http_error_line(line_id, custom_id, 500, "it broke") for line_id, custom_id in wanted]


_SOME: Mapping[str, Any] = {"lines": 1, "match": ""}


def _content(summary: str, act: Act, **params: Any) -> FaultKind:
    return FaultKind(
        point=Point.CONTENT,
        route=CONTENT,
        summary=summary,
        params=params,
        act=act,
        ignores=("skip", "limit"),
    )


def _some(summary: str, change: Callable[[bytes, Mapping[str, Any]], Lines]) -> FaultKind:
    return _content(summary, _each(change), **_SOME)


_ERROR_BODY = {"error": {"message": "the request is said to be wrong", "code": "invalid_request"}}
KINDS: Mapping[str, FaultKind] = {
    "content-empty": _content("the file has no line", lambda _lines, _reading: []),
    "output-shrinks": _content("the file has only its first lines", _shrunk, keep=1),
    "lines-missing": _some("requests whose lines are in neither file", lambda _line, _params: []),
    "lines-late": _content("the earliest lines are missing, they come before later ones", _late, lines=1),
    "lines-backwards": _content("the lines come in the opposite order", lambda lines, _: lines[::-1]),
    "lines-repeated": _some("lines come twice", lambda line, _: [line, line]),
    "second-answer": _some("a request has a second answer, another one", _second_answer),
    "rows-in-both": _content("requests of the output file stand in the error file too", _in_both, lines=1),
    "torn-line": _content("the last line is cut", _torn),
    "unended-line": _content("the last line has no newline", _unended),
    "line-not-json": _some("a line is no JSON", lambda line, _: [b"{" + line]),
    "line-not-utf8": _some("an answer holds bytes that are no UTF-8", _in_answer(b"\xff\xfe\xc3")),
    "line-separators": _some(
        "an answer holds U+2028, U+2029 and U+0085 as they are", _in_answer("\u2028\u2029\u0085".encode())
    ),
    "line-nul": _some("an answer holds U+0000", _in_answer(rb"\u0000")),
    "line-surrogate": _some("an answer holds half a surrogate pair", _in_answer(rb"\ud83d")),
    "line-nan": _some(
        "a line holds NaN", lambda line, _: [line.replace(b'{"id":', b'{"score":NaN,"id":', 1)]
    ),
    "line-deep": _some(
        "a line nests 100 000 deep and is followed by the right one",
        lambda line, _: [b"[" * 100_000 + b"]" * 100_000 + b"\n", line],
    ),
    "lines-crlf": _content(
        "lines end with CR LF", lambda lines, _: [line.replace(b"\n", b"\r\n") for line in lines]
    ),
    "lines-odd": _some("lines that are blank or no objects", _no_objects),
    "foreign-ids": _content(
        "the file begins with custom_ids that nobody sent, empty, null and numbers", _foreign
    ),
    "body-string": _some("the response body is a text", _with_response(200, "sorry")),
    "body-null": _some("the response body is null", _with_response(200, None)),
    "body-empty": _some("the response body is an empty object", _with_response(200, {})),
    "error-in-output": _some("a 4xx stands in the output file", _with_response(400, _ERROR_BODY)),
    "answer-cut": _some(
        "the answer was cut at the token limit",
        _with_choice(message={"role": "assistant", "content": "and then"}, finish_reason="length"),
    ),
    "answer-filtered": _some("a filter withheld the answer", _with_choice(finish_reason="content_filter")),
    "answer-refused": _some(
        "the model refused", _with_choice(message={"role": "assistant", "content": None, "refusal": "No."})
    ),
}
