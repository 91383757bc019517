"""The server profiles: everything that differs between servers, as data, in one table.

Its one rule: no other file asks which server it talks to; it reads a field of `Provider`. A server of
one's own gets `GENERIC`, which assumes nothing that it was not told. A name that is not in the table,
an address that is none and a variable name that is none are mistakes of the manifest.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from runner.core.model import Backoff, Limits, Provider, ProviderSettings
from runner.errors import InputError, Mistake

_ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_DOCUMENTED: Final = Limits(
    max_file_bytes=200_000_000, max_requests_per_file=50_000, max_body_bytes=10 * 1024 * 1024
)
"""Documented by Doubleword and OpenAI: 200 MB and 50 000 lines. 10 MiB per body: Doubleword's default."""

_FILE_LIFE_S: Final = 30 * 86_400
"""The longest both documents allow; a shard is uploaded minutes before its batch, which has a day at most."""

DOUBLEWORD: Final = Provider(
    name="doubleword",
    identity="https://api.doubleword.ai/v1",
    base_url="https://api.doubleword.ai/v1",
    api_key_env="DOUBLEWORD_API_KEY",
    limits=_DOCUMENTED,
    endpoints=_ENDPOINTS,
    windows=("24h", "1h"),
    poll_interval_s=30.0,
    settle_s=900.0,
    cancel_grace_s=3600.0,  # the server's own default
    has_fence=True,
    searches=True,
    reads_partial=True,
    plain_errors=True,
    upload_expires_after_s=_FILE_LIFE_S,
)

OPENAI: Final = Provider(
    name="openai",
    identity="https://api.openai.com/v1",
    base_url="https://api.openai.com/v1",
    api_key_env="OPENAI_API_KEY",
    limits=_DOCUMENTED,
    endpoints=_ENDPOINTS,
    windows=("24h",),
    poll_interval_s=30.0,
    settle_s=1800.0,  # no fence: the longer wait is the only protection, and harmless in a day's window
    cancel_grace_s=0.0,  # documented: nothing comes after `cancelled`
    upload_expires_after_s=_FILE_LIFE_S,
)

LOCAL: Final = replace(
    DOUBLEWORD,
    name="local",
    identity="local",
    base_url="",
    api_key_env=None,
    poll_interval_s=0.2,
    settle_s=2.0,
    cancel_grace_s=1.0,
    backoff=Backoff(initial_s=0.2, factor=2.0, max_s=5.0),
    is_local=True,
)

GENERIC: Final = replace(
    OPENAI,
    name="custom",
    identity="",
    base_url="",
    api_key_env=None,
    windows=(),
    cancel_grace_s=3600.0,  # nothing is known of it, so the longest that is known of any
    echoes_metadata=True,
    upload_expires_after_s=None,
)

PROFILES: Final = {profile.name: profile for profile in (LOCAL, DOUBLEWORD, OPENAI)}

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ROOT: Final = "model.provider"


def resolve(
    settings: ProviderSettings,
    *,
    local_base_url: str | None = None,
    where: Callable[[str], str] = lambda path: "",
) -> Provider:
    """The provider that a manifest means.

    `local_base_url` is the address of the built-in server once it runs; without it the local profile
    has the address "" and is good for planning only. `where` gives a manifest path's place in the file
    (`Manifest.where`). Raises InputError with every mistake in `settings`.
    """
    mistakes: list[Mistake] = []

    def complain(field: str, what: str, hint: str = "") -> None:
        path = f"{_ROOT}.{field}" if field else _ROOT
        mistakes.append(Mistake(where=where(path), path=path, what=what, hint=hint))

    profile = _profile(settings, complain)
    _check(settings, profile, complain)
    if mistakes:
        raise InputError(mistakes)
    return _override(profile, settings, local_base_url)


_Complain = Callable[[str, str, str], None]


