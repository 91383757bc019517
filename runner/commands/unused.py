"""Uploads on the server that no batch uses and no shard will: left by an interruption, or planned anew.

Theory. The ledger decides (`Ledger.unused_uploads`): an upload whose id never came, and one of a shard that
was discarded as unpaid, are in no create, sent or to be sent. Of the first kind only the name is known, and
no other file has it: it holds the run's 32 random digits, slot, attempt and digest. A copy of the project may
have gone on with either, so the server is asked as well whether a batch is made of them; where its listing
can't be read to the end, the file stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from runner.core.tags import PREFIX
from runner.core.wire import BatchObject, FileObject
from runner.ledger import UnusedUpload

if TYPE_CHECKING:
    from runner.provider import Client

_CLOCKS_APART_S = 86_400
"""The server's clock and ours, at most: what is older by more is not looked for."""
_ONE_CLOCK_S = 600
"""Several machines may give a server's times."""


def found_on_server(client: Client, uploads: Sequence[UnusedUpload]) -> list[UnusedUpload]:
    """Those that the server lists and has made no batch of, with their ids. Only reads; raises
    ProviderError."""
    named = {one.filename: one for one in uploads}
    listed = _listed(client, named) if named else []
    return [replace(named[file.filename or ""], file_id=file.file_id) for file in _free(client, listed)]


def _listed(client: Client, named: Mapping[str, UnusedUpload]) -> list[FileObject]:
    oldest_s = min(one.begun_at for one in named.values()).timestamp()
    scan = client.list_files(search=PREFIX, not_before_s=int(oldest_s) - _CLOCKS_APART_S)
    found = [one for one in scan.objects if isinstance(one, FileObject) and one.filename in named]
    return [one for one in found if named[one.filename or ""].file_id in (None, one.file_id)]


def _free(client: Client, files: Sequence[FileObject]) -> list[FileObject]:
    """Those of which the server lists no batch, back to before the first of them by its own clock."""
    if not files:
        return []
    created_s = [file.created_at_s for file in files if file.created_at_s is not None]
    not_before_s = min(created_s) - _ONE_CLOCK_S if len(created_s) == len(files) else None
    scan = client.list_batches(not_before_s=not_before_s)
    if not scan.is_complete:
        return []
    used = {one.input_file_id for one in scan.objects if isinstance(one, BatchObject)}
    return [file for file in files if file.file_id not in used]
