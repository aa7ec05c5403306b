"""How long pages and lists of a dataset version with very many pictures take, over HTTP, by a real server on SQLite.

    python -m benchmarks browsing
    python -m benchmarks browsing --count 20000 --rows 3

Fills a data folder (pictures of 16 x 16 pixels, their rows, looks, near duplicates, a receipt, doubtful labels), starts `thaw serve` on
it, makes versions through the API while other requests are timed beside, and prints milliseconds from request to the last byte of
the answer: median and worst of the rounds, after one that warms up. First, middle and last page of every list.
"""

import argparse
import hashlib
import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image as Picture
from sqlalchemy import insert
from sqlalchemy.orm import Session

import migrations
from benchmarks.ingest import with_comment
from benchmarks.main_job import running_house
from core.accounts import local_user, open_browser_session
from core.config import Settings
from core.database import open_database
from core.datasets import IMAGE_COLUMNS, Placed, VersionDraft, create_dataset, described, draft_rows
from core.ids import new_id
from core.quality import Flag, bit
from core.storage import blob_key, thumbnail_key
from core.tables import (
    Dataset,
    DatasetVersion,
    Image,
    ImageLook,
    LabelCheck,
    LabelCheckStatus,
    LabelSuggestion,
    NearPair,
    Outcome,
    ReceiptRow,
    Split,
    Upload,
    UploadStatus,
    VersionImage,
)
from core.unseen_versions import begin, publish, write_issues, write_rows

CLASSES = 20
SPLITS = (*[Split.TRAIN] * 14, *[Split.VALIDATION] * 3, *[Split.TEST] * 3)  # of twenty
TARGET = 300.0  # milliseconds of a page
AT_ONCE = 5000
SHOWN = 200  # pictures at either end that have thumbnails


@dataclass
class Filled:
    """What was put into a data folder."""

    cookie: str
    dataset_id: str
    version_id: str
    upload_id: str
    image_ids: list[str]


