"""The verbs of datasets and their versions."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.errors import Conflict, FieldProblem, InputInvalid, NotFound
from core.freeing import note_left
from core.ids import new_id
from core.tables import Dataset, DatasetVersion, Image, ImageLook, Run, RunStatus, Split, VersionImage, utc_now

MOST_TAGS = 50
# of `VersionImage`, as the database names them
IMAGE_COLUMNS = ("version_id", "ordinal", "image_id", "label", "split", "group_name", "filename")
SEEN = DatasetVersion.number > 0  # false while its rows are being written (`core.unseen_versions`)


@dataclass(frozen=True)
class Placed:
    """A picture's place in a version that is being made."""

    image_id: str
    sha256: str
    filename: str
    class_name: str
    split: Split
    group: str | None = None


@dataclass(frozen=True)
class VersionDraft:
    """What becomes a dataset version. `notes` are sentences on what was decided."""

    pictures: Sequence[Placed]
    notes: Sequence[str] = ()


def create_dataset(session: Session, owner_id: str, name: str, description: str = "") -> Dataset:
    """Make an empty dataset.

    Raises:
        InputInvalid: no usable name.
    """
    dataset = Dataset(owner_id=owner_id, name=checked_name(name), description=description)
    session.add(dataset)
    session.flush()
    return dataset


def checked_name(name: str) -> str:
    """A name without surrounding space, 1 to 200 printable characters in any alphabet.

    Raises:
        InputInvalid: with what was received.
    """
    name = name.strip()
    if not 1 <= len(name) <= 200 or any(not character.isprintable() for character in name):
        message = f"A name has 1 to 200 printable characters. Received: {name[:220]!r}."
        raise InputInvalid(message, problems=(FieldProblem("name", message, name[:220]),))
    return name


def checked_tags(tags: Iterable[str]) -> list[str]:
    """Tags without surrounding space, each once, in the order given; at most 50 of 1 to 80 printable characters, without commas.

    Raises:
        InputInvalid: with what was received.
    """
    found = list(dict.fromkeys(filter(None, (tag.strip() for tag in tags))))
    bad = next((tag for tag in found if len(tag) > 80 or "," in tag or not tag.isprintable()), None)
    if bad is not None or len(found) > MOST_TAGS:
        received = f"{len(found)} tags" if bad is None else repr(bad[:100])
        message = f"At most {MOST_TAGS} tags of 1 to 80 printable characters, without commas. Received: {received}."
        raise InputInvalid(message, problems=(FieldProblem("tags", message, received),))
    return found


def find_dataset(session: Session, owner_id: str, dataset_id: str) -> Dataset:
    """A dataset of this person.

    Raises:
        NotFound: no such dataset, or another person's.
    """
    dataset = session.scalar(select(Dataset).where(Dataset.id == dataset_id, Dataset.owner_id == owner_id))
    if dataset is None:
        raise NotFound(f'There is no dataset "{dataset_id}".')
    return dataset


def find_version(session: Session, owner_id: str, version_id: str) -> DatasetVersion:
    """A dataset version of this person.

    Raises:
        NotFound: no such version, or another person's.
    """
    found = select(DatasetVersion).where(DatasetVersion.id == version_id, DatasetVersion.owner_id == owner_id, SEEN)
    version = session.scalar(found)
    if version is None:
        raise NotFound(f'There is no dataset version "{version_id}".')
    return version


def base_of(session: Session, dataset: Dataset, version_id: str | None) -> DatasetVersion:
    """The version of this dataset that a new one is to be made from; None: the newest.

    Raises:
        InputInvalid: it has no such version.
    """
    version = session.get(DatasetVersion, version_id) if version_id else latest_version(session, dataset.id)
    if version is None or version.dataset_id != dataset.id or version.number < 1:
        message = f'This dataset has no version "{version_id}".' if version_id else "This dataset has no version yet."
        raise InputInvalid(message, problems=(FieldProblem("base_version_id", message, version_id),))
    return version


def latest_version(session: Session, dataset_id: str) -> DatasetVersion | None:
    """The version with the highest number, or None before the first upload is ready."""
    found = select(DatasetVersion).where(DatasetVersion.dataset_id == dataset_id, SEEN)
    return session.scalar(found.order_by(DatasetVersion.number.desc()).limit(1))


