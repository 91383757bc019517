"""What a run was asked with, as text that can be compared and read back later.

The document of a run is its resolved manifest with the answers' schema in it. Comparing two of them says
what was edited: dataset, template, params, model or schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runner.commands.inputs import contents_recorded
from runner.commands.times import recorded, variables_of
from runner.core.model import Manifest, Prices, ProviderSettings
from runner.core.planning import Reason
from runner.core.wire import decode_json, encode_json
from runner.ledger import RunRecord
from runner.manifest import Asking, asking_of
from runner.prompt import PromptSource, TemplateText


def document_of(manifest: Manifest) -> bytes:
    """The resolved manifest and its schema, as canonical JSON. Holds no secrets: they are only named."""
    schema = encode_json(manifest.output.schema, sort_keys=True)
    return b'{"manifest":' + manifest.canonical + b',"schema":' + schema + b"}"


def changes(
    previous: RunRecord | None,
    document: bytes,
    dataset_digest: str,
    template_digest: str,
    *,
    contents: str | None = None,
    since: str | None = None,
    times: Mapping[str, str] | None = None,
) -> tuple[Reason, ...]:
    """Which of dataset, query, key, template, params, model, schema and repeats are others than in the last
    run; and of `times`, the moments that the template reads.

    `contents` is the digest of the input files' bytes, where it is known: `dataset_digest` is another one
    after an edit of the query, too. `was` and `now` are short digests, or the values that differ as JSON,
    cut where it is long; `rows` is filled in by who counted them.
    """
    if previous is None:
        return ()
    read_then = contents_recorded(previous.inputs)
    if read_then is not None and contents is not None:
        dataset = ("dataset", read_then[:12], contents[:12])
    else:
        dataset = ("dataset", previous.dataset_digest[:12], dataset_digest[:12])
    pairs: list[tuple[str, Any, Any]] = [
        dataset,
        ("template", previous.template_digest[:12], template_digest[:12]),
    ]
    if previous.document is not None:
        was, now = decode_json(previous.document), decode_json(document)
        pairs += [(name, _part(was, path), _part(now, path)) for name, path in _PARTS]
    if times:
        then = recorded(previous.inputs)
        pairs.append(("times", {name: then.get(name) for name in times}, dict(times)))
    return tuple(_reason(what, was, now, since) for what, was, now in pairs if was != now)


def _reason(what: str, was: Any, now: Any, since: str | None) -> Reason:
    was, now = _differing(was, now)
    return Reason(what=what, was=_text(was), now=_text(now), since=since)


def _differing(was: Any, now: Any) -> tuple[Any, Any]:
    """Of two mappings only the members that differ, so that a short text says what was edited."""
    if not isinstance(was, dict) or not isinstance(now, dict):
        return was, now
    pairs = {
        name: _differing(was.get(name), now.get(name))
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name) or (name in was) != (name in now)
    }
    return (
        {name: pair[0] for name, pair in pairs.items() if name in was},
        {name: pair[1] for name, pair in pairs.items() if name in now},
    )


_MODEL = ("manifest", "model")
_PARTS = (
    ("query", ("manifest", "dataset", "query")),
    ("key", ("manifest", "dataset", "key")),
    ("params", ("manifest", "prompt", "params")),
    ("model", _MODEL),
    ("schema", ("schema",)),
    ("repeats", ("manifest", "repeats")),
    ("on_truncated", ("manifest", "on_truncated")),
)
_SHOWN_CHARACTERS = 120


def _part(document: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    if path == _MODEL and isinstance(document, dict):
        return {name: value for name, value in document.items() if name != "prices"}  # no part of a request
    return document


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    text = encode_json(value, sort_keys=True).decode()
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def repeats_of(run: RunRecord) -> int:
    """How often a run asked each row."""
    return int(_recorded(run, ("manifest", "repeats")) or 1)


def params_of(run: RunRecord) -> dict[str, Any]:
    """The template's params of a run."""
    return dict(_recorded(run, ("manifest", "prompt", "params")) or {})


def was_isolated(run: RunRecord) -> bool:
    """Whether a run's template was a stranger's, so that nobody else looks at it later either."""
    return _recorded(run, ("manifest", "isolated")) is True


def schema_of(run: RunRecord) -> dict[str, Any] | None:
    """The answers' schema of a run."""
    found = _recorded(run, ("schema",))
    return dict(found) if found is not None else None


def asking_recorded(run: RunRecord) -> Asking:
    """How a run made its requests, and what it might send again. Only of a run with a document."""
    return asking_of(_recorded(run, ("manifest",)))


def provider_of(run: RunRecord) -> ProviderSettings:
    """The server that a run was made for, as its manifest named it. The key is only named."""
    return asking_recorded(run).model.provider


def currency_of(run: RunRecord) -> str:
    """In which currency a run's cost is stated."""
    return str(_recorded(run, ("manifest", "model", "prices", "currency")) or "USD")


def prices_of(run: RunRecord) -> Prices | None:
    """At which prices a run stated its cost; None where it named none."""
    found = _recorded(run, (*_MODEL, "prices"))
    return Prices(**found) if isinstance(found, dict) else None


def _recorded(run: RunRecord, path: tuple[str, ...]) -> Any:
    return _part(decode_json(run.document), path) if run.document is not None else None


def texts_as_json(source: PromptSource) -> str:
    """A prompt's template texts and params: enough to render it again when the files are others."""
    texts = [{"name": text.name, "path": text.path, "text": text.text} for text in source.texts]
    return encode_json({"texts": texts}).decode()


def times_of(run: RunRecord) -> dict[str, datetime]:
    """What the template of a run read as `run`."""
    return variables_of(recorded(run.inputs), _recorded(run, ("manifest", "schedule", "timezone")))


def source_from_json(
    stored: str, source: PromptSource, params: dict[str, Any], times: Mapping[str, datetime]
) -> PromptSource:
    """The prompt of an earlier run. `source` gives the limits of today."""
    texts = tuple(TemplateText(**text) for text in decode_json(stored)["texts"])
    return PromptSource(
        template=texts[0].path,
        search_root=source.search_root,
        params=params,
        max_output_bytes=source.max_output_bytes,
        texts=texts,
        times=times,
        is_isolated=source.is_isolated,
    )