def fill(settings: Settings, count: int) -> Filled:
    """A dataset with one version of `count` pictures, and everything that its pages show."""
    database = open_database(settings)
    migrations.upgrade(database)
    small = io.BytesIO()
    Picture.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)).save(small, "JPEG")
    thumbnail = io.BytesIO()
    Picture.open(small).resize((240, 240)).save(thumbnail, "WEBP")
    with database.write() as session:
        owner = local_user(session)
        cookie = open_browser_session(session, owner, days=1)
        dataset = create_dataset(session, owner.id, "very many pictures")
        placed, sizes = [], []
        for number in range(count):
            body = with_comment(small.getvalue(), number)
            sha256 = hashlib.sha256(body).hexdigest()
            _put(settings, blob_key(sha256), body)
            if not SHOWN <= number < count - SHOWN:
                _put(settings, thumbnail_key(sha256), thumbnail.getvalue())
            sizes.append(len(body))
            label, group = number % CLASSES, f"burst {number // 3}" if number % 10 == 0 else None
            name = f"class {label:02}/IMG_{number:07}.jpg"
            split = SPLITS[number // CLASSES % len(SPLITS)]
            placed.append(Placed(new_id(), sha256, name, f"class {label:02}", split, group))
        _pictures(session, owner.id, placed, sizes)
        upload = _received(session, dataset, placed)
        draft = VersionDraft(placed)
        version = begin(session, dataset, **described(draft))
    write_rows(database, version.id, VersionImage, IMAGE_COLUMNS, draft_rows(draft, version))
    issues = write_issues(database, version, upload_id=upload.id)
    with database.write() as session:
        dataset, version = session.merge(dataset), session.merge(version)
        publish(session, dataset, version, issues)
        session.merge(upload).dataset_version_id = version.id
        _doubted(session, version, placed)
        filled = Filled(cookie, dataset.id, version.id, upload.id, [one.image_id for one in placed])
    database.close()
    return filled


def _put(settings: Settings, key: str, body: bytes) -> None:
    """Into the storage, without waiting for the disk as Thaw does."""
    path = settings.storage_folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def _pictures(session: Session, owner_id: str, placed: list[Placed], sizes: list[int]) -> None:
    """Rows of the pictures; every seventh is odd in some way, every tenth has a near duplicate."""
    random, flags = np.random.default_rng(2), [bit(one) for one in Flag]
    same = {"owner_id": owner_id, "width": 16, "height": 16, "format": "JPEG"}
    images = (
        {"id": one.image_id, "sha256": one.sha256, "size_bytes": size, **same}
        for one, size in zip(placed, sizes, strict=True)
    )
    looks = (
        {
            "image_id": one.image_id,
            "hashes": random.bytes(64),
            "grey": random.bytes(1024),
            "flags": flags[number % len(flags)] if number % 7 == 0 else 0,
        }
        for number, one in enumerate(placed)
    )
    pairs = (
        {"image_id": one.image_id, "other_id": placed[number + 7].image_id, "score": 0.9}
        for number, one in enumerate(placed[:-7])
        if number % 10 == 0
    )
    for table, rows in ((Image, images), (ImageLook, looks), (NearPair, pairs)):
        _write(session, table, rows)


def _write(session: Session, table: type[Any], rows: Iterable[dict[str, Any]]) -> None:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == AT_ONCE:
            session.execute(insert(table), some)
            some = []
    if some:
        session.execute(insert(table), some)


def _received(session: Session, dataset: Dataset, placed: list[Placed]) -> Upload:
    """The upload that brought them: one file in fifty was refused besides."""
    upload = Upload(owner_id=dataset.owner_id, dataset_id=dataset.id, status=UploadStatus.READY, by_reason={})
    session.add(upload)
    session.flush()

    def lines() -> Iterator[dict[str, Any]]:
        for number, one in enumerate(placed):
            line = {"upload_id": upload.id, "path": one.filename, "code": "", "reason": ""}
            yield {**line, "ordinal": 2 * number, "outcome": Outcome.KEPT, "image_id": one.image_id}
            if number % 50 == 0:
                refused = {"outcome": Outcome.REFUSED, "code": "no_picture", "reason": "This is not a picture."}
                yield {**line, **refused, "ordinal": 2 * number + 1, "image_id": None}

    _write(session, ReceiptRow, lines())
    upload.kept, upload.refused = len(placed), -(-len(placed) // 50)
    upload.by_reason = {"no_picture": upload.refused}
    return upload


def _doubted(session: Session, version: DatasetVersion, placed: list[Placed]) -> None:
    """A label check that doubts one picture in ten, half of them likely errors."""
    check = LabelCheck(owner_id=version.owner_id, version_id=version.id, status=LabelCheckStatus.READY)
    session.add(check)
    session.flush()
    doubted = [one for one in placed if one.split != Split.TEST][::10]
    rows = (
        {
            "check_id": check.id,
            "rank": rank,
            "image_id": one.image_id,
            "given_class": one.class_name,
            "suggested_class": "class 00" if one.class_name != "class 00" else "class 01",
            "given_probability": 0.1,
            "suggested_probability": 0.8,
            "likely": rank < len(doubted) // 2,
        }
        for rank, one in enumerate(doubted)
    )
    _write(session, LabelSuggestion, rows)


@dataclass
class Clock:
    """Times requests. `rows`: (what, median, worst) in milliseconds."""

    api: httpx.Client
    page: httpx.Client
    rounds: int
    rows: list[tuple[str, float, float]] = field(default_factory=list)

    def ask(self, name: str, client: httpx.Client, path: str) -> httpx.Response:
        """Ask once to warm up, then some times more."""
        times = []
        for _ in range(self.rounds + 1):
            began = time.perf_counter()
            answer = client.get(path)
            times.append(1000 * (time.perf_counter() - began))
            if answer.status_code != 200:
                raise SystemExit(f"{path} answered {answer.status_code}: {answer.text[:300]}")
        self.rows.append((name, statistics.median(times[1:]), max(times[1:])))
        print(f"{name:<64} {self.rows[-1][1]:8.1f} {self.rows[-1][2]:8.1f}", flush=True)
        return answer

    def walk(self, name: str, path: str, *, limit: int = 200) -> None:
        """A list of the API: its first page, one in the middle, and its last, found by following its cursors."""
        joint = "&" if "?" in path else "?"
        cursors: list[str] = [""]
        while (following := self.api.get(f"{path}{joint}limit={limit}{cursors[-1]}").json()["next_cursor"]) is not None:
            cursors.append(f"&cursor={following}")
        for place, cursor in {
            "first": cursors[0],
            "middle": cursors[len(cursors) // 2],
            "last": cursors[-1],
        }.items():
            self.ask(f"{name}, {place} of {len(cursors):,}", self.api, f"{path}{joint}limit={limit}{cursor}")


def measure(clock: Clock, filled: Filled, versions: list[str]) -> None:
    """Every page and list around a version."""
    here, api = f"/datasets/{filled.dataset_id}", f"/dataset-versions/{filled.version_id}"
    receipt = f"/uploads/{filled.upload_id}/receipt"
    pages = {
        "datasets": "/datasets",
        "dataset": here,
        "dataset, first version": f"{here}?version=1",
        "dataset, a class": f"{here}?version=1&class_name=class+03",
        "dataset, a split": f"{here}?version=1&split=test",
        "dataset, a class and a split": f"{here}?version=1&class_name=class+03&split=test",
        "dataset, an issue": f"{here}?version=1&issue=near_duplicates",
        "dataset, class, split and issue": f"{here}?version=1&class_name=class+03&split=test&issue=blurry",
        "issues": f"{here}/issues?version=1",
        "issues, leaks": f"{here}/issues?version=1&kind=leaks",
        "receipt": f"{here}{receipt}",
        "receipt, refused": f"{here}{receipt}?outcome=refused",
        "label desk": f"{here}/label-desk?version=1",
        "label desk, late in the list": f"{here}/label-desk?version=1&at=5000",
        "test review": f"{here}/label-desk/test?version=1",
        "delete, asked": f"{here}/delete",
        "new run": f"/runs/new?version_id={filled.version_id}",
    }
    for before, after, what in (
        (1, 2, "one picture moved"),
        (1, 3, "split again"),
        (2, 3, "both"),
        (1, 4, "no difference"),
    ):
        pages[f"diff, {what}"] = f"{here}/diff?before={before}&after={after}"
    for name, path in pages.items():
        clock.ask(f"page: {name}", clock.page, path)
    clock.ask("version", clock.api, api)
    clock.ask("versions of the dataset", clock.api, f"{here}/versions")
    filters = {
        "": "",
        " of a class": "?class_name=class+03",
        " of a split": "?split=validation",
        " of a class and split": "?class_name=class+03&split=test",
        " with near duplicates": "?issue=near_duplicates",
        " of a class, blurry": "?class_name=class+03&issue=blurry",
        " of a split, in leaks": "?split=test&issue=leaks",
    }
    for name, query in filters.items():
        clock.walk(f"images{name}", f"{api}/images{query}")
    clock.walk("issues", f"{api}/issues")
    clock.walk("issues, near duplicates", f"{api}/issues?kind=near_duplicates")
    clock.walk("label suggestions", f"{api}/label-suggestions")
    clock.walk("label suggestions, undecided", f"{api}/label-suggestions?decided=false")
    clock.walk("receipt", receipt)
    clock.walk("receipt, refused", f"{receipt}?outcome=refused")
    for version_id, what in zip(versions[1:], ("one picture moved", "split again", "no difference"), strict=True):
        clock.walk(f"diff, {what}", f"{api}/diff?to={version_id}")
    clock.ask("thumbnail", clock.api, f"/images/{filled.image_ids[-1]}/thumbnail")


def streamed(client: httpx.Client, name: str, path: str) -> None:
    """Seconds to the first byte and to the last one of a long answer."""
    began, size, first = time.perf_counter(), 0, 0.0
    with client.stream("GET", path, timeout=600) as answer:
        for piece in answer.raise_for_status().iter_raw():
            first = first or time.perf_counter() - began
            size += len(piece)
    whole = time.perf_counter() - began
    print(f"{name:<64} {first:8.2f} s to the first byte, {whole:.1f} s to the last of {size / 1e6:.0f} MB", flush=True)


class Beside:
    """Others who use the server meanwhile: one reads the page of the dataset, one writes; the longest that each waited."""

    def __init__(self, asks: dict[str, Callable[[], httpx.Response]]) -> None:
        self.longest = dict.fromkeys(asks, 0.0)
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, args=(name, ask)) for name, ask in asks.items()]
        for thread in self._threads:
            thread.start()

    def _go_on(self, name: str, ask: Callable[[], httpx.Response]) -> None:
        while not self._end.wait(0.05):
            began = time.perf_counter()
            ask().raise_for_status()
            self.longest[name] = max(self.longest[name], time.perf_counter() - began)

    def end(self) -> None:
        """Wait for their last answers."""
        self._end.set()
        for thread in self._threads:
            thread.join()


def change(api: httpx.Client, page: httpx.Client, filled: Filled) -> list[str]:
    """Make versions 2 to 4 through the API, and say how long each took and held up others; ids of versions 1 to 4."""
    versions = [filled.version_id]
    here = f"/datasets/{filled.dataset_id}"
    resplit = {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}, "seed": 3}
    wishes: list[tuple[str, int, dict[str, Any]]] = [
        ("one picture moved", -1, {"move": [{"image_ids": filled.image_ids[:1], "split": "test"}]}),
        ("split again", -1, {"resplit": resplit}),
        ("taken back", 0, {}),
    ]
    names = iter(range(1_000_000))
    for name, base, changes in wishes:
        beside = Beside(
            {
                "a page": lambda: page.get(here, timeout=60),
                "a write": lambda: api.patch(here, json={"description": str(next(names))}, timeout=60),
            }
        )
        time.sleep(0.5)
        began = time.perf_counter()
        asked = {"base_version_id": versions[base], "changes": changes}
        answer = api.post(f"{here}/versions", json=asked, timeout=600)
        spent = time.perf_counter() - began
        beside.end()
        if answer.status_code != 201:
            raise SystemExit(f"{name}: {answer.status_code} {answer.text[:300]}")
        versions.append(answer.json()["id"])
        waited = ", ".join(f"{who} waited {1000 * longest:.0f} ms at most" for who, longest in beside.longest.items())
        print(f"new version, {name:<51} {1000 * spent:8.0f} ms; {waited}", flush=True)
    return versions


