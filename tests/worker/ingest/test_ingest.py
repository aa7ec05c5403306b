"""Uploads from received bytes to a dataset version, with a real database, real files and real decoder processes."""

import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from sqlalchemy import select, update

from core.config import Settings
from core.database import Database
from core.datasets import latest_version, placed_pictures
from core.storage import blob_key, open_storage, thumbnail_key
from core.tables import Dataset, Image, Outcome, ReceiptRow, Split, Upload, UploadStatus, VersionImage
from core.uploads import incoming_folder
from tests.samples import sample_folder
from tests.worker.ingest import corpus
from tests.worker.ingest.conftest import Person
from tests.worker.ingest.corpus import ZipEntry, classes, encoded, make_zip, picture, pixels, tarred, zipped

FLOWERS = classes(["roses", "tulips"])


def placed(person: Person) -> dict[str, tuple[str, Split, str | None]]:
    with person.database.read() as session:
        version = latest_version(session, person.dataset_id)
        assert version is not None
        return {one.filename: (one.class_name, one.split, one.group) for one in placed_pictures(session, version)}


def codes(person: Person, upload: Upload) -> dict[str, str]:
    return {path: row.code or row.outcome.value for path, row in person.receipt(upload).items()}


@pytest.mark.parametrize(
    "files",
    [
        FLOWERS,
        {"flowers.zip": zipped(FLOWERS)},
        {"flowers.tar": tarred(FLOWERS)},
        {"flowers.tar.gz": tarred(FLOWERS, mode="w:gz")},
        {"flowers.tgz": zipped(FLOWERS)},  # the bytes tell, not the name
    ],
    ids=["folder", "zip", "tar", "tgz", "misnamed"],
)
def test_every_way_in_gives_the_same_version(files: dict[str, bytes | Path], person: Person) -> None:
    upload = person.upload(files)
    assert (upload.status, upload.error) == (UploadStatus.READY, None)
    assert (upload.kept, upload.files_done, upload.files_total) == (8, 8, 8)
    version = person.version()
    assert version.id == upload.dataset_version_id
    assert version.class_names == ["roses", "tulips"]
    assert version.counts["roses"] == {"train": 2, "validation": 1, "test": 1}
    assert version.image_count == 8
    assert "70/15/15" in version.notes[0]


def test_the_fingerprint_does_not_depend_on_the_way_in(settings: Settings, database: Database) -> None:
    person = Person(settings, database)
    person.upload(FLOWERS)
    first = person.version()
    with database.write() as session:
        person.dataset_id = session.merge(Dataset(owner_id=person.owner_id, name="again")).id
        session.flush()
        person.dataset_id = session.scalars(select(Dataset.id).where(Dataset.name == "again")).one()
    person.upload({"x.tar": tarred(dict(reversed(FLOWERS.items())))})
    second = person.version()
    assert (second.fingerprint, second.test_fingerprint) == (first.fingerprint, first.test_fingerprint)


@pytest.mark.both_databases
def test_blobs_and_thumbnails_are_stored_and_the_received_bytes_are_not_kept(
    person: Person, settings: Settings
) -> None:
    upload = person.upload({"flowers.zip": zipped(FLOWERS)})
    storage = open_storage(settings)
    with person.database.read() as session:
        images = list(session.scalars(select(Image)))
    assert len(images) == 8
    for image in images:
        assert storage.local(blob_key(image.sha256)).read_bytes() in FLOWERS.values()
        assert storage.local(thumbnail_key(image.sha256)).read_bytes().startswith(b"\xff\xd8")
        assert (image.width, image.height, image.format) == (24, 16, "PNG")
        assert image.size_bytes == storage.local(blob_key(image.sha256)).stat().st_size
    assert not incoming_folder(settings, upload.id).exists()


