"""A checked document to the frozen `Manifest`. Its one rule: it runs after the checks and finds no mistakes.

Defaults are those of `core.model`, but for the two that depend on the file: the name is its stem, the
results table `results/NAME.parquet` beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.core.model import (
    BatchSettings,
    Budget,
    DatasetSettings,
    Manifest,
    ModelSettings,
    NotifySettings,
    Occasion,
    OutputSettings,
    Prices,
    PromptSettings,
    ProviderSettings,
    RetrySettings,
    ScheduleSettings,
    Tolerance,
    TruncatedSettings,
)
from runner.core.wire import encode_json
from runner.manifest.nodes import Entry, ListNode, MapNode, Node, ScalarNode, plain, positions
from runner.manifest.paths import absolute, relative
from runner.manifest.scalars import duration_s, percent_share, size_bytes

_PATHS = (("dataset", "path"), ("prompt", "template"), ("output", "schema"), ("output", "path"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What a document says of how requests are made and sent, sent again, and what they may cost."""

    model: ModelSettings
    batch: BatchSettings
    retry: RetrySettings
    budget: Budget
    on_truncated: TruncatedSettings | None


def asking_of(data: Mapping[str, Any]) -> Asking:
    """That part of a document which has passed every check; the canonical form of an earlier one will do."""
    budget = data.get("budget", {})
    return Asking(
        model=_model(data["model"]),
        batch=_batch(data.get("batch", {})),
        retry=_retry(data.get("retry", {})),
        budget=Budget(
            max_cost=_number(budget.get("max_cost")),
            confirm_above=float(budget.get("confirm_above", Budget().confirm_above)),
        ),
        on_truncated=_truncated(data.get("on_truncated")),
    )


def build(root: MapNode, path: str, answer_schema: Mapping[str, Any] | None) -> Manifest:
    """The manifest at the absolute `path`; `root` has passed every check."""
    folder = str(Path(path).parent)
    data = plain(_with_paths(root, None))
    name = str(data.get("name") or default_name(path))
    output = data.get("output", {})
    asking = asking_of(data)
    return Manifest(
        path=path,
        name=name,
        description=data.get("description"),
        dataset=_dataset(data["dataset"]),
        prompt=PromptSettings(template=data["prompt"]["template"], params=data["prompt"].get("params", {})),
        model=asking.model,
        batch=asking.batch,
        output=_output(output, answer_schema, absolute(f"results/{name}.parquet", folder)),
        retry=asking.retry,
        allow_failures=_tolerance(data.get("allow_failures")),
        budget=asking.budget,
        refresh_older_than_s=_duration(data.get("refresh", {}).get("older_than")),
        repeats=int(data.get("repeats", 1)),
        on_truncated=asking.on_truncated,
        on_edit=data.get("on_edit", "keep"),
        schedule=schedule_settings(data.get("schedule")),
        notify=_notify(data.get("notify")),
        positions=positions(root),
        canonical=_canonical(root, name, folder),
    )


def default_name(path: str) -> str:
    """The file's stem in the letters that a name may have."""
    stem = Path(path).name.partition(".")[0] or Path(path).name
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:64].rstrip("-") or "manifest"


def _dataset(data: Mapping[str, Any]) -> DatasetSettings:
    return DatasetSettings(
        paths=_several(data["path"]), query=data.get("query"), key=_several(data.get("key"))
    )


def _model(data: Mapping[str, Any]) -> ModelSettings:
    return ModelSettings(
        provider=_provider(data["provider"]),
        name=data["name"],
        endpoint=data.get("endpoint", "/v1/chat/completions"),
        parameters=data.get("parameters", {}),
        prices=_prices(data.get("prices")),
    )


def _provider(data: str | Mapping[str, Any]) -> ProviderSettings:
    if isinstance(data, str):
        return ProviderSettings(name=data)
    return ProviderSettings(
        name=data.get("name"),
        base_url=_address(data.get("base_url")),
        api_key_env=data.get("api_key_env"),
        upstream=_address(data.get("upstream")),
        max_file_bytes=_size(data.get("max_file_bytes")),
        max_requests_per_file=_whole(data.get("max_requests_per_file")),
        max_body_bytes=_size(data.get("max_body_bytes")),
        poll_interval_s=_duration(data.get("poll_interval_s")),
        settle_s=_duration(data.get("settle_s")),
    )


def _duration(value: Any) -> float | None:
    return None if value is None else duration_s(value)


def _prices(data: Mapping[str, Any] | None) -> Prices | None:
    if data is None:
        return None
    return Prices(
        input_per_million=float(data["input_per_million"]),
        output_per_million=float(data["output_per_million"]),
        currency=data.get("currency", "USD"),
    )


