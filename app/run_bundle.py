"""What is needed to run a training again anywhere: a run folder without its pictures, whose SHA-256 it names.

`python -m worker.training FOLDER` on the unpacked bundle is the run, once `pictures/` holds the files by their SHA-256 (`fetch.py` puts
them there from an export of the dataset version).
"""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from core import catalog
from core.config import Settings
from core.database import Database
from core.paging import MOST
from core.tables import DatasetVersion, Run
from core.units import version_units

_README = """\
# Run {name}, again

1. `python fetch.py EXPORT.zip`, with the export of dataset version {number}
   (its page, or `GET /dataset-versions/{version_id}/export`): every picture is put into
   `pictures/` by its SHA-256, and it is said when one is missing.
2. `python -m worker.training FOLDER` (FOLDER is this one) in a checkout of Thaw {code_version},
   by an interpreter that has its requirements.
3. `result.json` and `evaluation.json` appear in FOLDER. `original.json` has what the run gave,
   on which machine and with which versions.

On the same machine, with as many threads, the frozen head comes out bit for bit. Elsewhere kernels
round otherwise: a picture or two near a border may change sides.
"""
_FETCH = '''\
"""python fetch.py EXPORT.zip: pictures of the dataset version, by their SHA-256, into pictures/."""

import hashlib
import json
import pathlib
import sys
import zipfile

wanted = {json.loads(line)["sha256"] for line in open("images.jsonl", encoding="utf-8")}
folder = pathlib.Path("pictures")
folder.mkdir(exist_ok=True)
with zipfile.ZipFile(sys.argv[1]) as archive:
    for name in archive.namelist():
        data = archive.read(name)
        digest = hashlib.sha256(data).hexdigest()
        if digest in wanted:
            (folder / digest).write_bytes(data)
lines = pathlib.Path("images.jsonl").read_text(encoding="utf-8").splitlines()
rows = [json.loads(line) for line in lines]
for row in rows:  # whole paths: the trainer may be started from anywhere
    row["path"] = str((folder / row["sha256"]).resolve())
text = "".join(json.dumps(row, ensure_ascii=False) + "\\n" for row in rows)
pathlib.Path("images.jsonl").write_text(text, encoding="utf-8")
missing = [digest for digest in wanted if not (folder / digest).is_file()]
print(f"{len(wanted) - len(missing)} of {len(wanted)} pictures are there.")
sys.exit(1 if missing else 0)
'''


def write_bundle(
    database: Database, settings: Settings, run: Run, version: DatasetVersion, result: dict[str, Any]
) -> IO[bytes]:
    """The bundle as an open temporary file, at its beginning; memory does not grow with the pictures.

    Args:
        run: that has succeeded.
        version: its dataset version.
        result: what its trainer left (`result.json`).
    """
    file: IO[bytes] = tempfile.TemporaryFile(prefix="thaw-bundle-", dir=settings.folder)  # noqa: SIM115 - the caller closes
    told = {
        "format": 1,
        "run_id": run.id,
        "code_version": run.code_version,
        "config": run.config,
        "class_names": version.class_names,
        "images": "images.jsonl",
        "batch_size": run.batch_size,
        "threads": (result.get("machine") or {}).get("threads"),
    }
    original = {
        "summary": run.summary,
        "machine": result.get("machine"),
        "phases": result.get("phases"),
        "temperature": result.get("temperature"),
        "fingerprint": version.fingerprint,
        "test_fingerprint": version.test_fingerprint,
        "seed": run.config.get("seed"),
        "command": "python -m worker.training FOLDER",
    }
    readme = _README.format(name=run.name, number=version.number, version_id=version.id, code_version=run.code_version)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("README.md", readme)
        packed.writestr("fetch.py", _FETCH)
        packed.writestr("run.json", json.dumps(told, indent=1, ensure_ascii=False))
        packed.writestr("original.json", json.dumps(original, indent=1, ensure_ascii=False))
        with packed.open("images.jsonl", "w", force_zip64=True) as lines:
            for page in _pages(database, version):
                lines.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in page).encode())
    file.seek(0)
    return file


def _pages(database: Database, version: DatasetVersion) -> Iterator[list[dict[str, Any]]]:
    units, cursor = version_units(database, version), None
    while True:
        with database.read() as session:
            page = catalog.version_images(session, version, limit=MOST, cursor=cursor)
            rows = [
                {
                    "image_id": place.image_id,
                    "sha256": place.image.sha256,
                    "path": f"pictures/{place.image.sha256}",
                    "label": place.label,
                    "split": place.split.value,
                    "group": units.of(place.image_id, place.group),
                    "filename": place.filename,
                }
                for place in page.items
            ]
        yield rows
        cursor = page.next_cursor
        if cursor is None:
            return