def test_corrupt_files_never_fail_the_whole(person: Person) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
    half = encoded(noise, "JPEG")
    bad = {
        "roses/half.jpg": half[: len(half) // 2],
        "roses/empty.jpg": b"",
        "roses/text.jpg": b"I am no picture",
        "roses/bomb.png": corpus.png_bomb(),
        "roses/drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "roses/notes.txt": b"hello",
        "roses/.DS_Store": b"\x00",
        "stray.png": picture(99),
    }
    upload = person.upload({"flowers.zip": zipped(FLOWERS | bad)})
    assert upload.status == UploadStatus.READY
    found = codes(person, upload)
    assert {path: found[path] for path in bad} == {
        "roses/half.jpg": "truncated",
        "roses/empty.jpg": "empty",
        "roses/text.jpg": "not_an_image",
        "roses/bomb.png": "too_many_pixels",
        "roses/drawing.svg": "unsupported_format",
        "roses/notes.txt": "not_a_picture",
        "roses/.DS_Store": "junk",
        "stray.png": "no_class_folder",
    }
    assert (upload.kept, upload.refused, upload.skipped) == (8, 6, 2)
    assert upload.by_reason == Counter(found[path] for path in bad)
    assert all(row.reason for path, row in person.receipt(upload).items() if path in bad)


def test_fixes_are_told_and_applied(person: Person) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    turned = encoded(pixels(5), "JPEG", exif=exif)
    cmyk = encoded(PillowImage.fromarray(pixels(6)).convert("CMYK"), "JPEG")
    upload = person.upload(FLOWERS | {"roses/turned.jpg": turned, "roses/cmyk.jpg": cmyk})
    assert (upload.kept, upload.fixed) == (8, 2)
    receipt = person.receipt(upload)
    assert receipt["roses/turned.jpg"].reason == "turned upright (EXIF orientation 6)"
    assert receipt["roses/cmyk.jpg"].reason == "CMYK converted to RGB"
    with person.database.read() as session:
        image = session.get_one(Image, receipt["roses/turned.jpg"].image_id)
    assert (image.width, image.height) == (16, 24)


def test_hostile_entries_are_refused_one_by_one_and_nothing_leaves_the_data_folder(
    person: Person, tmp_path: Path
) -> None:
    hostile = [
        ZipEntry(b"../../../slip.png", picture(50)),
        ZipEntry(str(tmp_path / "absolute.png").encode(), picture(51)),
        ZipEntry(b"roses/link.png", b"/etc/passwd", mode=0o120777),
        ZipEntry(b"roses/\x1b[31m.png", picture(52)),
        ZipEntry(b"roses/secret.png", picture(53), flags=1),
        ZipEntry(b"roses/liar.png", bytes(1_000_000), size=5),
        ZipEntry(b"roses/inner.zip", zipped(FLOWERS)),
    ]
    entries = [ZipEntry(name.encode(), body) for name, body in FLOWERS.items()]
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "data")}
    upload = person.upload({"flowers.zip": make_zip([*entries, *hostile])})
    assert upload.status == UploadStatus.READY
    assert upload.by_reason == {
        "unsafe_path": 2,
        "link": 1,
        "control_characters": 1,
        "encrypted": 1,
        "damaged_entry": 1,
        "nested_archive": 1,
    }
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "data")} == before


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"I am no archive" * 100, "not an archive"),
        (b"", "0 bytes"),
        (zipped(FLOWERS)[:-30], "cut off"),
        (make_zip([ZipEntry(b"roses/a.png", b"x", flags=1)]), "encrypted"),
        (make_zip([ZipEntry(b"a/0.png", b"x" * 99), ZipEntry(b"a/1.png", b"x" * 99, offset=0)]), "overlap"),
        (zipped({}), "No picture"),
        (zipped({"readme.txt": b"hello"}), "No picture"),
        (zipped(classes(["roses"])), 'one class, "roses"'),
        (zipped(FLOWERS | {"lilies/a.png": picture(9)}), '"lilies" (1)'),
    ],
)
def test_what_cannot_become_a_version_is_rejected_with_a_sentence(
    body: bytes, said: str, person: Person, settings: Settings
) -> None:
    upload = person.upload({"flowers.zip": body})
    assert upload.status == UploadStatus.REJECTED
    assert upload.error is not None
    assert said in upload.error
    assert upload.finished_at is not None
    assert not incoming_folder(settings, upload.id).exists()
    with person.database.read() as session:
        assert latest_version(session, person.dataset_id) is None


