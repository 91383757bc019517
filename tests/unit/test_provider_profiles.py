"""What a manifest says about its provider becomes a profile, or mistakes with a place."""

from __future__ import annotations

import pytest

from runner.core.model import Limits, ProviderSettings
from runner.errors import InputError
from runner.provider import resolve
from runner.provider.profiles import is_loopback, normalised


def mistakes(**fields: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        resolve(ProviderSettings(**fields), where=lambda path: f"m.yaml:1:1 ({path})")  # type: ignore[arg-type]
    return str(caught.value).split("\n")


def test_doubleword_is_what_its_reference_says() -> None:
    provider = resolve(ProviderSettings(name="doubleword"))
    assert provider.base_url == provider.identity == "https://api.doubleword.ai/v1"
    assert provider.api_key_env == "DOUBLEWORD_API_KEY"
    assert provider.limits == Limits(
        max_file_bytes=200_000_000, max_requests_per_file=50_000, max_body_bytes=10_485_760
    )
    assert provider.windows == ("24h", "1h")
    assert "/v1/chat/completions" in provider.endpoints
    assert "/v1/embeddings" in provider.endpoints
    assert (provider.has_fence, provider.searches, provider.reads_partial) == (True, True, True)
    assert (provider.plain_errors, provider.is_local) == (True, False)
    assert (provider.poll_interval_s, provider.settle_s, provider.cancel_grace_s) == (30.0, 900.0, 3600.0)


def test_the_grace_after_a_cancel_follows_a_settle_time_of_ones_own() -> None:
    provider = resolve(ProviderSettings(name="doubleword", settle_s=90.0))
    assert provider.cancel_grace_s == 360.0
    assert resolve(ProviderSettings(name="openai", settle_s=90.0)).cancel_grace_s == 0.0


def test_openai_promises_nothing_that_it_has_not_got() -> None:
    provider = resolve(ProviderSettings(name="openai"))
    assert provider.base_url == "https://api.openai.com/v1"
    assert provider.api_key_env == "OPENAI_API_KEY"
    assert provider.windows == ("24h",)
    flags = (provider.has_fence, provider.searches, provider.reads_partial, provider.plain_errors)
    assert flags == (False, False, False, False)


def test_the_local_server_keeps_its_identity_when_its_port_changes() -> None:
    first = resolve(ProviderSettings(name="local"), local_base_url="http://127.0.0.1:4001/v1")
    second = resolve(ProviderSettings(name="local"), local_base_url="http://127.0.0.1:4002/v1")
    assert first.identity == second.identity == "local"
    assert first.base_url == "http://127.0.0.1:4001/v1"
    assert (first.is_local, first.has_fence, first.plain_errors, first.api_key_env) == (
        True,
        True,
        True,
        None,
    )
    assert resolve(ProviderSettings(name="local")).base_url == ""


def test_an_upstream_is_part_of_the_local_identity() -> None:
    provider = resolve(ProviderSettings(name="local", upstream="http://LOCALHOST:11434/v1/"))
    assert provider.identity == "local+http://localhost:11434/v1"
    assert provider.upstream == "http://LOCALHOST:11434/v1/"


def test_a_server_of_ones_own_gets_a_careful_profile_and_its_overrides() -> None:
    provider = resolve(
        ProviderSettings(
            base_url="https://LLM.Example.com:443/v1/",
            api_key_env="MY_KEY",
            max_file_bytes=1000,
            max_requests_per_file=10,
            max_body_bytes=100,
            poll_interval_s=5,
        )
    )
    assert provider.base_url == provider.identity == "https://llm.example.com/v1"
    assert provider.api_key_env == "MY_KEY"
    assert provider.limits == Limits(max_file_bytes=1000, max_requests_per_file=10, max_body_bytes=100)
    assert provider.poll_interval_s == 5
    assert provider.windows == ()
    assert (provider.has_fence, provider.plain_errors) == (False, False)


def test_a_named_profile_at_another_address_keeps_its_manners() -> None:
    provider = resolve(ProviderSettings(name="doubleword", base_url="http://10.0.0.5:3001/ai/v1"))
    assert provider.identity == "http://10.0.0.5:3001/ai/v1"
    assert provider.has_fence


def test_an_unknown_name_is_told_what_it_probably_meant() -> None:
    (found,) = mistakes(name="dubleword")
    assert found.removeprefix("m.yaml:1:1 (model.provider): ").startswith(
        "model.provider: unknown provider `dubleword`; did you mean `doubleword`?"
    )
    assert found.endswith(" A server of your own: a mapping with `base_url`")


def test_all_mistakes_are_told_at_once() -> None:
    found = mistakes(
        name="opnai",
        base_url="ftp://x",
        upstream="http://y/v1",
        api_key_env="sk-123 secret",
        max_file_bytes=0,
    )
    assert len(found) == 5
    assert [line.split(": ")[1] for line in found] == [
        "model.provider",
        "model.provider.base_url",
        "model.provider.upstream",
        "model.provider.api_key_env",
        "model.provider.max_file_bytes",
    ]
    assert "sk-123" not in "".join(found)


def test_a_provider_without_name_and_address_is_a_mistake() -> None:
    assert "a provider needs a name or a `base_url`" in mistakes()[0]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "api.example.com/v1",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@example.com/v1",
        "https://example.com/v1?key=secret",
        "https://example.com/v1#x",
        "https://exa mple.com",
        "https://example.com:99999/v1",
        "https://[::1/v1",
        "https://пример.example/v1",
        "https://example.com/\nv1",
    ],
)
def test_a_bad_address_is_a_mistake_that_does_not_quote_it(address: str) -> None:
    found = mistakes(base_url=address)
    assert "model.provider.base_url" in found[0]
    assert "secret" not in found[0]


@pytest.mark.parametrize(
    ("address", "one_spelling"),
    [
        ("HTTPS://API.Example.com:443/v1/", "https://api.example.com/v1"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:8080/V1//", "http://example.com:8080/V1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_one_server_has_one_spelling(address: str, one_spelling: str) -> None:
    assert normalised(address) == one_spelling
    assert normalised(one_spelling) == one_spelling


def test_loopback_is_known_by_its_names() -> None:
    assert all(
        map(
            is_loopback, ["http://127.0.0.1:1/v1", "http://127.8.8.8", "http://[::1]:1", "http://localhost:1"]
        )
    )
    assert not any(
        map(is_loopback, ["http://10.0.0.1", "https://localhost.example.com", "https://api.doubleword.ai"])
    )
