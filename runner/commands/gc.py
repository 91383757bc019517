"""`run gc`: remove what nothing refers to any more; say it all first with `--dry-run`.

The outline::

    gc
      list_files     before any lock: what is listed is older than our locks
      hold           every manifest's lock that is free; what belongs to the others is left alone
      Search.all     scratch, shards, snapshots, histories, answers
      _remove        the ledger forgets first, the file goes after
      _remove_remote input files on the server, with `--remote`

What it removes, exactly: scratch of processes that are gone; input files of shards that are over;
snapshots that the current rows are not of; tables of runs older than `older_than_s`, but for the last
ten of each manifest; raw files older than that in which no answer stands that a current row wants, or
that a table since then held. Such answers are forgotten by the ledger too: a row that wants one again
is asked again. With `remote`, uploaded input files of shards that are done, where every answer is here, and
uploads of which surely no batch was made nor will be (`commands.unused`). Else a shard that is not done is
never touched, because deleting an input file stops its batch; nor is one that a person gave up, whose batch
may be under way.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands.documents import provider_of
from runner.commands.leftovers import Kind, Leftover, Listing, Search, cutoff, list_files, stamp
from runner.commands.local import connected
from runner.commands.moments import Reporter, Trouble
from runner.commands.options import ManifestOptions
from runner.commands.unused import found_on_server
from runner.commands.workplace import open_workplace
from runner.core.model import Provider
from runner.errors import LedgerError, RunnerError
from runner.failpoints import failpoint
from runner.ledger import (
    HeldElsewhereError,
    Ledger,
    LedgerPlace,
    ManifestRecord,
    RemoteInput,
    UnusedUpload,
    hold,
    locate,
)
from runner.provider import NotFoundYetError, ProviderError, resolve

if TYPE_CHECKING:
    from runner.provider import Client

OLDER_THAN_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GcOptions:
    """`manifest`: only what belongs to this one (None: the whole project of `cwd`)."""

    manifest: ManifestOptions | None = None
    older_than_s: float = OLDER_THAN_S
    is_dry_run: bool = False
    remote: bool = False
    cwd: str = "."
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GcResult:
    """What was removed, or would be; `busy` are manifests that another process works on."""

    removed: tuple[Leftover, ...] = ()
    busy: tuple[str, ...] = ()
    is_dry_run: bool = False

    @property
    def freed_bytes(self) -> int:
        """On this machine."""
        return sum(one.size_bytes for one in self.removed if one.kind is not Kind.REMOTE)


def gc(options: GcOptions, *, reporter: Reporter, now_at: datetime | None = None) -> GcResult:
    """Find and remove, or only find. Raises InputError, LedgerError, ProviderError."""
    asked = options.manifest
    path = Path(options.cwd) / (asked.path if asked else "manifest.yaml")
    place = locate(str(path), options.environ)
    seen = Ledger.open_reading(place)
    if seen is None:
        return GcResult(is_dry_run=options.is_dry_run)
    seen.close()
    listing = list_files(place.folder)
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open(place))
        manifests = ledger.manifests()
        wanted = [one for one in manifests if asked is None or one.path == place.relative(path)]
        busy = _hold_free(place, wanted, stack, everything=asked is None)
        free = [one for one in wanted if one.path not in busy]
        search = Search(
            place,
            ledger,
            listing,
            free={one.id for one in free},
            includes_unknown=asked is None and not busy,
            cutoff_at=cutoff(now_at or datetime.now(UTC), options.older_than_s),
        )
        if unknown := search.without_rows():
            what = f"what {', '.join(unknown)} wants is not known since the ledger was rebuilt: run it first"
            reporter.tell(Trouble(what=f"no answers are removed: {what}"))
        removed = list(_removed(place, ledger, listing, search.all(), options.is_dry_run))
        if options.remote:
            for one in free:
                removed += _remove_remote(one, place, ledger, options, reporter)
    return GcResult(removed=tuple(removed), busy=tuple(busy), is_dry_run=options.is_dry_run)


def _hold_free(
    place: LedgerPlace, wanted: list[ManifestRecord], stack: ExitStack, *, everything: bool
) -> list[str]:
    """Take the locks of these manifests, and of those that never got as far as the ledger. Gives who
    has one already."""
    names = {place.manifest_lock(one.path): one.path for one in wanted}
    locks = dict(names)
    if everything:
        unknown = "a manifest that the ledger does not know yet"
        locks = dict.fromkeys((place.folder / "locks").glob("manifest-*.lock"), unknown) | names
    busy = []
    for path, name in sorted(locks.items()):
        try:
            stack.enter_context(hold(path))
        except HeldElsewhereError:
            busy.append(name)
    return busy


# ---------------------------------------------------------------- this machine


def _removed(
    place: LedgerPlace, ledger: Ledger, listing: Listing, leftovers: list[Leftover], is_dry_run: bool
) -> Iterator[Leftover]:
    for one in leftovers:
        if is_dry_run or _remove(place, ledger, listing, one):
            yield one


def _remove(place: LedgerPlace, ledger: Ledger, listing: Listing, leftover: Leftover) -> bool:
    """The ledger first. False where somebody needs it by now."""
    failpoint("gc.begins")
    path = place.folder / leftover.name
    if leftover.raw_id is not None and not ledger.forget_raw(leftover.raw_id):
        return False
    for run_id in leftover.run_ids:
        ledger.note_run(run_id, history=None)
    failpoint("gc.forgot")
    if leftover.name in listing.files and stamp(path)[1:] != listing.files[leftover.name][1:]:
        return False  # written anew since it was listed
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    failpoint("gc.removed")
    return True


# ---------------------------------------------------------------- the server


def _remove_remote(
    manifest: ManifestRecord, place: LedgerPlace, ledger: Ledger, options: GcOptions, reporter: Reporter
) -> list[Leftover]:
    """Input files whose answers are all safe here. What can't be removed is told and stays."""
    removed: list[Leftover] = []
    try:
        provider = _provider(manifest, place, ledger, options)
        inputs = _safe_inputs(manifest, place, provider, ledger)
        unused = [one for one in ledger.unused_uploads(manifest.id) if one.server == provider.server]
        if options.is_dry_run:
            removed += [_as_leftover(one) for one in inputs]
        if not unused and (options.is_dry_run or not inputs):
            return removed
        with connected(provider, place.folder, options.environ) as (client, _):
            for one in () if options.is_dry_run else inputs:
                if _delete(client, ledger, one, reporter):
                    removed.append(_as_leftover(one))
            for upload in found_on_server(client, unused):
                if options.is_dry_run or _delete_unused(client, place, ledger, upload, manifest, reporter):
                    removed.append(_as_leftover(_as_input(upload)))
    except LedgerError:
        raise
    except RunnerError as error:
        reporter.tell(Trouble(what=f"{manifest.path}: its input files on the server stay: {error.what}"))
    return removed