def test_too_many_classes_are_rejected(database: Database, settings: Settings) -> None:
    few = settings.model_copy(update={"max_classes": 2})
    upload = Person(few, database).upload(classes(["a", "b", "c"], each=3))
    assert upload.error is not None
    assert "3 classes; at most 2" in upload.error


def test_limits_of_pictures_come_from_the_settings(database: Database, settings: Settings) -> None:
    strict = settings.model_copy(update={"max_image_bytes": 5_000, "max_image_pixels": 500})
    person = Person(strict, database)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    upload = person.upload(
        {"f.zip": zipped(FLOWERS | {"roses/heavy.bmp": encoded(noise, "BMP"), "roses/wide.png": picture_of(30, 20)})}
    )
    found = codes(person, upload)
    assert (found["roses/heavy.bmp"], found["roses/wide.png"]) == ("too_large", "too_many_pixels")


def picture_of(width: int, height: int) -> bytes:
    return encoded(pixels(77, width=width, height=height))


def test_splits_come_from_folders(person: Person) -> None:
    files = classes(["roses", "tulips"], folder="f/train/", each=8) | classes(
        ["roses", "tulips"], folder="f/valid/", each=2
    )
    upload = person.upload(files)
    assert upload.status == UploadStatus.READY
    version = person.version()
    assert version.counts["roses"] == {"train": 7, "validation": 2, "test": 1}
    assert version.notes == ["No test pictures were given: 15 % of train (2 pictures), class by class, became test."]


def test_several_archives_count_as_folders(person: Person) -> None:
    upload = person.upload(
        {
            "train.zip": zipped(classes(["roses", "tulips"])),
            "test.zip": zipped(classes(["roses", "tulips"], each=2, folder="x/")),
        }
    )
    assert upload.status == UploadStatus.READY
    assert person.version().counts["roses"] == {"train": 3, "validation": 1, "test": 2}
    assert "train/roses/0.png" in person.receipt(upload)


def test_one_archive_per_class(person: Person) -> None:
    flat = [
        {path.split("/")[1]: body for path, body in FLOWERS.items() if path.startswith(name)}
        for name in ("roses", "tulips")
    ]
    person.upload({"roses.zip": zipped(flat[0]), "tulips.tar.gz": tarred(flat[1], mode="w:gz")})
    assert person.version().class_names == ["roses", "tulips"]


def test_a_bad_archive_among_others_is_one_row(person: Person) -> None:
    upload = person.upload({"a.zip": zipped(FLOWERS), "b.zip": b"not an archive", "c.zip": zipped(classes(["lilies"]))})
    assert upload.status == UploadStatus.READY
    assert person.receipt(upload)["b.zip"].code == "archive_refused"
    assert upload.kept == 12


@pytest.mark.parametrize("packed", [False, True])
def test_a_manifest_overrides_the_folders(packed: bool, person: Person) -> None:
    lines = ["filename,class_name,split,group"]
    pictures = {f"data/images/{number}.png": picture(number) for number in range(14)}
    lines += [f"images/{number}.png,{'rose' if number % 2 else 'tulip'},,camera {number // 2}" for number in range(12)]
    lines += ["images/99.png,rose,,"]
    files = {"data/labels.csv": "\n".join(lines).encode(), **pictures}
    upload = person.upload({"x.tgz": tarred(files, mode="w:gz")} if packed else files)
    assert (upload.status, upload.error) == (UploadStatus.READY, None)
    assert upload.by_reason == {"manifest": 1, "not_in_manifest": 2, "manifest_line": 1}
    assert person.receipt(upload)["data/labels.csv, line 14"].outcome == Outcome.REFUSED
    found = placed(person)
    assert found["data/images/1.png"][0] == "rose"
    by_group: dict[str | None, set[Split]] = {}
    for _, split, group in found.values():
        by_group.setdefault(group, set()).add(split)
    assert len(by_group) == 6
    assert all(len(splits) == 1 for splits in by_group.values())
    assert "12 lines count; 1 lines cannot be used" in person.version().notes[0]


