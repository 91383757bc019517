"""Where a manifest lives and whom it talks to: everything a command resolves before it works.

Ties the manifest to its ledger (found from the manifest's place, never from the current directory) and
to its provider. Reads files; touches no network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner import provider as provider_room
from runner.commands.isolation import keys_for_a_stranger, marked_isolated, paths_outside
from runner.commands.options import ManifestOptions
from runner.core.identity import RequestShape
from runner.core.model import Backoff, Limits, Manifest, Provider
from runner.core.raising import rungs
from runner.errors import InputError, Mistake
from runner.ledger import LedgerPlace, locate
from runner.manifest import WITHHELD, load, load_what_stands


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """A manifest with its provider profile and its ledger's place. `is_isolated`: it is a stranger's."""

    manifest: Manifest
    provider: Provider
    place: LedgerPlace
    is_isolated: bool = False

    @property
    def manifest_path(self) -> str:
        """The manifest's path relative to the project folder: its name in the ledger."""
        return self.place.relative(self.manifest.path)

    def as_typed(self, path: str, options: ManifestOptions) -> str:
        """The path of another manifest of the project, relative where this one was named so."""
        whole = os.path.normpath(self.place.project / path)
        return whole if Path(options.path).is_absolute() else os.path.relpath(whole)

    @property
    def lock_path(self) -> Path:
        """The lock that one process at a time holds on this manifest."""
        return self.place.manifest_lock(self.manifest_path)

    @property
    def file_owner(self) -> str:
        """What stands for this manifest in the names of its input files: 16 hex digits, those of its lock."""
        return self.lock_path.stem.rpartition("-")[2]

    @property
    def backoff(self) -> Backoff:
        """The pauses between attempts."""
        return self.manifest.retry.backoff(self.provider.backoff)

    @property
    def ladder(self) -> tuple[Mapping[str, Any], ...]:
        """The parameters to ask with: as they are, then with larger and larger token limits."""
        model = self.manifest.model
        return rungs(model.endpoint, model.parameters, self.manifest.on_truncated)

    def shape(self, parameters: Mapping[str, Any] | None = None) -> RequestShape:
        """What all requests of this manifest have in common, or would have with these parameters."""
        model = self.manifest.model
        return RequestShape(
            provider_identity=self.provider.identity,
            endpoint=model.endpoint,
            model=model.name,
            parameters=model.parameters if parameters is None else parameters,
            schema=self.manifest.output.schema,
        )


def open_workplace(options: ManifestOptions, environ: Mapping[str, str]) -> Workplace:
    """Load the manifest and resolve its provider. Raises InputError with every mistake."""
    manifest = load_manifest(options, environ)
    workplace, mistakes = _workplace_of(manifest, options, environ)
    if mistakes:
        raise InputError(mistakes)
    return workplace


def survey_workplace(
    options: ManifestOptions, environ: Mapping[str, str]
) -> tuple[Workplace | None, list[Mistake]]:
    """For a check only: the workplace as far as a wrong manifest allows, and what is wrong so far.

    Raises InputError where there is nothing to go on with.
    """
    manifest, mistakes = survey_manifest(options, environ)
    if manifest is None:
        return None, mistakes
    workplace, more = _workplace_of(manifest, options, environ)
    return workplace, mistakes + more


def load_manifest(options: ManifestOptions, environ: Mapping[str, str]) -> Manifest:
    """The manifest, bent as it is asked for. Raises InputError with every mistake."""
    told = _told_to_manifest(options, environ)
    return load(options.path, set_values=options.set_values, profile=options.profile, environ=told)


def survey_manifest(
    options: ManifestOptions, environ: Mapping[str, str]
) -> tuple[Manifest | None, list[Mistake]]:
    """The same as far as a wrong manifest allows, and what is wrong with it. Raises InputError as
    `survey_workplace`."""
    told = _told_to_manifest(options, environ)
    return load_what_stands(
        options.path, set_values=options.set_values, profile=options.profile, environ=told
    )


def _told_to_manifest(options: ManifestOptions, environ: Mapping[str, str]) -> Mapping[str, str]:
    """What `${NAME}` may name: nothing for a stranger's manifest, which could send it anywhere."""
    return WITHHELD if options.is_isolated else environ