def delete_dataset(session: Session, dataset: Dataset, *, force: bool) -> None:
    """Delete a dataset, its versions and uploads. Runs and models stay, marked "dataset deleted".

    Pictures that nobody uses any more are freed by the sweeper (`core.freeing`).

    Raises:
        Conflict: a run uses it and `force` is off, or a run on it has not ended.
    """
    using = select(func.count()).select_from(Run).where(Run.dataset_id == dataset.id)
    busy = session.scalar(using.where(Run.status.in_([RunStatus.QUEUED, RunStatus.RUNNING]))) or 0
    if busy:
        raise Conflict(f"{busy} runs on this dataset have not ended. Cancel them or wait, then delete it.")
    count = session.scalar(using) or 0
    if count and not force:
        raise Conflict(
            f"{count} runs use this dataset. Delete it with ?force=true: the runs and models stay, without their pictures."
        )
    session.execute(delete(Dataset).where(Dataset.id == dataset.id))
    note_left(session)


def remember_image(session: Session, owner_id: str, sha256: str, facts: dict[str, Any]) -> str:
    """The id of a picture by its bytes, stored once per owner; `facts`: width, height, format, size_bytes."""
    return remember_images(session, owner_id, {sha256: facts})[sha256]


def remember_images(session: Session, owner_id: str, facts: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """The ids of some pictures (at most a few hundred) by their SHA-256, stored once per owner.

    They are written in one order everywhere: two uploads with the same pictures must not wait for each other in a circle.
    """
    if not facts:
        return {}
    dialect = session.get_bind().dialect.name
    maker = postgresql.insert if dialect == "postgresql" else sqlite.insert
    same = {"created_at": utc_now(), "owner_id": owner_id}
    wanted = select(Image.sha256, Image.id).where(Image.owner_id == owner_id, Image.sha256.in_(facts))
    wanted = wanted.order_by(Image.sha256).with_for_update(read=True, key_share=True)
    found: dict[str, str] = {}
    while len(found) < len(facts):  # one that was there may be freed before we hold it: then it is made anew
        values = [{"id": new_id(), "sha256": one, **same, **facts[one]} for one in sorted(facts) if one not in found]
        session.execute(maker(Image).on_conflict_do_nothing(index_elements=["owner_id", "sha256"]), values)
        found = {row.sha256: row.id for row in session.execute(wanted)}
    return found


def remember_looks(session: Session, looks: Mapping[str, dict[str, Any]]) -> None:
    """Keep what some pictures look like (columns of `ImageLook` by picture id); the first look stays."""
    if not looks:
        return
    dialect = session.get_bind().dialect.name
    maker = postgresql.insert if dialect == "postgresql" else sqlite.insert
    values = [{"image_id": image_id, **looks[image_id]} for image_id in sorted(looks)]
    session.execute(maker(ImageLook).on_conflict_do_nothing(index_elements=["image_id"]), values)


def fingerprint(pictures: Iterable[Placed]) -> str:
    """SHA-256 (hex) over the sorted lines `sha256 TAB class TAB split TAB group`; file names and order do not matter."""
    lines = sorted(f"{one.sha256}\t{one.class_name}\t{one.split}\t{one.group or ''}" for one in pictures)
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def described(draft: VersionDraft) -> dict[str, Any]:
    """What a draft says of its version, by column. Class names are sorted once, here; labels are their indices."""
    class_names = sorted({one.class_name for one in draft.pictures})
    counts: dict[str, dict[str, int]] = {name: {split.value: 0 for split in Split} for name in class_names}
    for one in draft.pictures:
        counts[one.class_name][one.split.value] += 1
    return {
        "fingerprint": fingerprint(draft.pictures),
        "test_fingerprint": fingerprint(one for one in draft.pictures if one.split == Split.TEST),
        "class_names": class_names,
        "counts": counts,
        "notes": list(draft.notes),
        "image_count": len(draft.pictures),
    }


def draft_rows(draft: VersionDraft, version: DatasetVersion) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of a draft's pictures, `IMAGE_COLUMNS` as the database stores them, some thousand at a time."""
    labels = {name: index for index, name in enumerate(version.class_names)}
    ordered = sorted(draft.pictures, key=lambda one: (labels[one.class_name], one.filename, one.image_id))
    for start in range(0, len(ordered), 5000):
        yield [
            (version.id, ordinal, one.image_id, labels[one.class_name], one.split.value, one.group, one.filename)
            for ordinal, one in enumerate(ordered[start : start + 5000], start)
        ]


def placed_pictures(session: Session, version: DatasetVersion) -> list[Placed]:
    """Every picture of a version, in its order, as the draft of a next version would have it."""
    rows = session.execute(
        select(
            VersionImage.image_id,
            Image.sha256,
            VersionImage.filename,
            VersionImage.label,
            VersionImage.split,
            VersionImage.group,
        )
        .join(Image, Image.id == VersionImage.image_id)
        .where(VersionImage.version_id == version.id)
        .order_by(VersionImage.ordinal)
    )
    return [Placed(row[0], row[1], row[2], version.class_names[row[3]], row[4], row[5]) for row in rows]