# doubles


def kept_manifest(splits: list[str]) -> bytes:
    """The eight flowers in these splits, which are kept, in turns."""
    lines = [f"{path},{path.split('/')[0]},{splits[n % len(splits)]},one,yes" for n, path in enumerate(FLOWERS)]
    return "\n".join(["filename,class_name,split,group,keep_split", *lines]).encode()


def test_a_manifest_may_keep_splits_that_tear_a_group_but_not_leave_one_empty(person: Person) -> None:
    splits = ["train", "validation", "train", "test"]
    person.upload(FLOWERS | {"manifest.csv": kept_manifest(splits)})
    assert [str(split) for _, split, _ in placed(person).values()] == splits * 2
    assert {group for _, _, group in placed(person).values()} == {"one"}


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        (["train", "validation"], "No picture is in test, and the manifest keeps every picture in its split."),
        (
            ["train"] * 2 + ["validation"] * 2 + ["test"] * 4,
            'The class "tulips" has no train picture: it could not be learned.',
        ),
    ],
)
def test_splits_that_nothing_can_be_learned_from_are_not_kept(splits: list[str], sentence: str, person: Person) -> None:
    upload = person.upload(FLOWERS | {"manifest.csv": kept_manifest(splits)})
    assert (upload.status, upload.error) == (UploadStatus.REJECTED, sentence)


def test_a_kept_manifest_in_an_empty_dataset_speaks_of_no_pictures_that_were_there_before(person: Person) -> None:
    splits = ["train", "validation", "train", "test"]
    more = {f"roses/{number}.png": picture(number) for number in range(40, 46)}
    lines = "".join(f"{path},roses,,,\n" for path in more).encode()
    person.upload(FLOWERS | more | {"manifest.csv": kept_manifest(splits) + b"\n" + lines})
    found = next(note for note in person.version().notes if "No splits were given" in note)
    assert found.startswith("No splits were given to the rest: 6 pictures")
    assert found.endswith("The others keep theirs.")


def test_a_split_that_the_dataset_leaves_empty_is_not_blamed_on_a_manifest(person: Person) -> None:
    splits = ["train", "validation", "train", "test"]
    person.upload(FLOWERS | {"manifest.csv": kept_manifest(splits)})
    with person.database.write() as session:  # as a version without test pictures, however it came to be
        session.execute(update(VersionImage).where(VersionImage.split == Split.TEST).values(split=Split.TRAIN))
    again = encoded(PillowImage.open(io.BytesIO(FLOWERS["roses/0.png"])), "BMP")  # stays with what it is a copy of
    upload = person.upload({"train/roses/again.bmp": again})
    assert (upload.status, upload.error) == (
        UploadStatus.REJECTED,
        "No picture is in test: none of the new ones came to it, and those of the dataset keep their splits.",
    )


def test_exact_duplicates_are_skipped_once(person: Person) -> None:
    upload = person.upload(FLOWERS | {"roses/zz copy.png": FLOWERS["roses/0.png"]})
    row = person.receipt(upload)["roses/zz copy.png"]
    assert (row.outcome, row.code, row.reason) == (Outcome.SKIPPED, "duplicate", 'Duplicate of "roses/0.png".')
    assert (upload.kept, upload.skipped, upload.by_reason) == (8, 1, {"duplicate": 1})
    issues = person.version().issues
    assert (issues["duplicates"], issues["leaks"], issues["conflicts"]) == (1, 0, 0)