def _provider(manifest: ManifestRecord, place: LedgerPlace, ledger: Ledger, options: GcOptions) -> Provider:
    """Whom the manifest names; where its file is gone or renamed, whom its last run named."""
    path = place.project / manifest.path
    last = ledger.current_run(manifest.id)
    if not path.exists() and last is not None:
        return resolve(provider_of(last))
    asked = options.manifest or ManifestOptions(path=str(path))
    return open_workplace(asked, options.environ).provider


def _safe_inputs(
    manifest: ManifestRecord, place: LedgerPlace, provider: Provider, ledger: Ledger
) -> list[RemoteInput]:
    """Of shards that are done, at the manifest's own server, with a line for every request in raw files that
    are here, after a table of the manifest was written."""
    current = ledger.current_run(manifest.id)
    if current is None or current.published is None:
        return []
    return [
        one
        for one in ledger.remote_inputs(manifest.id)
        if all((place.folder / path).exists() for path in one.raw_paths)
        and ledger.submission(one.shard_id).server == provider.server
    ]


def _delete(client: Client, ledger: Ledger, remote: RemoteInput, reporter: Reporter) -> bool:
    failpoint("gc.remote_sending")
    try:
        client.delete_file(remote.file_id)
    except NotFoundYetError:
        pass  # gone already: expired, or deleted by a call whose reply was lost
    except ProviderError as error:
        reporter.tell(Trouble(what=f"file {remote.file_id} stays: {error.what}"))
        return False
    failpoint("gc.remote_deleted")
    ledger.note_input_deleted(remote)
    failpoint("gc.remote_noted")
    return True


def _delete_unused(
    client: Client,
    place: LedgerPlace,
    ledger: Ledger,
    upload: UnusedUpload,
    manifest: ManifestRecord,
    reporter: Reporter,
) -> bool:
    """Under the shard's lock: a process of another manifest, whose rows wait for it, may be uploading it."""
    try:
        with hold(place.shard_lock(upload.shard_id)):
            is_unused = any(one.filename == upload.filename for one in ledger.unused_uploads(manifest.id))
            return is_unused and _delete(client, ledger, _as_input(upload), reporter)
    except HeldElsewhereError:
        return False


def _as_input(upload: UnusedUpload) -> RemoteInput:
    return RemoteInput(
        shard_id=upload.shard_id,
        attempt=upload.attempt,
        file_id=upload.file_id or "",
        size_bytes=upload.size_bytes,
        raw_paths=(),
    )


def _as_leftover(remote: RemoteInput) -> Leftover:
    return Leftover(kind=Kind.REMOTE, name=remote.file_id, size_bytes=remote.size_bytes)
