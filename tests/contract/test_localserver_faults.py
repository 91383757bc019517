"""Faults: kinds, how they are armed and checked, and that each one acts once, where it says."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.localserver.database import Database
from runner.localserver.faults import KINDS, FaultError, FaultPlan, Point, mistakes_of, read_faults
from runner.localserver.settings import ServerSettings, SettingsError
from tests.localserver_process import ServerProcess, chat_line, eventually, running_server

JSON = {"Content-Type": "application/json"}
CREATE, UPLOAD, LIST, BATCH = "POST /v1/batches", "POST /v1/files", "GET /v1/batches", "GET /v1/batches/*"
LINES = b"".join(chat_line(f"k{number}", f"text {number}") for number in range(4))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(shared: ServerProcess) -> ServerProcess:
    shared.call("DELETE", "//faults")
    return shared


def fired(server: ServerProcess) -> dict[str, int]:
    return {fault["kind"]: fault["fired"] for fault in server.get("//faults")["armed"]}


def raw(server: ServerProcess, file_id: str, query: str = "") -> bytes:
    status, _, data = server.call("GET", f"/files/{file_id}/content{query}")
    assert status == 200
    return data


# ---------------------------------------------------------------- the table


def test_there_are_at_least_sixty_kinds_and_each_says_what_it_does(server: ServerProcess) -> None:
    told = server.get("//faults")["kinds"]
    assert set(told) == set(KINDS)
    assert len(told) >= 60
    for name, kind in told.items():
        assert kind["summary"], name
        assert kind["point"] in {point.value for point in Point}
        assert isinstance(kind["params"], dict)
    assert len({kind["summary"] for kind in told.values()}) == len(told)


def test_every_point_has_kinds() -> None:
    assert {kind.point for kind in KINDS.values()} == set(Point)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_can_be_armed_with_its_own_defaults(name: str) -> None:
    assert mistakes_of({"kind": name, "params": dict(KINDS[name].params)}) == []


# ---------------------------------------------------------------- mistakes

MISTAKES: dict[str, tuple[object, str]] = {
    "no object": (7, "expected an object with a `kind`"),
    "no kind": ({}, "unknown kind None"),
    "a kind nearly right": ({"kind": "lost-repli"}, "did you mean 'lost-reply'?"),
    "an unknown key": ({"kind": "reset", "rout": "x"}, "did you mean 'route'?"),
    "nth from 0": ({"kind": "reset", "nth": 0}, "nth is a whole number from 1"),
    "times below 0": ({"kind": "reset", "times": -1}, "times is a whole number from 0 (for ever)"),
    "nth that is true": ({"kind": "reset", "nth": True}, "nth is a whole number from 1"),
    "a route that is a number": ({"kind": "reset", "route": 1}, "route is a text"),
    "params that are a list": ({"kind": "reset", "params": []}, "params is an object"),
    "an unknown parameter": ({"kind": "drip", "params": {"byte": 1}}, "did you mean 'bytes'?"),
    "words for a number": ({"kind": "drip", "params": {"pause_s": "long"}}, "pause_s is a number"),
    "half a byte": ({"kind": "drip", "params": {"bytes": 0.5}}, "bytes is a whole number"),
    "less than nothing": ({"kind": "drip", "params": {"pause_s": -1}}, "pause_s is a number of 0 or more"),
    "words for yes or no": ({"kind": "gone-410", "params": {"openai": "no"}}, "openai is true or false"),
    "a number for words": ({"kind": "says-failed", "params": {"code": 1}}, "code is a text"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_fault_is_told(server: ServerProcess, name: str) -> None:
    value, words = MISTAKES[name]
    assert words in "; ".join(mistakes_of(value))
    if isinstance(value, dict):
        status, _, reply = server.call("POST", "//faults", body=json.dumps(value).encode(), headers=JSON)
        assert (status, words in reply.decode()) == (400, True)


def test_every_mistake_of_a_file_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "trouble.jsonl"
    path.write_text(
        '{"kind":"reset"}\n\n{"kind":"rest","nth":0}\n{broken\n7\n{"kind":"drip","nth":0,"x":1}\n'
    )
    with pytest.raises(FaultError) as caught:
        read_faults(path)
    places = [line.removeprefix(str(path)).partition(" ")[0] for line in str(caught.value).split("\n")]
    assert places == [":3:", ":4:2:", ":5:", ":6:", ":6:"]


FILES = {
    "an array": '[{"kind": "reset"},\n {"kind": "drip"}]',
    "lines": '{"kind": "reset"}\n{"kind": "drip"}\n',
    "lines with blank ones": '\n{"kind": "reset"}\r\n\n{"kind": "drip"}',
    "an array behind a byte order mark": '\ufeff[{"kind": "reset"}, {"kind": "drip"}]',
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_faults_is_an_array_or_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trouble.json"
    path.write_text(FILES[name])
    assert [fault["kind"] for fault in read_faults(path)] == ["reset", "drip"]


BAD_FILES = {
    "an array that is cut": ('[{"kind": "reset"},', ":1:"),
    "an array of numbers": ("[1]", ": fault 1: expected an object"),
    "a text": ('"reset"', ":1: expected fault objects"),
    "bytes that are no text": ("\udcff", ":1:"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_holds_no_faults_says_where(tmp_path: Path, name: str) -> None:
    text, words = BAD_FILES[name]
    path = tmp_path / "trouble.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FaultError, match=r"trouble\.json") as caught:
        read_faults(path)
    assert words in str(caught.value)


def test_an_empty_file_arms_nothing_and_a_missing_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert read_faults(tmp_path / "empty") == []
    with pytest.raises(FaultError, match="No such file"):
        read_faults(tmp_path / "gone")


def test_every_wrong_fault_of_the_settings_is_told() -> None:
    settings = {"faults": [{"kind": "reset"}, {"kind": "no such"}, {"kind": "drip", "nth": 0}]}
    with pytest.raises(SettingsError) as caught:
        ServerSettings.from_json(json.dumps(settings))
    assert [line.split(": ")[:2] for line in str(caught.value).split("\n")] == [
        ["faults", "fault 2"],
        ["faults", "fault 3"],
    ]


def test_only_this_machine_may_arm_faults(server: ServerProcess) -> None:
    headers = {**JSON, "Host": "evil.example"}
    assert server.call("POST", "//faults", body=b'{"kind":"reset"}', headers=headers)[0] == 403
    assert fired(server) == {}


def test_a_fault_that_is_armed_instead_of_others_leaves_none_of_them(server: ServerProcess) -> None:
    server.arm("reset", route="nowhere")
    database = Database(server.state_dir)
    plan = FaultPlan(database)
    with pytest.raises(FaultError):
        plan.arm_instead([{"kind": "drip"}, {"kind": "no such"}])
    assert fired(server) == {"reset": 0}, "all or nothing"
    plan.arm_instead([{"kind": "drip", "route": "nowhere"}])
    database.close()
    assert fired(server) == {"drip": 0}


# ---------------------------------------------------------------- before, arrive, late, after


@pytest.mark.parametrize(
    "name", [name for name, kind in KINDS.items() if kind.point is Point.BEFORE and kind.act]
)
def test_a_refusal_is_sent_as_often_as_told_and_nothing_happens(server: ServerProcess, name: str) -> None:
    server.arm(name, route="GET /v1/models", nth=2)
    statuses = [server.call("GET", "/models")[0] for _ in range(3)]
    assert statuses[::2] == [200, 200]
    number = name.rpartition("-")[2]
    assert statuses[1] == (int(number) if number.isdigit() else 429)


HEADERS: dict[str, Callable[[str | None], bool]] = {
    "retry-after-absent": lambda text: text is None,
    "retry-after-negative": lambda text: text == "-1",
    "retry-after-date": lambda text: text is not None and text.endswith("GMT"),
    "retry-after-huge": lambda text: text is not None and int(text) > 10**9,
    "retry-after-words": lambda text: text is not None and not text[0].isdigit(),
    "capacity-429": lambda text: text == "60",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_full_server_may_say_anything_of_the_wait(server: ServerProcess, name: str) -> None:
    server.arm(name, route="GET /v1/models")
    status, headers, body = server.call("GET", "/models")
    assert status == 429
    assert HEADERS[name](headers.get("retry-after"))
    assert ("retry_after_seconds" in json.loads(body)) == (name == "capacity-429")


def broken_off(server: ServerProcess, call: Callable[[], Any]) -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        call()


def test_an_upload_can_be_cut_in_the_middle_and_leaves_nothing(server: ServerProcess) -> None:
    before = len(server.witness.uploads())
    server.arm("reset-upload")
    broken_off(server, lambda: server.upload(LINES * 2000))
    assert fired(server) == {"reset-upload": 1}
    assert len(server.witness.uploads()) == before
    assert server.upload(LINES)[0] == 201


def test_a_slow_upload_arrives_whole(server: ServerProcess) -> None:
    server.arm("slow-upload", params={"seconds": 0.05, "after_bytes": 10})
    status, _ = server.upload(LINES)
    assert (status, fired(server)) == (201, {"slow-upload": 1})


def test_a_create_can_take_effect_after_the_client_has_gone(server: ServerProcess) -> None:
    _, reply = server.upload(LINES)
    wish = {
        "input_file_id": json.loads(reply)["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    before = len(server.witness.creates())
    server.arm("late-effect", route=CREATE, params={"seconds": 0.5})
    server.arm("late-effect", route=CREATE, nth=2, params={"seconds": 0.5, "status": 504})
    broken_off(server, lambda: server.send_json("/batches", wish))
    assert len(server.witness.creates()) == before
    status, _, _ = server.call("POST", "/batches", body=json.dumps(wish).encode(), headers=JSON)
    assert status == 504
    eventually(lambda: len(server.witness.creates()) == before + 2, what="both late effects")


def test_a_reply_can_break_off_in_the_middle_after_the_effect(server: ServerProcess) -> None:
    before = len(server.witness.uploads())
    server.arm("cut-reply", route=UPLOAD)
    broken_off(server, lambda: server.upload(LINES))
    assert len(server.witness.uploads()) == before + 1


def test_a_request_can_be_reset_before_anything_happens(server: ServerProcess) -> None:
    before = len(server.witness.uploads())
    server.arm("reset", route=UPLOAD)
    broken_off(server, lambda: server.upload(LINES))
    assert len(server.witness.uploads()) == before


# ---------------------------------------------------------------- what others do


def done_batch(server: ServerProcess, data: bytes = LINES, **metadata: str) -> dict[str, Any]:
    batch = server.start_batch(data, **metadata)
    return server.finished(batch["id"])


def test_others_delete_cancel_and_reopen(server: ServerProcess) -> None:
    batch = done_batch(server)
    server.arm("batch-cancelled")
    assert server.get(f"/batches/{batch['id']}")["status"] == "cancelled"
    server.arm("batch-reopened")
    assert server.get(f"/batches/{batch['id']}")["status"] == "completed"
    server.arm("input-deleted")
    assert server.get(f"/batches/{batch['id']}")["input_file_id"] == ""
    server.arm("output-deleted")
    assert server.call("GET", f"/files/{batch['output_file_id']}/content")[0] == 404
    server.arm("batch-deleted")
    assert server.call("GET", f"/batches/{batch['id']}")[0] == 404
    actions = [change["action"] for change in server.witness.changes()]
    assert actions == ["cancel", "cancel", "retry", "delete_file", "delete_file", "delete_batch"]


def test_a_batch_that_expired_says_so_from_then_on(server: ServerProcess) -> None:
    slow = LINES + chat_line("slow", "[[local:slow 60]]")
    batch = server.start_batch(slow)
    eventually(lambda: server.get(f"/batches/{batch['id']}")["request_counts"]["completed"] == 4, what="four")
    server.arm("batch-expired")
    told = [server.get(f"/batches/{batch['id']}") for _ in range(2)]
    assert [one["status"] for one in told] == ["expired", "expired"]
    assert "cancelled_at" not in told[0]
    assert len(server.content(told[0]["output_file_id"])) == 4
    other = done_batch(server)
    assert other["status"] == "completed", "only that batch"


# ---------------------------------------------------------------- objects and listings


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.point is Point.OBJECT])
def test_an_object_is_told_otherwise_and_stays_what_it_was(server: ServerProcess, name: str) -> None:
    server.arm("row-final-status", token="k3")
    batch = done_batch(server)
    path = f"/batches/{batch['id']}"
    true = server.get(path)
    server.call("DELETE", "//faults")
    server.arm(name, route=BATCH, token=batch["id"])
    told = server.get(path)
    assert fired(server) == {name: 1}
    assert told != true or name == "says-completed"
    assert server.get(path) == true


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.point is Point.LISTING])
def test_a_listing_is_told_otherwise(server: ServerProcess, name: str) -> None:
    for _ in range(2):
        server.start_batch(LINES)
    true = server.get("/batches?limit=2")
    server.arm(name)
    told = server.get("/batches?limit=2")
    assert fired(server) == {name: 1}
    if name == "cursor-stands-still":
        server.arm(name)
        assert server.get(f"/batches?limit=2&after={told['last_id']}")["data"][0]["id"] == true["first_id"]
    else:
        assert told != true


# ---------------------------------------------------------------- content


@pytest.mark.parametrize(
    "name",
    [name for name, kind in KINDS.items() if kind.point is Point.CONTENT and name != "rows-in-both"],
)
def test_the_lines_of_a_file_are_told_otherwise(server: ServerProcess, name: str) -> None:
    batch = done_batch(server)
    true = raw(server, batch["output_file_id"])
    server.arm(name)
    told = raw(server, batch["output_file_id"])
    assert fired(server) == {name: 1}
    assert told != true
    assert raw(server, batch["output_file_id"]) == true


def test_a_skip_counts_lines_as_they_are_told(server: ServerProcess) -> None:
    batch = done_batch(server)
    server.arm("lines-missing", times=0, params={"match": "k2"})
    told = raw(server, batch["output_file_id"])
    assert (told.count(b"\n"), b'"k2"' in told) == (3, False)
    lines = told.split(b"\n")
    assert raw(server, batch["output_file_id"], "?skip=1") == b"\n".join(lines[1:])
    assert raw(server, batch["output_file_id"], "?skip=1&limit=1") == lines[1] + b"\n"
    assert raw(server, batch["output_file_id"], "?skip=9") == b""


def test_rows_can_stand_in_both_files(server: ServerProcess) -> None:
    batch = done_batch(server)
    server.arm("rows-in-both", times=0, params={"lines": 0})
    output = [line["custom_id"] for line in server.content(batch["output_file_id"])]
    errors = [line["custom_id"] for line in server.content(batch["error_file_id"])]
    assert sorted(output) == sorted(errors) == ["k0", "k1", "k2", "k3"]


def test_a_fault_of_a_batch_says_nothing_in_errors_that_are_true(server: ServerProcess) -> None:
    server.arm("status-unknown", times=0)
    status, _, body = server.call("GET", "/batches/00000000-0000-0000-0000-000000000000")
    assert (status, b"not found" in body) == (404, True)
    assert fired(server) == {"status-unknown": 0}


# ---------------------------------------------------------------- the wire


@pytest.mark.parametrize(
    "name", ["cut-json", "html-200", "empty-200", "duplicate-headers", "odd-headers", "drip"]
)
def test_a_reply_can_be_odd_on_the_wire(server: ServerProcess, name: str) -> None:
    batch = done_batch(server)
    true = server.call("GET", f"/batches/{batch['id']}")
    server.arm(name)
    told = server.call("GET", f"/batches/{batch['id']}")
    assert told[0] == 200
    is_same_body = name in ("duplicate-headers", "odd-headers", "drip")
    assert (told[2] == true[2]) == is_same_body
    assert (told[1] == true[1]) == (name == "drip" or (name == "duplicate-headers" and told[1] == true[1]))


def test_a_download_can_break_off(server: ServerProcess) -> None:
    batch = done_batch(server)
    server.arm("abort-download", params={"after_bytes": 100})
    broken_off(server, lambda: raw(server, batch["output_file_id"]))


# ---------------------------------------------------------------- executing


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.point is Point.ANSWER])
def test_a_request_can_fail_in_each_way_of_the_hosted_service(server: ServerProcess, name: str) -> None:
    server.arm(name, token="k1")
    batch = done_batch(server)
    assert batch["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    (line,) = server.content(batch["error_file_id"])
    assert (line["custom_id"], line["response"]) == ("k1", None)
    if name == "row-plain-text":
        assert line["error"]["message"] == "Unknown error"
    else:
        word = json.loads(line["error"]["message"])["type"]
        assert KINDS[name].summary.endswith(word)


def test_a_batch_can_fail_before_its_first_request(server: ServerProcess) -> None:
    server.arm("fails-at-start", token="doomed")
    batch = done_batch(server, name="doomed")
    assert batch["status"] == "failed"
    assert server.content(batch["output_file_id"]) == server.content(batch["error_file_id"]) == []
    assert batch["id"] not in {one["batch_id"] for one in server.witness.executions()}
    assert done_batch(server, name="spared")["status"] == "completed"