def _profile(settings: ProviderSettings, complain: _Complain) -> Provider:
    if settings.name is None:
        if settings.base_url is None:
            complain("", "a provider needs a name or a `base_url`", f"names: {', '.join(PROFILES)}")
        return GENERIC
    profile = PROFILES.get(settings.name)
    if profile is None:
        close = difflib.get_close_matches(settings.name.lower(), PROFILES, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(PROFILES)}"
        complain(
            "",
            f"unknown provider `{settings.name}`",
            f"{hint} A server of your own: a mapping with `base_url`",
        )
        return GENERIC
    return profile


def _check(settings: ProviderSettings, profile: Provider, complain: _Complain) -> None:
    for field, address in (("base_url", settings.base_url), ("upstream", settings.upstream)):
        fault = None if address is None else address_fault(address)
        if fault:
            complain(field, fault, "for example https://api.example.com/v1")
    if settings.upstream is not None and not profile.is_local:
        complain("upstream", "only the `local` provider has an upstream", "remove it or use `local`")
    if settings.api_key_env is not None and not _VARIABLE.match(settings.api_key_env):
        # The value is not shown: a key put here by mistake must not reach the screen or a log.
        complain("api_key_env", "not the name of an environment variable", "letters, digits and _")
    for field in ("max_file_bytes", "max_requests_per_file", "max_body_bytes", "poll_interval_s", "settle_s"):
        number = getattr(settings, field)
        if number is not None and not 0 < number < float("inf"):
            complain(field, "must be above 0", "")


def _override(profile: Provider, settings: ProviderSettings, local_base_url: str | None) -> Provider:
    if profile.is_local:
        base_url = settings.base_url or local_base_url or ""
        identity = f"local+{normalised(settings.upstream)}" if settings.upstream else "local"
        base_url = normalised(base_url) if base_url else ""
    else:
        base_url = identity = normalised(settings.base_url or profile.base_url)
    limits = profile.limits
    settle_s = settings.settle_s or profile.settle_s
    return replace(
        profile,
        identity=identity,
        base_url=base_url,
        upstream=settings.upstream,
        api_key_env=settings.api_key_env or profile.api_key_env,
        poll_interval_s=settings.poll_interval_s or profile.poll_interval_s,
        settle_s=settle_s,
        cancel_grace_s=profile.cancel_grace_s * settle_s / profile.settle_s,
        limits=Limits(
            max_file_bytes=settings.max_file_bytes or limits.max_file_bytes,
            max_requests_per_file=settings.max_requests_per_file or limits.max_requests_per_file,
            max_body_bytes=settings.max_body_bytes or limits.max_body_bytes,
        ),
    )


def is_web_address(address: str) -> bool:
    """Whether a text is an http(s) address that a message can be posted to."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    is_plain = address.isascii() and address.isprintable() and " " not in address
    return parts.scheme in ("http", "https") and bool(host) and is_plain


def address_fault(address: str) -> str | None:
    """What is wrong with a base URL, or None. Never quotes it: it may hold a password."""
    if not address.isascii() or not address.isprintable() or " " in address:
        return "an address has no spaces, control characters or letters beyond ASCII"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "not an address"
    if parts.scheme.lower() not in _DEFAULT_PORTS or not host or port == 0:
        return "an address begins with https:// or http:// and a host"
    if "@" in parts.netloc:
        return "an address holds no user name or password; name the key's variable in `api_key_env`"
    if "?" in address or "#" in address:
        return "an address ends with its path: no ? and no #"
    return None


def normalised(address: str) -> str:
    """One spelling for one server: lower-case scheme and host, no default port, no slash at the end."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    scheme = parts.scheme.lower()
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(scheme)) else f":{parts.port}"
    return f"{scheme}://{host}{port}{parts.path.rstrip('/')}"


def is_loopback(address: str) -> bool:
    """Whether a base URL names this machine; no proxy of the environment is asked for it."""
    host = urlsplit(address).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
