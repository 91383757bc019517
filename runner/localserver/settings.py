"""What a local server accepts, how fast it answers and whom it asks: one frozen value.

Read once, from JSON, at the edge; every mistake in the file is reported at once as a `SettingsError`.
The defaults are those of the hosted service (file limits as its published documents state them).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.core.wire import JsonError, decode_json
from runner.localserver.faults import mistakes_of

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
WINDOWS_S: Mapping[str, int] = {"24h": 86_400, "1h": 3_600}
_PRICE = re.compile(r"[0-9]+(\.[0-9]+)?")
UPLOAD_SLACK_BYTES = 10_240
"""A Content-Length above `max_file_bytes` by more than this is refused before the body is read."""


class SettingsError(ValueError):
    """The settings file is wrong. The text lists every mistake, one a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model. `kind` is CHAT, EMBEDDINGS or "" (fits every url); prices are per million tokens."""

    kind: str = ""
    windows: tuple[str, ...] = ("24h", "1h")
    input_price: str = "0"
    output_price: str = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Everything that can be set. Bytes, seconds and counts as the names say; 0 means no limit for a `max_*`.

    models      None accepts every model name; a mapping only its keys
    api_keys    None accepts every non-empty bearer key; each key owns its own files and batches
    upstream    base URL of an OpenAI-compatible server that answers instead of the local stand-in
    max_attempts  how often a request is sent upstream before a retriable failure is final
                (the hosted service: 1000; here less, so that a wrong model name shows within a minute)
    faults      faults armed at the first start over a state folder, in the form of `POST /faults`
    """

    max_file_bytes: int = 200_000_000
    max_requests_per_file: int = 50_000
    max_body_bytes: int = 10 * 1024 * 1024
    windows: tuple[str, ...] = ("24h", "1h")
    urls: tuple[str, ...] = URLS
    models: Mapping[str, ModelSettings] | None = None
    api_keys: frozenset[str] | None = field(default=None, repr=False)
    validating_delay_s: float = 0.0
    request_latency_s: float = 0.0
    concurrency: int = 64
    replica_lag_s: float = 0.0
    finaliser_interval_s: float = 10.0
    upstream: str | None = None
    upstream_concurrency: int = 4
    upstream_timeout_s: float = 600.0
    upstream_api_key_env: str | None = None
    max_attempts: int = 8
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 10.0
    faults: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_json(cls, data: bytes | str) -> ServerSettings:
        """Settings from a JSON object whose keys are field names. Raises SettingsError with every mistake."""
        try:
            value = decode_json(data)
        except JsonError as error:
            raise SettingsError(f"not JSON: {error}") from error
        if not isinstance(value, dict):
            raise SettingsError("the settings must be a JSON object")
        return _from_mapping(value)

    @classmethod
    def from_file(cls, path: Path) -> ServerSettings:
        """Settings from a file. Raises SettingsError, also when the file can't be read."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from error
        try:
            return cls.from_json(data)
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from error


def _from_mapping(value: Mapping[str, Any]) -> ServerSettings:
    mistakes: list[str] = []
    known = {item.name: item for item in dataclasses.fields(ServerSettings)}
    chosen: dict[str, Any] = {}
    for name, given in value.items():
        if name not in known:
            mistakes.append(f"{name}: unknown setting; known are {', '.join(sorted(known))}")
            continue
        try:
            chosen[name] = _READERS.get(name, _plain)(given, known[name].type)
        except ValueError as error:
            mistakes.append(f"{name}: {error}")
    mistakes += [f"windows: unknown window {w!r}" for w in chosen.get("windows", ()) if w not in WINDOWS_S]
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return ServerSettings(**chosen)


def _plain(given: object, kind: Any) -> object:
    """A whole number, a number or a text (or null where the field allows it), by the field's annotation."""
    if given is None and "None" in kind:
        return None
    if kind.startswith("int"):
        if isinstance(given, bool) or not isinstance(given, int) or given < 0:
            raise ValueError(f"expected a whole number of 0 or more, got {given!r}")
        return given
    if kind.startswith("float"):
        if isinstance(given, (int, float)) and not isinstance(given, bool) and given >= 0:
            return float(given)
        raise ValueError(f"expected a number of 0 or more, got {given!r}")
    if isinstance(given, str):
        return given
    raise ValueError(f"expected a text, got {given!r}")


def _texts(given: object, _kind: object) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise ValueError("expected a list of texts")
    return tuple(given)


def _keys(given: object, kind: object) -> frozenset[str] | None:
    return None if given is None else frozenset(_texts(given, kind))


def _faults(given: object, _kind: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(given, list):
        raise ValueError("expected a list of objects")  # noqa: TRY004 - a mistake of the file
    mistakes = [
        f"fault {number}: {mistake}"
        for number, item in enumerate(given, start=1)
        for mistake in mistakes_of(item)
    ]
    if mistakes:
        raise ValueError("\nfaults: ".join(mistakes))
    return tuple(given)


def _models(given: object, _kind: object) -> Mapping[str, ModelSettings] | None:
    if given is None:
        return None
    if isinstance(given, dict):
        return {name: _model(name, item) for name, item in given.items()}
    raise ValueError("expected an object of model names, or null")


def _model(name: str, item: object) -> ModelSettings:
    known = {entry.name for entry in dataclasses.fields(ModelSettings)}
    if not isinstance(item, dict) or not set(item) <= known:
        raise ValueError(f"{name}: expected an object with keys among {', '.join(sorted(known))}")
    texts = {key: text for key, text in item.items() if key != "windows"}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"{name}: kind and prices must be texts")
    for key in ("input_price", "output_price"):
        if key in texts and not _PRICE.fullmatch(texts[key]):
            raise ValueError(f"{name}: {key} must be a decimal number in a text, got {texts[key]!r}")
    model = ModelSettings(**texts)
    return dataclasses.replace(model, windows=_texts(item["windows"], None)) if "windows" in item else model


_READERS: Mapping[str, Any] = {
    "windows": _texts,
    "urls": _texts,
    "api_keys": _keys,
    "models": _models,
    "faults": _faults,
}