def main() -> None:
    """Fill, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="pictures")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--where", type=Path, help="folder for the data; default: the system's temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-bench-", dir=given.where) as folder:
        began = time.monotonic()
        filled = fill(Settings(data_dir=Path(folder)), given.count)
        print(f"{given.count:,} pictures filled in within {time.monotonic() - began:.0f} s")
        os.environ["THAW_SPARE_TRAINER"] = "false"
        with running_house(Path(folder)) as house:
            root = str(house.api.base_url).partition("/api/")[0]
            with httpx.Client(base_url=root, cookies={"thaw_session": filled.cookie}, timeout=60) as page:
                page.headers["Origin"] = root
                print(f"{'':<64} {'median':>8} {'worst':>8} ms")
                versions = change(house.api, page, filled)
                clock = Clock(house.api, page, given.rounds)
                measure(clock, filled, versions)
                streamed(house.api, "receipt as CSV", f"/uploads/{filled.upload_id}/receipt?format=csv")
                streamed(house.api, "export", f"/dataset-versions/{filled.version_id}/export")
    slow = [name for name, _, worst in clock.rows if worst >= TARGET]
    print(f"{len(clock.rows)} answers, the slowest {max(row[2] for row in clock.rows):.0f} ms.")
    print(f"Not under {TARGET:.0f} ms each time: {'; '.join(slow) or 'none'}.")


if __name__ == "__main__":
    main()