def test_the_same_picture_under_two_classes_is_kept_under_neither(person: Person) -> None:
    upload = person.upload(FLOWERS | {"tulips/zz.png": FLOWERS["roses/0.png"]})
    receipt = person.receipt(upload)
    assert receipt["roses/0.png"].code == receipt["tulips/zz.png"].code == "label_conflict"
    assert '"tulips/zz.png" of class "tulips"' in receipt["roses/0.png"].reason
    assert person.version().image_count == 7
    assert person.version().issues["conflicts"] == 2


def test_the_same_picture_in_train_and_test_stays_in_test(person: Person) -> None:
    files = classes(["roses", "tulips"], folder="train/", each=8) | classes(["roses", "tulips"], folder="test/", each=2)
    upload = person.upload(files | {"train/roses/leak.png": files["test/roses/0.png"]})
    row = person.receipt(upload)["train/roses/leak.png"]
    assert (row.outcome, row.code) == (Outcome.SKIPPED, "leak")
    assert "train and test; it stays in test" in row.reason
    assert placed(person)["test/roses/0.png"][1] == Split.TEST
    assert person.version().issues["leaks"] == 1


def test_a_class_that_doubles_make_too_small_is_rejected_with_its_receipt(person: Person) -> None:
    copies = {f"lilies/{number}.png": picture(70) for number in range(5)}
    upload = person.upload(FLOWERS | copies)
    assert upload.status == UploadStatus.REJECTED
    assert upload.error is not None
    assert '"lilies" (1)' in upload.error
    assert (upload.kept, upload.skipped) == (9, 4)


# a second upload


@pytest.mark.both_databases
def test_a_later_upload_adds_to_the_version_before_and_old_pictures_keep_their_split(person: Person) -> None:
    person.upload(FLOWERS)
    before = placed(person)
    upload = person.upload(
        classes(["lilies"], each=6) | {"roses/new.png": picture(60), "roses/again.png": FLOWERS["roses/1.png"]}
    )
    assert upload.status == UploadStatus.READY
    after = placed(person)
    assert {path: after[path] for path in before} == before
    assert len(after) == 8 + 6 + 1
    version = person.version()
    assert (version.number, version.class_names) == (2, ["lilies", "roses", "tulips"])
    row = person.receipt(upload)["roses/again.png"]
    assert row.reason == 'Duplicate of "roses/1.png" (in the dataset already).'


def test_an_upload_with_nothing_new_is_rejected(person: Person) -> None:
    person.upload(FLOWERS)
    upload = person.upload({"x.zip": zipped(FLOWERS)})
    assert upload.error is not None
    assert "Nothing new" in upload.error
    assert person.version().number == 1


def documented_row(name: str, row: ReceiptRow) -> str:
    """A line of the table in docs/receipt.md."""
    said = f"`{row.code}`: {row.reason}" if row.code else row.reason
    return f"| `{name}` | {row.outcome.value} | {said} |"


def test_every_awkward_sample_lands_in_a_documented_row(person: Person) -> None:
    folder = sample_folder("awkward")
    if folder is None:
        pytest.skip("the awkward samples are not beside this checkout")
    files: dict[str, bytes | Path] = {f"awkward/{path.name}": path for path in sorted(folder.iterdir())}
    upload = person.upload(files | FLOWERS)
    assert (upload.status, upload.error) == (UploadStatus.READY, None)
    receipt = person.receipt(upload)
    assert set(receipt) == set(files) | set(FLOWERS)
    text = (Path(__file__).resolve().parents[3] / "docs" / "receipt.md").read_text(encoding="utf-8")
    documented = [line for line in text.splitlines() if re.match(r"\| `.+` \| (kept|fixed|refused|skipped) \|", line)]
    assert documented == [
        documented_row(path.name, receipt[f"awkward/{path.name}"]) for path in sorted(folder.iterdir())
    ]
    assert len(documented) == 95
    assert all(row.reason and row.code for row in receipt.values() if row.outcome == Outcome.REFUSED)
    assert "decoder_crashed" not in upload.by_reason
