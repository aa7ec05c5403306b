"""The split guard of an ingest: which pictures must stay on one side, because they are near duplicates or belong to one group."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from core.database import Database
from core.leases import UPLOAD_LIFE, write
from core.quality import bits
from core.splits import Ints, Pictures, join_units
from core.tables import ImageLook, NearPair, Upload
from worker.ingest.groups import WORDS, group_all
from worker.ingest.held import Held
from worker.ingest.looks import GREY, Look
from worker.ingest.near import Greys, find_near, read_hashes

ROWS_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class Guarded:
    """A picture that will be in the version. `group`: what the manifest or the version before said."""

    image_id: str
    path: str
    group: str | None
    is_new: bool


@dataclass(frozen=True)
class Found:
    """`units`: see `core.splits.Pictures`; `groups`: name of each picture's group; `notes`: what there is to say."""

    units: Ints
    groups: Sequence[str | None]
    notes: list[str]


def look_columns(look: Look) -> dict[str, Any]:
    """Columns of `ImageLook`."""
    return {
        "hashes": look.hashes,
        "grey": look.grey,
        "flags": bits(set(look.flags)),
        "camera": look.camera,
        "taken_at": look.taken_at,
    }


def guard(database: Database, held: Held, kept: Sequence[Guarded], pictures: Pictures, *, read_names: bool) -> Found:
    """Find near duplicates among the new pictures and between them and the old ones, write them down, and join them with the groups.

    Args:
        database: where the looks are, and where the pairs go.
        held: the upload, looked at between any two steps.
        kept: the pictures of the version to be, in the order of `pictures`.
        pictures: their arrays.
        read_names: groups may be read from file names and EXIF (nobody said any in a manifest).
    """
    places = {one.image_id: index for index, one in enumerate(kept)}
    looks = _Looks(database, held, places)
    known = _pairs(database, places)
    pairs = np.concatenate([known, _find_pairs(database, held, kept, looks, known)])
    groups, notes = _groups(kept, pictures, looks) if read_names else ([one.group for one in kept], [])
    numbers: dict[str, int] = {}
    wide = np.array([numbers.setdefault(one, len(numbers)) if one else -1 for one in groups], np.int64)
    return Found(join_units(wide, pairs[:, 0], pairs[:, 1]), groups, notes)


class _Looks:
    """Hashes, cameras and times of the pictures of a version, from a stream of their rows."""

    def __init__(self, database: Database, held: Held, places: dict[str, int]) -> None:
        self._database = database
        self._held = held
        stored: list[bytes] = []
        found: list[int] = []
        self.shots: dict[int, tuple[str, float]] = {}
        self._ids: list[str] = []
        coming = iter(places)
        while some := list(islice(coming, ROWS_AT_ONCE)):
            held.check()
            columns = (ImageLook.image_id, ImageLook.hashes, ImageLook.camera, ImageLook.taken_at)
            with database.read() as session:
                rows = session.execute(select(*columns).where(ImageLook.image_id.in_(some))).all()
            for image_id, hashes, camera, taken_at in rows:
                if hashes:
                    stored.append(hashes)
                    found.append(places[image_id])
                    self._ids.append(image_id)
                if camera is not None and taken_at is not None:
                    self.shots[places[image_id]] = (camera, taken_at)
        self.hashes = read_hashes(stored)
        self.places = np.array(found, np.int64)

    def greys(self, which: Ints) -> Greys:
        """`[k, 32, 32]` of pictures by their index into `places`."""
        self._held.check()
        wanted = [self._ids[int(one)] for one in which]
        with self._database.read() as session:
            rows = session.execute(select(ImageLook.image_id, ImageLook.grey).where(ImageLook.image_id.in_(wanted)))
            by_id = {row[0]: row[1] for row in rows}
        flat = np.frombuffer(b"".join(by_id[one] for one in wanted), np.uint8)
        return flat.reshape(-1, GREY, GREY).astype(np.float32)

    def image_id(self, index: int) -> str:
        """Of a picture by its index into `places`."""
        return self._ids[index]


def _find_pairs(database: Database, held: Held, kept: Sequence[Guarded], looks: _Looks, known: Ints) -> Ints:
    """Find pairs, write them down, and give them as indices `[k, 2]`; so are the known ones."""
    new = np.array([one.is_new for one in kept], np.bool_)
    asking: npt.NDArray[np.bool_] = new[looks.places] if len(looks.places) else np.zeros(0, np.bool_)
    there = np.full(len(kept), -1, np.int64)  # a picture without hashes is in no pair
    there[looks.places] = np.arange(len(looks.places))
    looked = there[known]
    coming = find_near(looks.hashes, asking, looks.greys, looked[(looked >= 0).all(axis=1)])
    found = [np.zeros((0, 2), np.int64)]
    while some := list(islice(coming, ROWS_AT_ONCE)):
        held.check()
        rows = []
        for pair in some:
            one, other = sorted((looks.image_id(pair.first), looks.image_id(pair.second)))
            rows.append({"image_id": one, "other_id": other, "score": pair.score})
        found.append(looks.places[np.array([(pair.first, pair.second) for pair in some])])
        maker = sqlite.insert if database.is_sqlite else postgresql.insert
        with database.write() as session:
            write(session, UPLOAD_LIFE, held.claim, revision=Upload.revision + 1)
            session.execute(maker(NearPair).on_conflict_do_nothing(), rows)
    return np.concatenate(found)


def _pairs(database: Database, places: dict[str, int]) -> Ints:
    """Every known pair of which both are in the version, as indices `[k, 2]`."""
    found = [np.zeros((0, 2), np.int64)]
    coming = iter(places)
    while some := list(islice(coming, ROWS_AT_ONCE)):
        with database.read() as session:
            rows = session.execute(
                select(NearPair.image_id, NearPair.other_id).where(NearPair.image_id.in_(some))
            ).all()
        pairs = [(places[one], places[other]) for one, other in rows if other in places]
        found.append(np.array(pairs, np.int64).reshape(-1, 2))
    return np.concatenate(found)


def _groups(kept: Sequence[Guarded], pictures: Pictures, looks: _Looks) -> tuple[list[str | None], list[str]]:
    """Groups said, and for new pictures those read from names and EXIF."""
    shots = [looks.shots.get(index) for index in range(len(kept))]
    read, counts = group_all([one.path for one in kept], pictures.labels.tolist(), shots)
    groups = [one.group or (name if one.is_new else None) for one, name in zip(kept, read, strict=True)]
    if not any(one and not old.group for one, old in zip(groups, kept, strict=True)):
        return groups, []
    what = ", ".join(f"{count:,} of kind {WORDS[rule]}" for rule, count in counts.items())
    return groups, [f"Groups were read from file names and camera times ({what}); a group stays on one side."]
