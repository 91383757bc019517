"""The whole dataset rendered and compared with the ledger: everything is known before anything is spent.

Works on a scratch database and scratch files only. The ledger is read, never written, until the gate is
passed and `commit` is called; a crash before that leaves nothing but scratch.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from runner.commands.moments import Planned, Reporter, RowsRead, RowsRendered
from runner.commands.rendering import Rendered, RenderSource, render_all
from runner.commands.sharding import CountingShards, SealedShard, ShardFiles, Shards
from runner.commands.workplace import Workplace
from runner.core.identity import custom_id
from runner.core.model import Cause
from runner.core.planning import Estimate, Held, Plan, Policy, Reason, Standing, estimate, stand
from runner.dataset import Snapshot, take_snapshot
from runner.errors import InputError, Mistake
from runner.ledger import Ledger, RunRecord, StagedRow, Staging
from runner.prompt import Prompt, PromptSource
from runner.results import check_columns, check_targets, lineage_columns

LINE_OVERHEAD_BYTES = 256
"""More than a line can add to its body: custom_id, method, url, punctuation."""
_CAUSES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan with all that carrying it out needs."""

    plan: Plan
    causes: tuple[str, ...]
    snapshot: Snapshot
    staging: Staging
    shards: tuple[SealedShard, ...]
    files: ShardFiles | None
    template_digest: str
    manifest_digest: str


@contextmanager
def prepared(
    workplace: Workplace,
    ledger: Ledger | None,
    *,
    write_shards: bool,
    limit: int | None,
    reporter: Reporter,
    workers: int | None,
    check_stop: Callable[[], None],
) -> Iterator[Prepared]:
    """Snapshot, render, compare, split. The scratch folder goes with the context.

    `check_stop` is called between chunks and raises where a person interrupted.
    """
    with _scratch_folder(workplace, keep_in_project=write_shards) as scratch:
        snapshot = take_snapshot(workplace.manifest, scratch / "snapshot.parquet", scratch=scratch)
        reporter.tell(RowsRead(rows=snapshot.rows))
        source = render_source(workplace, snapshot.path)
        prompt = source.prompt.compile()
        source = replace(source, prompt=prompt.source)  # workers render the texts that were read here
        check_everything(workplace, snapshot, prompt)
        limits = workplace.provider.limits
        files = (
            ShardFiles(limits, folder=workplace.place.folder / "shards", scratch=scratch)
            if write_shards
            else None
        )
        shards: Shards = files or CountingShards(limits)
        with Staging.create(scratch) as staging:
            try:
                comparison = _Comparison(workplace, ledger, staging, shards, limit)
                for chunk in render_all(source, snapshot.rows, workers=workers):
                    check_stop()
                    comparison.add(chunk)
                    reporter.tell(RowsRendered(rows=comparison.rows, total=snapshot.rows))
                sealed = tuple(shards.seal())
                manifest_digest = sha256(workplace.manifest.canonical).hexdigest()
                plan = comparison.plan(sealed, snapshot, prompt.digest(), manifest_digest)
                reporter.tell(Planned(plan=plan, causes=tuple(comparison.causes)))
                yield Prepared(
                    plan=plan,
                    causes=tuple(comparison.causes),
                    snapshot=snapshot,
                    staging=staging,
                    shards=sealed,
                    files=files,
                    template_digest=prompt.digest(),
                    manifest_digest=manifest_digest,
                )
            except BaseException:
                if files is not None:
                    files.discard()
                raise


