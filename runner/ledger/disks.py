"""Is a file on a disk of this machine? SQLite's locks don't hold across a network file system.

The rule: refuse what is known to be shared (two hosts would corrupt the ledger, and a lost ledger pays
twice), let pass what is unknown. Only Linux says what a path lies on; elsewhere nothing is refused.
"""

from __future__ import annotations

import os
from pathlib import Path

from runner.errors import LedgerError

MOUNTS = Path("/proc/self/mounts")
_SHARED = frozenset(
    {
        *(
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "smbfs",
            "ncpfs",
            "afs",
            "9p",
            "ceph",
            "glusterfs",
            "lustre",
            "beegfs",
        ),
        *("fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.glusterfs", "fuse.ceph"),
        *(
            "fuse.grpcfuse",
            "fuse.osxfs",
            "fuse.smbnetfs",
            "fuse.davfs",
            "davfs",
            "vboxsf",
            "fuse.vmhgfs-fuse",
        ),
    }
)


def refuse_network_disk(path: Path, *, is_allowed: bool, mounts: Path = MOUNTS) -> None:
    """Errors: LedgerError if `path` lies on a network file system and that is not allowed."""
    kind = None if is_allowed else file_system_of(path, mounts)
    if kind in _SHARED:
        raise LedgerError(
            f"{path}: lies on a network file system ({kind}), where SQLite's locks don't hold",
            next_step="set RUNNER_LEDGER to a file on a local disk (sqlite:////folder/ledger.db) or to a "
            "PostgreSQL server; RUNNER_ALLOW_NETWORK_DISK=1 if only this machine uses it",
        )


def file_system_of(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The type of the file system a path lies on; None where the system does not say.

    The root itself counts as local whatever it is: sandboxes show their own root as `9p`.
    """
    try:
        lines = mounts.read_bytes().split(b"\n")
    except OSError:
        return None
    wanted = os.fsencode(path.resolve())
    best, kind = b"", None
    for line in lines:
        fields = line.split(b" ")
        if len(fields) < 3:
            continue
        point = _unescaped(fields[1])
        is_above = wanted == point or wanted.startswith(point.rstrip(b"/") + b"/")
        if is_above and len(point) >= len(best):
            best, kind = point, os.fsdecode(fields[2])
    return None if best == b"/" else kind


def _unescaped(field: bytes) -> bytes:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    for octal, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(octal, byte)
    return field