def _batch(data: Mapping[str, Any]) -> BatchSettings:
    return BatchSettings(
        completion_window=data.get("completion_window", BatchSettings().completion_window),
        max_file_bytes=_size(data.get("max_file_bytes")),
        max_requests_per_file=_whole(data.get("max_requests_per_file")),
        max_open_batches=_whole(data.get("max_open_batches")),
    )


def _output(
    data: Mapping[str, Any], answer_schema: Mapping[str, Any] | None, default_path: str
) -> OutputSettings:
    return OutputSettings(
        paths=_several(data.get("path", default_path)),
        schema=answer_schema,
        schema_path=data.get("schema"),
        prefix=data.get("prefix", ""),
        csv_safe=data.get("csv_safe", False),
    )


def _retry(data: Mapping[str, Any]) -> RetrySettings:
    backoff = data.get("backoff", {})
    return RetrySettings(
        attempts=int(data.get("attempts", RetrySettings().attempts)),
        initial_s=_duration(backoff.get("initial")),
        factor=_number(backoff.get("factor")),
        max_s=_duration(backoff.get("max")),
    )


def schedule_settings(data: Mapping[str, Any] | None) -> ScheduleSettings | None:
    """The block `schedule`, which has passed the schema; None where there is none."""
    if data is None:
        return None
    usual = ScheduleSettings(cron=data["cron"])
    reprocess = data.get("reprocess", usual.reprocess)
    by_age = reprocess if isinstance(reprocess, Mapping) else None
    return ScheduleSettings(
        cron=data["cron"],
        timezone=data.get("timezone", usual.timezone),
        overlap=data.get("overlap", usual.overlap),
        missed=data.get("missed", usual.missed),
        start_within_s=_duration(data.get("start_within")),
        jitter_s=_duration(data.get("jitter")) or 0.0,
        reprocess=usual.reprocess if by_age is not None else reprocess,
        refresh_older_than_s=_duration(by_age["older_than"]) if by_age is not None else None,
    )


def _truncated(data: Mapping[str, Any] | None) -> TruncatedSettings | None:
    if data is None:
        return None
    return TruncatedSettings(factor=float(data["max_tokens_factor"]), ceiling=int(data["ceiling"]))


def _notify(data: Mapping[str, Any] | None) -> NotifySettings | None:
    if data is None:
        return None
    usual = NotifySettings(url_env=data["url_env"])
    return replace(usual, on=tuple(map(Occasion, data["on"]))) if "on" in data else usual


def _tolerance(value: str | int | None) -> Tolerance:
    if value is None:
        return Tolerance()
    if isinstance(value, str) and value.endswith("%"):
        return Tolerance(share=percent_share(value), count=None, declared=True)
    return Tolerance(count=int(value), declared=True)


def _several(value: str | list[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _size(value: str | int | None) -> int | None:
    return None if value is None else size_bytes(value)


def _whole(value: int | float | None) -> int | None:
    """JSON Schema takes 3.0 for a whole number; from here on it is one."""
    return None if value is None else int(value)


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _address(text: str | None) -> str | None:
    return None if text is None else text.rstrip("/")


# ---------------------------------------------------------------- paths and the canonical form


def _canonical(root: MapNode, name: str, folder: str) -> bytes:
    """The document as sorted JSON. Relative paths are seen from the manifest's folder and absolute ones
    kept, so that a project can be moved."""
    return encode_json({**plain(_with_paths(root, folder)), "name": name}, sort_keys=True)


def _with_paths(root: MapNode, folder: str | None) -> MapNode:
    """The document with its paths absolute, or, those written relative, as seen from `folder`."""
    for path in _PATHS:
        root = _with_path(root, path, folder)
    return root


def _with_path(root: MapNode, path: tuple[str, ...], folder: str | None) -> MapNode:
    entry = root.entries.get(path[0])
    if entry is None:
        return root
    value: Node
    if len(path) == 1:
        value = _placed(entry.value, folder)
    elif isinstance(entry.value, MapNode):
        value = _with_path(entry.value, path[1:], folder)
    else:
        return root
    return replace(root, entries={**root.entries, path[0]: Entry(position=entry.position, value=value)})


def _placed(node: Node, folder: str | None) -> Node:
    if isinstance(node, ListNode):
        return replace(node, items=tuple(_placed(item, folder) for item in node.items))
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
        return node
    whole = absolute(node.value, node.folder)
    is_kept = folder is None or node.value.startswith("/")
    return replace(node, value=whole if is_kept or folder is None else relative(whole, folder))
