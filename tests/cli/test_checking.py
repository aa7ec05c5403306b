"""`thaw fsck` on the command line."""

import json
import os
from pathlib import Path

from core.database import open_database
from core.datasets import remember_image
from core.storage import blob_key, open_storage, thumbnail_key
from core.tables import User
from tests.cli.test_main import Thaw, settings_of, thaw  # noqa: F401 - a fixture

SHA = "ab" * 32


def test_without_a_database_it_says_so_and_makes_none(thaw: Thaw, tmp_path: Path) -> None:  # noqa: F811
    said = thaw("fsck")
    assert said.code == 2
    assert "no database" in said.error
    assert not (tmp_path / "data" / "thaw.sqlite3").exists()


def test_it_tells_counts_and_repairs(thaw: Thaw, tmp_path: Path) -> None:  # noqa: F811
    assert thaw("migrate").code == 0
    settings = settings_of(tmp_path)
    storage = open_storage(settings)
    storage.put(blob_key(SHA), b"garbage")
    os.utime(storage.local(blob_key(SHA)), (0, 0))
    said = thaw("fsck")
    assert said.code == 0, "garbage alone does no harm"
    assert said.out.splitlines()[0] == f"orphaned  {blob_key(SHA)}"
    assert said.out.splitlines()[1].startswith("1 files (0.00 GB) read: 0 missing, 0 damaged, 1 that no row names.")
    rows = [json.loads(line) for line in thaw("fsck", "--repair", "--json").out.splitlines()]
    assert [(row["kind"], row.get("removed")) for row in rows] == [("orphaned", True), ("summary", 1)]
    assert not storage.has(blob_key(SHA))


def test_what_is_missing_makes_the_exit_code_1(thaw: Thaw, tmp_path: Path) -> None:  # noqa: F811
    assert thaw("migrate").code == 0
    database = open_database(settings_of(tmp_path))
    with database.write() as session:
        user = User(name="ada")
        session.add(user)
        session.flush()
        remember_image(session, user.id, SHA, {"width": 1, "height": 1, "format": "PNG", "size_bytes": 1})
    database.close()
    said = thaw("fsck", "--quick", "--json")
    assert said.code == 1
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [(row["kind"], row.get("key")) for row in rows[:-1]] == [
        ("missing", blob_key(SHA)),
        ("missing", thumbnail_key(SHA)),
    ]
    assert rows[-1]["missing"] == 2
