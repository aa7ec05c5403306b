"""`thaw fsck`: says what core/fsck.py finds, line by line, and counts at the end."""

from dataclasses import asdict

from cli.screen import Screen
from core.config import Settings
from core.database import open_database
from core.errors import ThawError
from core.fsck import Fsck, Tally, Trouble
from core.storage import open_storage


class NothingToCheck(ThawError):
    """There is no database yet."""


def check_files(settings: Settings, screen: Screen, *, hashes: bool, repair: bool) -> bool:
    """Check everything; True when nothing is missing or damaged.

    Raises:
        NothingToCheck: no Thaw was ever started with this data folder.
    """
    if settings.database_url is None and not (settings.folder / "thaw.sqlite3").is_file():
        raise NothingToCheck(f"There is no database in {settings.folder}: nothing was ever stored there.")
    database = open_database(settings)
    try:
        check = Fsck(settings, database, open_storage(settings), hashes=hashes, repair=repair)
        for trouble in check.run():
            screen.result(asdict(trouble), _line(trouble))
    finally:
        database.close()
    screen.result({"kind": "summary", **check.tally.as_row()}, _summary(check.tally, hashes=hashes))
    return check.tally.whole


def _line(trouble: Trouble) -> str:
    done = "removed" if trouble.removed else trouble.kind.value
    return f"{done:<9} {trouble.key}  {trouble.detail}".rstrip()


def _summary(tally: Tally, *, hashes: bool) -> str:
    row = tally.as_row()
    how = "read" if hashes else "seen, none of them read"
    text = (
        f"{tally.files:,} files ({tally.bytes / 1e9:.2f} GB) {how}: {row['missing']:,} missing, {row['damaged']:,} damaged, "
        f"{row['orphaned']:,} that no row names."
    )
    if tally.removed:
        text += f" {tally.removed:,} removed, {tally.removed_bytes / 1e6:.1f} MB."
    if tally.young:
        text += f" {tally.young:,} without a row are younger than an hour and were left alone."
    return text