@contextmanager
def _scratch_folder(workplace: Workplace, *, keep_in_project: bool) -> Iterator[Path]:
    """Inside `.runner/` for a run (same file system as shards/), in the system's place for a plan."""
    parent = workplace.place.folder / "scratch" if keep_in_project else None
    folder = Path(tempfile.mkdtemp(prefix="plan-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def render_source(workplace: Workplace, snapshot_path: str) -> RenderSource:
    """What the render workers need."""
    manifest = workplace.manifest
    return RenderSource(
        snapshot=snapshot_path,
        prompt=PromptSource(
            template=manifest.prompt.template,
            search_root=str(workplace.place.project),
            params=dict(manifest.prompt.params),
            max_output_bytes=workplace.provider.limits.max_body_bytes,
        ),
        provider=workplace.provider,
        endpoint=manifest.model.endpoint,
        model=manifest.model.name,
        parameters=dict(manifest.model.parameters),
        schema=dict(manifest.output.schema) if manifest.output.schema is not None else None,
    )


def check_everything(workplace: Workplace, snapshot: Snapshot, prompt: Prompt) -> None:
    """Mistakes that show only when dataset, template and output meet. Raises InputError with all of them."""
    manifest = workplace.manifest
    columns = lineage_columns(
        manifest.output.schema,
        manifest.output.prefix,
        embeddings=manifest.model.endpoint == "/v1/embeddings",
    )
    clashes = check_columns([column.name for column in snapshot.columns], columns)
    mistakes = list(prompt.check([column.name for column in snapshot.columns]))
    mistakes += check_targets([Path(path) for path in manifest.output.paths])
    for clash in clashes:
        if isinstance(clash, Mistake):
            mistakes.append(clash)
        else:
            mistakes.append(Mistake(where=manifest.where("dataset.path"), path="dataset", what=clash))
    if mistakes:
        raise InputError(mistakes)


class _Comparison:
    """Chunk by chunk: desired against held, into staging and shards."""

    def __init__(
        self, workplace: Workplace, ledger: Ledger | None, staging: Staging, shards: Shards, limit: int | None
    ) -> None:
        self._workplace = workplace
        self._manifest = workplace.manifest
        self._ledger = ledger
        self._staging = staging
        self._shards = shards
        self._limit = limit
        self._policy = Policy(max_attempts=workplace.manifest.retry.attempts)
        self._shape = workplace.shape()
        self._body_limit = workplace.provider.limits.max_file_bytes - LINE_OVERHEAD_BYTES
        self._body_bytes = 0
        self.rows = 0
        self.causes: list[str] = []
        self._cause_counts: Counter[str] = Counter()

    def add(self, chunk: list[Rendered]) -> None:
        """Take a chunk of rendered rows."""
        held = self._held(chunk)
        staged: list[StagedRow] = []
        wanting: list[tuple[int, Rendered]] = []
        for rendered in chunk:
            cause = rendered.cause or self._too_large(rendered)
            if cause is not None or rendered.fingerprint is None:
                staged.append(self._unsendable(rendered, cause))
                continue
            standing = stand(held.get(rendered.fingerprint), self._policy)
            if standing is Standing.TO_SEND and (self._limit is None or rendered.position < self._limit):
                wanting.append((len(staged), rendered))
            staged.append(
                StagedRow(
                    rendered.position, rendered.key, rendered.fingerprint, standing.value, None, None, None
                )
            )
        self._place(staged, wanting, held)
        self._staging.add_rows(staged)
        self.rows += len(chunk)

    def _held(self, chunk: list[Rendered]) -> dict[bytes, Held]:
        if self._ledger is None:
            return {}
        wanted = {rendered.fingerprint for rendered in chunk if rendered.fingerprint is not None}
        return dict(self._ledger.held(list(wanted)))

    def _place(
        self, staged: list[StagedRow], wanting: list[tuple[int, Rendered]], held: dict[bytes, Held]
    ) -> None:
        """Of equal requests the first is sent; the others get its answer."""
        fingerprints = [rendered.fingerprint for _, rendered in wanting if rendered.fingerprint is not None]
        claims = self._staging.claim(fingerprints)
        for (index, rendered), is_first in zip(wanting, claims, strict=True):
            if not is_first or rendered.fingerprint is None:
                continue
            known = held.get(rendered.fingerprint)
            name = known.name if known is not None else rendered.name
            line = self._shape.line(custom_id(name, rendered.fingerprint), rendered.body)
            place = self._shards.place(line)
            self._body_bytes += len(rendered.body)
            staged[index] = staged[index]._replace(slot=place.shard, line=place.line, name=name)

    def _too_large(self, rendered: Rendered) -> Cause | None:
        if len(rendered.body) <= self._body_limit:
            return None
        message = f"the request is {len(rendered.body):,} bytes; a file may hold {self._body_limit:,}"
        return Cause(error_class="body_too_large", message=message)

    def _unsendable(self, rendered: Rendered, cause: Cause | None) -> StagedRow:
        cause = cause or Cause(error_class="template_error", message="the row has no request")
        self._cause_counts[cause.error_class] += 1
        if len(self.causes) < _CAUSES_SHOWN:
            self.causes.append(f"row {rendered.position + 1}, key {rendered.key!r}: {cause.message}")
        return StagedRow(rendered.position, rendered.key, None, Standing.UNSENDABLE.value, None, None, cause)

    def plan(
        self, shards: Sequence[SealedShard], snapshot: Snapshot, template_digest: str, manifest_digest: str
    ) -> Plan:
        """The plan, now that every row has been seen."""
        previous = self._previous_run()
        if self._ledger is not None and previous is not None:
            self._staging.load_previous(self._ledger.previous_rows(previous.manifest_id))
        compared = self._staging.compare()
        counts = self._staging.counts()
        requests = sum(shard.requests for shard in shards)
        return Plan(
            manifest=self._manifest.name,
            rows=self.rows,
            unchanged=compared.unchanged,
            new=compared.new,
            changed=compared.changed,
            removed=compared.removed,
            failed_before=counts.get(Standing.FAILED.value, 0),
            in_flight=counts.get(Standing.IN_FLIGHT.value, 0),
            unsendable=counts.get(Standing.UNSENDABLE.value, 0),
            duplicates=self._staging.duplicates(),
            requests_to_send=requests,
            shards=len(shards),
            size_bytes=sum(shard.size_bytes for shard in shards),
            estimate=self._estimate(requests),
            reasons=_reasons(previous, snapshot, template_digest, manifest_digest, compared.changed),
            causes=dict(self._cause_counts),
        )

    def _previous_run(self) -> RunRecord | None:
        if self._ledger is None:
            return None
        manifest_id = self._ledger.find_manifest(self._workplace.manifest_path)
        return self._ledger.current_run(manifest_id) if manifest_id is not None else None

    def _estimate(self, requests: int) -> Estimate:
        parameters = self._manifest.model.parameters
        bounds = (
            parameters.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")
        )
        bound = next((value for value in bounds if isinstance(value, int)), None)
        return estimate(
            body_bytes=self._body_bytes,
            requests=requests,
            max_output_tokens=0 if self._manifest.model.endpoint == "/v1/embeddings" else bound,
            prices=self._manifest.model.prices,
            is_free=self._workplace.provider.is_local,
        )


def _reasons(
    previous: RunRecord | None, snapshot: Snapshot, template: str, manifest: str, changed: int
) -> tuple[Reason, ...]:
    """Which inputs moved since the last run. Rows: those whose request is another one now."""
    if previous is None:
        return ()
    pairs = (
        ("dataset", previous.dataset_digest, snapshot.digest),
        ("template", previous.template_digest, template),
        ("manifest", previous.manifest_digest, manifest),
    )
    return tuple(Reason(what=what, was=was, now=now, rows=changed) for what, was, now in pairs if was != now)
