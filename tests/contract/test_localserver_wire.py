"""The bytes of the local server, pinned: what a client sees must not depend on this package's own reader."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.localserver_process import ServerProcess, chat_line, eventually, multipart, running_server

UUID = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
ZERO = b"00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(
        tmp_path_factory.mktemp("server"), api_keys=["test-key", "other-key"], max_file_bytes=100_000
    ) as running:
        yield running


def masked(data: bytes) -> bytes:
    """Ids as 00000000-..., Unix times as 1."""
    return re.sub(rb"\b1[0-9]{9}\b", b"1", re.sub(UUID, ZERO, data))


def post(
    server: ServerProcess, path: str, body: bytes, content_type: str = "application/json"
) -> tuple[int, bytes]:
    status, _, reply = server.call("POST", path, body=body, headers={"Content-Type": content_type})
    return status, reply


def test_an_upload_reply_is_these_bytes(server: ServerProcess) -> None:
    status, reply = server.upload(chat_line("a"), filename="my input.jsonl")
    assert status == 201
    size = len(chat_line("a"))
    assert masked(reply) == (
        b'{"id":"00000000-0000-4000-8000-000000000000","object":"file","bytes":%d,"created_at":1,'
        b'"filename":"my input.jsonl","purpose":"batch","expires_at":1}' % size
    )


def test_a_retrieved_file_tells_its_owner(server: ServerProcess) -> None:
    file_id = json.loads(server.upload(chat_line("a"))[1])["id"]
    status, headers, reply = server.call("GET", f"/files/{file_id}")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert masked(reply) == (
        b'{"id":"00000000-0000-4000-8000-000000000000","object":"file","bytes":%d,"created_at":1,'
        b'"filename":"input.jsonl","purpose":"batch","expires_at":1,"created_by_email":"local@localhost",'
        b'"context_name":"local","context_type":"personal","source":"api"}' % len(chat_line("a"))
    )
    assert masked(server.call("GET", f"/files/{file_id.replace('-', '').upper()}")[2]) == masked(reply)


def test_a_create_reply_and_a_completed_batch_are_these_bytes(server: ServerProcess) -> None:
    file_id = json.loads(server.upload(chat_line("a") + chat_line("b"))[1])["id"]
    body = (
        b'{"input_file_id":"%b","endpoint":"/v1/chat/completions","completion_window":"24h",'
        % file_id.encode()
    )
    status, reply = post(
        server, "/batches", body + b'"metadata":{"k":"v","Created-By":"x","dw_sync_id":"9"},"extra":1}'
    )
    assert status == 201
    assert masked(reply) == (
        b'{"id":"00000000-0000-4000-8000-000000000000","object":"batch","endpoint":"/v1/chat/completions",'
        b'"input_file_id":"00000000-0000-4000-8000-000000000000","completion_window":"24h",'
        b'"status":"validating","output_file_id":"00000000-0000-4000-8000-000000000000",'
        b'"error_file_id":"00000000-0000-4000-8000-000000000000","created_at":1,"expires_at":1,'
        b'"request_counts":{"total":2,"completed":0,"failed":0},"metadata":{"k":"v","request_source":"api"},'
        b'"dwext":{"source":"api"}}'
    )
    batch = server.finished(json.loads(reply)["id"])
    assert masked(server.call("GET", f"/batches/{batch['id']}")[2]) == (
        b'{"id":"00000000-0000-4000-8000-000000000000","object":"batch","endpoint":"/v1/chat/completions",'
        b'"input_file_id":"00000000-0000-4000-8000-000000000000","completion_window":"24h",'
        b'"status":"completed","output_file_id":"00000000-0000-4000-8000-000000000000",'
        b'"error_file_id":"00000000-0000-4000-8000-000000000000","created_at":1,"in_progress_at":1,'
        b'"expires_at":1,"finalizing_at":1,"completed_at":1,'
        b'"request_counts":{"total":2,"completed":2,"failed":0},'
        b'"metadata":{"k":"v","request_source":"api","created_by_email":"local@localhost",'
        b'"context_name":"local","context_type":"personal"},"dwext":{"source":"api"}}'
    )
    assert batch["expires_at"] - batch["created_at"] == 86_400


def test_a_failed_batch_shows_failed_at_and_a_cancelled_one_both_cancel_stamps(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(chat_line("a", "[[local:fail 400]]"))["id"])
    assert (batch["status"], batch["request_counts"]) == ("failed", {"total": 1, "completed": 0, "failed": 1})
    assert "failed_at" in batch
    assert "completed_at" not in batch
    cancelled = server.send_json(f"/batches/{batch['id']}/cancel", {})
    assert cancelled["status"] == "cancelled"
    assert {"cancelling_at", "cancelled_at", "failed_at"} <= set(cancelled)
    assert not {"errors", "expired_at", "analytics"} & set(cancelled)


def test_an_output_line_is_these_bytes(server: ServerProcess) -> None:
    batch = server.finished(server.start_batch(chat_line('é"\t', "say hello to the world"))["id"])
    status, headers, data = server.call("GET", f"/files/{batch['output_file_id']}/content")
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    body = b'{"messages":[{"content":"say hello to the world","role":"user"}],"model":"local"}'
    digest = hashlib.sha256(body).hexdigest()[:6].encode()
    assert re.sub(rb"chatcmpl-[0-9a-f]{24}", b"chatcmpl-x", masked(data)) == (
        b'{"id":"batch_req_00000000-0000-4000-8000-000000000000","custom_id":"\xc3\xa9\\"\\t",'
        b'"response":{"status_code":200,"request_id":null,"body":{"choices":[{"finish_reason":"stop","index":0,'
        b'"message":{"content":"local answer %b: say hello to the world","role":"assistant"}}],'
        b'"created":1,"id":"chatcmpl-x","model":"local","object":"chat.completion",'
        b'"usage":{"completion_tokens":11,"prompt_tokens":6,"total_tokens":17}}},"error":null}\n' % digest
    )


@pytest.mark.parametrize(
    ("directive", "kind", "status"), [("fail 400", "NonRetriable", 400), ("fail 503", "Retriable", 503)]
)
def test_an_error_line_is_these_bytes(server: ServerProcess, directive: str, kind: str, status: int) -> None:
    batch = server.finished(server.start_batch(chat_line("a", f"[[local:{directive}]]"))["id"])
    data = server.call("GET", f"/files/{batch['error_file_id']}/content")[2]
    word = b"invalid_request_error" if status < 500 else b"server_error"
    assert masked(data) == (
        b'{"id":"batch_req_00000000-0000-4000-8000-000000000000","custom_id":"a","response":null,'
        b'"error":{"code":null,"message":"{\\"type\\":\\"%bHttpStatus\\",\\"details\\":{\\"status\\":%d,'
        b'\\"body\\":\\"{\\\\\\"error\\\\\\":{\\\\\\"message\\\\\\":\\\\\\"failed on request: [[local:%b]]'
        b'\\\\\\",\\\\\\"type\\\\\\":\\\\\\"%b\\\\\\",\\\\\\"param\\\\\\":null,\\\\\\"code\\\\\\":null}}\\"}}"}}\n'
        % (kind.encode(), status, directive.encode(), word)
    )
    assert server.content(batch["output_file_id"]) == []


def test_a_list_page_has_ids_and_an_empty_one_has_none(server: ServerProcess) -> None:
    empty = server.call("GET", "/batches?search=nothing-is-called-this")[2]
    assert empty == b'{"object":"list","data":[],"has_more":false}'
    assert server.call("GET", "/files?search=nothing-is-called-this")[2] == empty
    first, second = (server.start_batch(chat_line("a"), mark="page")["id"] for _ in range(2))
    page = server.get("/batches?search=%22page%22&limit=1")
    assert (page["first_id"], page["last_id"], page["has_more"]) == (second, second, True)
    page = server.get(f"/batches?search=%22page%22&limit=1&after={second}")
    assert (page["first_id"], page["has_more"]) == (first, False)
    assert list(page) == ["object", "data", "first_id", "last_id", "has_more"]


def test_an_unknown_cursor_gives_the_first_page_and_limits_are_clamped(server: ServerProcess) -> None:
    server.upload(chat_line("a"), filename="clamp-1.jsonl")
    server.upload(chat_line("a"), filename="clamp-2.jsonl")
    for after in ("nonsense", ZERO.decode()):
        names = [file["filename"] for file in server.get(f"/files?search=clamp-&after={after}")["data"]]
        assert names == ["clamp-2.jsonl", "clamp-1.jsonl"]
    assert len(server.get("/files?search=clamp-&limit=0")["data"]) == 1
    assert len(server.get("/files?search=clamp-&limit=9999")["data"]) == 2
    ascending = server.get("/files?search=clamp-&order=asc")["data"]
    assert [file["filename"] for file in ascending] == ["clamp-1.jsonl", "clamp-2.jsonl"]
    assert server.call("GET", "/files?order=up")[::2] == (400, b"Order must be 'asc' or 'desc'")
    assert server.call("GET", "/files?limit=x")[0] == 400


@pytest.mark.parametrize(
    "header", [None, "", "Bearer ", "bearer test-key", "Basic test-key", "Bearer unknown"]
)
def test_every_fault_of_the_key_is_the_same_401(server: ServerProcess, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("GET", "/files"), ("POST", "/batches"), ("GET", f"/batches/{ZERO.decode()}")):
        status, _, body = server.call(method, path, headers=headers, key=None)
        assert (status, body) == (401, b"Authentication required")


def test_ids_must_be_uuids_and_unknown_ones_are_not_found(server: ServerProcess) -> None:
    zero = ZERO.decode()
    for path, words in (
        ("/files/file-abc", b"Invalid file ID format"),
        (f"/files/file-{zero}", b"Invalid file ID format"),
        ("/files/x/content", b"Invalid file ID format"),
        ("/batches/batch_1", b"Invalid batch ID format"),
        ("/batches/x/results", b"Invalid batch ID format"),
    ):
        assert server.call("GET", path)[::2] == (400, words)
    assert server.call("GET", f"/files/{zero}")[::2] == (404, b"File with ID %b not found" % ZERO)
    assert server.call("DELETE", f"/batches/{zero}")[::2] == (404, b"Batch with ID %b not found" % ZERO)


def test_what_another_key_owns_is_not_found_and_forbidden_at_create(server: ServerProcess) -> None:
    batch = server.start_batch(chat_line("a"))
    for path in (f"/files/{batch['input_file_id']}", f"/batches/{batch['id']}"):
        status, headers, body = server.call("GET", path, key="other-key")
        assert (status, headers["content-type"]) == (404, "text/plain; charset=utf-8")
        assert body.endswith(b"not found")
    body = json.dumps(
        {
            "input_file_id": batch["input_file_id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
    ).encode()
    status, _, _ = server.call(
        "POST", "/batches", body=body, headers={"Content-Type": "application/json"}, key="other-key"
    )
    assert status == 403
    assert server.get("/batches", key="other-key")["data"] == []


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"completion_window": "2h"}, 400, b"Unsupported completion_window. Allowed values: 24h, 1h"),
        ({"endpoint": "/v1/x"}, 400, b"Unsupported endpoint '/v1/x'. Supported: /v1/chat/completions, "),
        ({"input_file_id": "file-1"}, 400, b"Invalid input_file_id format"),
        ({"input_file_id": ZERO.decode()}, 404, b"File with ID %b not found" % ZERO),
        ({"metadata": {"a": 1}}, 422, b"Failed to deserialize the JSON body into the target type: "),
        ({"endpoint": None}, 422, b"Failed to deserialize the JSON body into the target type: "),
    ],
)
def test_a_wrong_create_is_refused_in_plain_text(
    server: ServerProcess, change: dict[str, object], status: int, words: bytes
) -> None:
    value = {
        "input_file_id": ZERO.decode(),
        "endpoint": "/v1/completions",
        "completion_window": "1h",
    } | change
    found, body = post(server, "/batches", json.dumps(value).encode())
    assert (found, body[: len(words)]) == (status, words)


def test_framework_refusals_have_the_frameworks_statuses(server: ServerProcess) -> None:
    assert post(server, "/batches", b"{")[0] == 400
    assert post(server, "/batches", b"{}", "text/plain")[0] == 415
    assert post(server, "/batches", b'{"endpoint":"x"}') == (
        422,
        b"Failed to deserialize the JSON body into the target type: missing field `input_file_id`",
    )
    assert server.call("PUT", "/files")[::2] == (405, b"")
    assert server.call("GET", "/nothing")[0] == 404


def test_429_and_503_and_402_are_these_bytes(server: ServerProcess) -> None:
    server.arm("capacity-429", params={"models": "m"})
    status, headers, body = server.call("POST", "/batches", body=b"{}")
    assert (status, headers["retry-after"], headers["content-type"]) == (429, "60", "application/json")
    assert body == (
        b'{"error":"too_many_requests","message":"Insufficient capacity for 24h completion window. '
        b"The following models are currently at capacity: m. "
        b"Try again later or use a longer completion window."
        b'","retry_after_seconds":30}'
    )
    server.arm("unavailable-503")
    status, headers, body = server.call("GET", "/batches")
    assert (status, headers["retry-after"]) == (503, "30")
    assert body == (
        b'{"error":"service_unavailable","message":"Service temporarily unavailable. Please retry later.",'
        b'"retry_after_seconds":30}'
    )
    server.arm("balance-402")
    assert server.call("POST", "/batches", body=b"{}")[::2] == (
        402,
        b"Account balance too low. Please add credits to continue.",
    )
    assert server.call("GET", "/batches")[0] == 200


def test_a_stored_line_is_sorted_compact_and_has_four_keys(server: ServerProcess) -> None:
    line = (
        b'  {"custom_id": "a", "x": 1, "url": "/v1/chat/completions", "method": "post", "body": '
        b'{"z": 1, "model": "m", "priority": 9, "a": {"d": 1, "c": 123456789012345678901234567890},'
        b' "z": "2\xe2\x80\xa8", "service_tier": "flex", "background": true}}  \r\n\r\n\n'
    )
    status, reply = server.upload(line)
    assert status == 201
    file = json.loads(reply)
    assert file["bytes"] == len(line)
    assert server.call("GET", f"/files/{file['id']}/content")[2] == (
        b'{"custom_id":"a","method":"post","url":"/v1/chat/completions","body":'
        b'{"a":{"c":1.2345678901234568e+29,"d":1},"model":"m","z":"2\xe2\x80\xa8"}}\n'
    )


def test_a_batch_without_uploads_of_its_own_cannot_be_made_from_nothing(server: ServerProcess) -> None:
    body, content_type = multipart(b"", purpose=None)
    assert post(server, "/files", body, content_type) == (400, b"File contains no valid request templates")
    edge = content_type.split("=")[1].encode()
    no_file = b'--%b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--%b--\r\n' % (
        edge,
        edge,
    )
    assert post(server, "/files", no_file, content_type) == (400, b"No file field found in multipart upload")
    cut = multipart(chat_line("a"))[0][:-10]
    status, reply = post(server, "/files", cut, content_type)
    assert (status, reply[:32]) == (400, b"Failed to read multipart upload:")
    assert post(server, "/files", b"x", "text/plain")[1].startswith(b"Invalid multipart request: ")
    body, content_type = multipart(chat_line("a"), purpose="batches")
    assert post(server, "/files", body, content_type) == (
        400,
        b"Invalid purpose 'batches'. Only 'batch' is supported.",
    )


def test_a_file_above_the_limit_is_413(server: ServerProcess) -> None:
    words = b"File exceeds the maximum allowed size of 100000 bytes"
    line = chat_line("a", "x" * 30_000)
    assert server.upload(line * 3)[0] == 201
    assert server.upload(line * 3 + b" " * 11_000) == (413, words)


def test_a_purpose_is_kept_raw(server: ServerProcess) -> None:
    body, content_type = multipart(chat_line("a"), filename="raw-purpose.jsonl", purpose="BATCH")
    assert json.loads(post(server, "/files", body, content_type)[1])["purpose"] == "batch"
    assert server.get("/files?search=raw-purpose&purpose=batch")["data"] == []
    assert len(server.get("/files?search=raw-purpose&purpose=BATCH")["data"]) == 1


def test_the_witness_and_the_faults_need_no_key(server: ServerProcess) -> None:
    status, _, body = server.call("GET", "//witness", key=None)
    assert status == 200
    counts = json.loads(body)
    assert counts["upload"] == len(server.witness.uploads())
    rows = server.get("//witness?table=upload&limit=1", key=None)
    assert (len(rows["rows"]), rows["rows"][0]["seq"], rows["has_more"]) == (1, 1, True)
    assert server.get("//witness?table=http&limit=2")["rows"][0]["path"].startswith("/v1/")
    assert server.call("GET", "//witness?table=nothing")[0] == 400
    assert (
        server.call("POST", "//faults", body=b'{"kind":"x"}', headers={"Content-Type": "application/json"})[0]
        == 400
    )
    assert "lost-reply" in server.get("//faults")["kinds"]


def test_a_foreign_host_name_gets_neither_witness_nor_faults(server: ServerProcess) -> None:
    for path in ("//witness", "//faults"):
        assert server.call("GET", path, headers={"Host": "evil.example"})[::2] == (
            403,
            b"Only from this machine",
        )


def test_no_key_is_in_any_file_of_the_state_folder(server: ServerProcess) -> None:
    server.upload(chat_line("a"))
    for path in server.state_dir.rglob("*"):
        if path.is_file() and not path.name.startswith("settings-"):
            assert b"test-key" not in path.read_bytes(), path


def test_a_known_model_list_gives_403_and_404(tmp_path: Path) -> None:
    models = {"chat": {"kind": "CHAT", "windows": ["24h"]}, "emb": {"kind": "EMBEDDINGS"}}
    with running_server(tmp_path, models=models) as running:
        assert running.upload(chat_line("a", model="nope")) == (
            403,
            b"Line 1: Model 'nope' has not been configured or is not available to user",
        )
        status, body = running.upload(chat_line("a", model="emb"))
        assert status == 400
        assert body == (
            b"Line 1: Model 'emb' is a EMBEDDINGS model but endpoint '/v1/chat/completions' "
            b"requires a CHAT model"
        )
        file_id = json.loads(running.upload(chat_line("a", model="chat"))[1])["id"]
        value = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "1h"}
        assert post(running, "/batches", json.dumps(value).encode()) == (
            400,
            b"Model 'chat' does not support completion window '1h'. Allowed: 24h",
        )
        status, _, body = running.call("GET", "/models")
        assert status == 200
        assert body == (
            b'{"object":"list","data":[{"id":"chat","object":"model","created":0,"owned_by":"None"},'
            b'{"id":"emb","object":"model","created":0,"owned_by":"None"}]}'
        )
        status, body = post(running, "/chat/completions", b'{"model":"nope","messages":[]}')
        assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")


def test_a_late_stamp_is_written_by_the_finaliser(tmp_path: Path) -> None:
    with running_server(tmp_path, finaliser_interval_s=0.1) as running:
        batch_id = running.start_batch(chat_line("a"))["id"]

        def listed_as_completed() -> bool:
            return bool(running.get("/batches")["data"][0]["status"] == "completed")

        assert eventually(listed_as_completed, what="the finaliser's stamp")
        assert running.get("/batches")["data"][0]["id"] == batch_id
