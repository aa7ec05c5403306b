"""The data folder of `thaw serve`: used by one server at a time, never on a network file system (SQLite's WAL needs shared memory)."""

import fcntl
import os
from pathlib import Path
from typing import IO

from core.config import Settings

# file systems on which SQLite's WAL mode is not safe or does not work
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "ncpfs"}
)
NETWORK_FUSE = frozenset({"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.rclone", "fuse.s3fs", "fuse.davfs2"})
_MOUNTS = Path("/proc/self/mountinfo")


class FolderUnusable(Exception):
    """The data folder cannot be used. `str(error)` is a sentence."""


def take_folder(settings: Settings) -> IO[str]:
    """Make the data folder if needed and lock it; keep the returned file open as long as it is used.

    Raises:
        FolderUnusable: in use, not writable, or on a network file system.
    """
    folder = settings.folder
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "thaw.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise FolderUnusable(f"The data folder {folder} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise FolderUnusable(
            f"The data folder {folder} is in use by another `thaw serve`. Stop that one, or choose another --data-dir."
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    if settings.database_url is None:
        check_file_system(folder)
    return lock


def check_file_system(folder: Path) -> None:
    """Refuse SQLite on a network file system.

    Raises:
        FolderUnusable: naming the file system.
    """
    kind = file_system_of(folder)
    if kind in NETWORK or kind in NETWORK_FUSE:
        raise FolderUnusable(
            f"The data folder {folder} is on a network file system ({kind}), where SQLite can lose data. "
            "Choose a --data-dir on a local disk, or set DATABASE_URL to PostgreSQL."
        )


def file_system_of(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """Type of the file system that holds `folder`, e.g. `ext4`; None where the system has no mount table."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    best, kind = -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(_unescaped(before.split(" ")[4]))
        # a later mount on the same point hides the earlier one
        if (folder == point or point in folder.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split(" ")[0]
    return kind


def _unescaped(text: str) -> str:
    """The mount table writes space, tab, newline and backslash as octal."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
