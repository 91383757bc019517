"""The local server under clients that nobody here wrote: the OpenAI SDK and autobatcher."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from autobatcher import BatchOpenAI

from tests.localserver_process import KEY, ServerProcess, chat_line, eventually, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=server.base_url, max_retries=0, timeout=30) as client:
        yield client


def test_the_openai_sdk_runs_a_batch_from_upload_to_content(client: openai.OpenAI) -> None:
    data = chat_line("a") + chat_line("b", "[[local:fail 400]]")
    file = client.files.create(file=("sdk.jsonl", data), purpose="batch")
    assert client.files.retrieve(file.id).bytes == len(data)
    assert file.id in [listed.id for listed in client.files.list(purpose="batch")]
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"from": "sdk"},
    )
    assert batch.id in [listed.id for listed in client.batches.list(limit=1)]

    def finished() -> openai.types.Batch | None:
        found = client.batches.retrieve(batch.id)
        return found if found.status == "completed" else None

    done = eventually(finished, what="the batch")
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 1)
    assert done.output_file_id is not None
    line = json.loads(client.files.content(done.output_file_id).text)
    assert line["custom_id"] == "a"
    openai.types.chat.ChatCompletion.model_validate(line["response"]["body"])
    assert client.batches.cancel(batch.id).status == "cancelled"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_the_openai_sdk_sees_refusals_as_its_own_errors(client: openai.OpenAI, server: ServerProcess) -> None:
    with pytest.raises(openai.BadRequestError, match="Invalid JSON on line 1"):
        client.files.create(file=("bad.jsonl", b"nonsense"), purpose="batch")
    with pytest.raises(openai.AuthenticationError):
        client.models.list(extra_headers={"Authorization": "nonsense"})
    server.arm("capacity-429")
    with pytest.raises(openai.RateLimitError) as caught:
        client.batches.create(input_file_id="x", endpoint="/v1/chat/completions", completion_window="24h")
    assert caught.value.response.headers["retry-after"] == "60"


def test_the_openai_sdk_pages_through_a_list(client: openai.OpenAI) -> None:
    made = {
        client.files.create(file=(f"page-{n}.jsonl", chat_line("a")), purpose="batch").id for n in range(5)
    }
    assert made <= {file.id for file in client.files.list(limit=2)}


def test_the_openai_sdk_gets_direct_answers(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model="local", messages=[{"role": "user", "content": "hi there"}])
    assert (chat.choices[0].message.content or "").endswith(": hi there")
    assert len(client.embeddings.create(model="local", input="hi", dimensions=8).data[0].embedding) == 8
    assert client.responses.create(model="local", input="hi").output_text.startswith("local answer ")
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="local", messages=[])
    parts = client.chat.completions.create(
        model="local", messages=[{"role": "user", "content": "hi there"}], stream=True
    )
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == chat.choices[0].message.content


def test_autobatcher_gets_partial_results_before_the_batch_is_complete(server: ServerProcess) -> None:
    events: list[dict[str, object]] = []

    async def converse() -> tuple[list[str], bool]:
        client = BatchOpenAI(
            api_key=KEY,
            base_url=server.base_url,
            batch_size=21,
            batch_window_seconds=30,
            poll_interval_seconds=0.05,
            completion_window="24h",
            batch_event_handler=events.append,
        )

        async def ask(text: str) -> str:
            reply = await client.chat.completions.create(
                model="local", messages=[{"role": "user", "content": text}]
            )
            return reply.choices[0].message.content or ""

        try:
            slow = asyncio.create_task(ask("[[local:slow 3]]"))
            quick = await asyncio.gather(*(ask(f"question {number}") for number in range(20)))
            came_early = not slow.done()
            await slow
            return list(quick), came_early
        finally:
            await client.close()

    quick, came_early = asyncio.run(asyncio.wait_for(converse(), 60))
    assert [text.split(": ")[1] for text in quick] == [f"question {number}" for number in range(20)]
    assert came_early
    assert events[0]["event"] == "batch_submitted"


def test_autobatcher_gets_embeddings_by_batch(server: ServerProcess) -> None:
    async def embed() -> int:
        client = BatchOpenAI(
            api_key=KEY,
            base_url=server.base_url,
            batch_size=2,
            batch_window_seconds=30,
            poll_interval_seconds=0.05,
        )
        try:
            found = await asyncio.gather(*(client.embeddings.create(model="e", input=text) for text in "ab"))
            return sum(len(reply.data) for reply in found)
        finally:
            await client.close()

    assert asyncio.run(asyncio.wait_for(embed(), 60)) == 2


def test_another_local_server_can_be_the_upstream(tmp_path: Path, server: ServerProcess) -> None:
    with running_server(tmp_path, upstream=server.base_url, upstream_api_key_env="UPSTREAM") as front:
        data = chat_line("a")
        done = front.finished(front.start_batch(data)["id"])
        assert done["status"] == "failed"
        (line,) = front.content(done["error_file_id"])
        assert json.loads(line["error"]["message"]) == {
            "type": "NonRetriableHttpStatus",
            "details": {"status": 401, "body": "Authentication required"},
        }


def test_upstream_answers_are_recorded_and_transient_failures_retried(
    tmp_path: Path, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_PASSWORD", KEY)
    server.arm("gateway-502", route="POST /v1/chat/completions", times=2)
    settings = {
        "upstream": server.base_url,
        "upstream_api_key_env": "UPSTREAM_PASSWORD",
        "backoff_base_s": 0.01,
        "max_attempts": 3,
    }
    with running_server(tmp_path, **settings) as front:
        texts = [chat_line(f"r{number}", f"text {number}") for number in range(20)]
        done = front.finished(
            front.start_batch(b"".join(texts) + chat_line("bad", "[[local:fail 422]]"))["id"]
        )
        assert done["request_counts"] == {"total": 21, "completed": 20, "failed": 1}
        answers = {
            line["custom_id"]: line["response"]["body"] for line in front.content(done["output_file_id"])
        }
        assert answers["r7"]["choices"][0]["message"]["content"].endswith(": text 7")
        assert front.get(f"/batches/{done['id']}/analytics")["total_tokens"] > 0
        assert len(front.witness.executions()) == 21
    assert KEY not in (tmp_path / "server.db").read_bytes().decode("latin-1")


def test_an_upstream_that_is_not_there_gives_network_error_lines(tmp_path: Path) -> None:
    settings = {"upstream": "http://127.0.0.1:9/v1", "max_attempts": 2, "backoff_base_s": 0.01}
    with running_server(tmp_path, **settings) as front:
        done = front.finished(front.start_batch(chat_line("a"))["id"])
        (line,) = front.content(done["error_file_id"])
        cause = json.loads(line["error"]["message"])
        assert (cause["type"], list(cause["details"])) == ("NetworkError", ["error"])