def _workplace_of(
    manifest: Manifest, options: ManifestOptions, environ: Mapping[str, str]
) -> tuple[Workplace, list[Mistake]]:
    provider = lowered(provider_room.resolve(manifest.model.provider), manifest)
    place = locate(manifest.path, environ)
    mistakes = provider_mistakes(manifest, provider)
    if options.is_isolated:
        mistakes += paths_outside(manifest, place, options.allowed_paths)
        mistakes += keys_for_a_stranger(manifest, provider, options.set_values)
        manifest = marked_isolated(manifest)
    workplace = Workplace(manifest=manifest, provider=provider, place=place, is_isolated=options.is_isolated)
    return workplace, mistakes


def lowered(provider: Provider, manifest: Manifest) -> Provider:
    """The provider with the limits that `batch:` lowers. A limit is never raised."""
    batch = manifest.batch
    limits = Limits(
        max_file_bytes=min(
            provider.limits.max_file_bytes, batch.max_file_bytes or provider.limits.max_file_bytes
        ),
        max_requests_per_file=min(
            provider.limits.max_requests_per_file,
            batch.max_requests_per_file or provider.limits.max_requests_per_file,
        ),
        max_body_bytes=provider.limits.max_body_bytes,
    )
    open_batches = min(provider.max_open_batches, batch.max_open_batches or provider.max_open_batches)
    return replace(provider, limits=limits, max_open_batches=open_batches)


def limit_warnings(manifest: Manifest) -> list[Mistake]:
    """Limits in `batch:` that have no effect, because they are above those of the provider."""
    provider = provider_room.resolve(manifest.model.provider)
    batch = manifest.batch
    asked = {
        "max_file_bytes": (batch.max_file_bytes, provider.limits.max_file_bytes),
        "max_requests_per_file": (batch.max_requests_per_file, provider.limits.max_requests_per_file),
        "max_open_batches": (batch.max_open_batches, provider.max_open_batches),
    }
    return [
        Mistake(
            where=manifest.where(f"batch.{name}"),
            path=f"batch.{name}",
            what=f"{wanted:,} has no effect: {provider.name} takes at most {limit:,}",
        )
        for name, (wanted, limit) in asked.items()
        if wanted is not None and wanted > limit
    ]


def provider_mistakes(manifest: Manifest, provider: Provider) -> list[Mistake]:
    """What this provider is known not to take, found without network."""
    mistakes = []
    window = manifest.batch.completion_window
    if provider.windows and window not in provider.windows:
        mistakes.append(
            Mistake(
                where=manifest.where("batch.completion_window"),
                path="batch.completion_window",
                what=f"{provider.name} has no window {window!r}",
                hint=f"allowed: {', '.join(provider.windows)}",
            )
        )
    if manifest.model.endpoint not in provider.endpoints:
        mistakes.append(
            Mistake(
                where=manifest.where("model.endpoint"),
                path="model.endpoint",
                what=f"{provider.name} has no endpoint {manifest.model.endpoint!r}",
                hint=f"allowed: {', '.join(provider.endpoints)}",
            )
        )
    if provider.name == "doubleword":
        mistakes += _reasoning_mistakes(manifest)
    return mistakes


_FOREIGN_REASONING = {
    "/v1/chat/completions": (("thinking", "thinking_token_budget", "reasoning"), "reasoning_effort"),
    "/v1/responses": (("thinking", "thinking_token_budget", "reasoning_effort"), "reasoning: {effort: ...}"),
    "/v1/completions": (("thinking", "thinking_token_budget", "reasoning", "reasoning_effort"), "none"),
}


def _reasoning_mistakes(manifest: Manifest) -> list[Mistake]:
    """Doubleword refuses a whole upload for one foreign reasoning key (API reference, 3.4 rule 7)."""
    keys, wanted = _FOREIGN_REASONING.get(manifest.model.endpoint, ((), ""))
    return [
        Mistake(
            where=manifest.where(f"model.parameters.{key}"),
            path=f"model.parameters.{key}",
            what="doubleword refuses this key for this endpoint",
            hint=f"it takes {wanted}",
        )
        for key in keys
        if key in manifest.model.parameters
    ]
