"""Class and split by folders, and what cannot be learned from."""

import pytest

from core.errors import UploadRejected
from core.tables import Split
from worker.ingest.entries import Code, Refusal
from worker.ingest.folders import FolderRules, Place, case_twins, check_classes, skip_reason


def places(*paths: str) -> list[tuple[str, Split | None] | str]:
    """(class, split) of each path, or the code of its refusal."""
    rules = FolderRules(paths)
    found: list[tuple[str, Split | None] | str] = []
    for path in paths:
        place = rules.place(path)
        found.append((place.class_name, place.split) if isinstance(place, Place) else str(place.code))
    return found


def test_one_folder_per_class() -> None:
    assert places("roses/a.jpg", "tulips/b.jpg") == [("roses", None), ("tulips", None)]


def test_folders_around_everything_do_not_matter() -> None:
    assert places("x/flowers/data/roses/a.jpg", "x/flowers/data/tulips/b.jpg") == [("roses", None), ("tulips", None)]


def test_the_class_is_the_last_level_at_any_nesting() -> None:
    assert places("plants/red/roses/a.jpg", "tulips/b.jpg") == [("roses", None), ("tulips", None)]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", Split.TRAIN),
        ("Training", Split.TRAIN),
        ("VAL", Split.VALIDATION),
        ("valid", Split.VALIDATION),
        ("Validation", Split.VALIDATION),
        ("test", Split.TEST),
        ("TESTING", Split.TEST),
    ],
)
def test_a_level_named_like_a_split_sets_it_above_or_below_the_class(name: str, split: Split) -> None:
    above = places(f"d/{name}/roses/a.jpg", f"d/{name}/tulips/b.jpg", "d/other/lilies/c.jpg")
    assert above == [("roses", split), ("tulips", split), ("lilies", None)]
    below = places(f"d/roses/{name}/a.jpg", f"d/tulips/{name}/b.jpg")
    assert below == [("roses", split), ("tulips", split)]


def test_the_deepest_split_name_wins() -> None:
    assert places("train/roses/test/a.jpg", "train/tulips/b.jpg") == [("roses", Split.TEST), ("tulips", Split.TRAIN)]


def test_a_single_split_around_everything_counts() -> None:
    assert places("train/roses/a.jpg", "train/tulips/b.jpg") == [("roses", Split.TRAIN), ("tulips", Split.TRAIN)]


def test_a_file_at_the_top_has_no_class() -> None:
    assert places("a.jpg", "roses/b.jpg") == [Code.NO_CLASS_FOLDER, ("roses", None)]


def test_a_file_right_in_the_folder_around_everything_has_no_class() -> None:
    assert places("flowers/cover.jpg", "flowers/roses/a.jpg", "flowers/tulips/b.jpg") == [
        Code.NO_CLASS_FOLDER,
        ("roses", None),
        ("tulips", None),
    ]


def test_pictures_without_class_in_a_test_folder_have_no_class() -> None:
    found = places("flowers/train/roses/a.jpg", "flowers/train/tulips/b.jpg", "flowers/test/1.jpg")
    assert found == [("roses", Split.TRAIN), ("tulips", Split.TRAIN), Code.NO_CLASS_FOLDER]


def test_split_folders_alone_are_no_classes() -> None:
    assert places("train/a.jpg", "test/b.jpg") == [Code.NO_CLASS_FOLDER] * 2


def test_train_among_vehicles_is_a_train() -> None:
    found = places("vehicles/bus/a.jpg", "vehicles/car/b.jpg", "vehicles/train/c.jpg")
    assert found == [("bus", None), ("car", None), ("train", None)]


def test_test_beside_class_folders_stays_a_split() -> None:
    assert places("f/roses/a.jpg", "f/tulips/b.jpg", "f/test/c.jpg")[2] == Code.NO_CLASS_FOLDER


def test_names_of_any_alphabet_are_classes_without_space_at_their_ends() -> None:
    assert places("バラ /a.jpg", "розы/b.jpg") == [("バラ", None), ("розы", None)]


def test_a_class_name_beyond_measure_is_refused() -> None:
    assert places("r" * 201 + "/a.jpg", "t/b.jpg") == [Code.CLASS_NAME_TOO_LONG, ("t", None)]


def test_one_class_folder_alone_keeps_its_name() -> None:
    assert places("roses/a.jpg", "roses/b.jpg") == [("roses", None)] * 2


@pytest.mark.parametrize(
    "path",
    [
        "__MACOSX/roses/._a.jpg",
        "roses/.DS_Store",
        "roses/Thumbs.db",
        "roses/desktop.ini",
        ".git/a.jpg",
        "roses/._a.jpg",
        "x/@eaDir/a.jpg",
    ],
)
def test_junk_is_skipped(path: str) -> None:
    reason = skip_reason(path)
    assert isinstance(reason, Refusal)
    assert (reason.code, reason.skipped) == (Code.JUNK, True)


@pytest.mark.parametrize("path", ["README.md", "roses/labels.json", "a/b.CSV"])
def test_text_and_tables_are_skipped(path: str) -> None:
    reason = skip_reason(path)
    assert isinstance(reason, Refusal)
    assert (reason.code, reason.skipped) == (Code.NOT_A_PICTURE, True)


@pytest.mark.parametrize("path", ["roses/a.jpg", "roses/a", "roses/a.unknown", "macosx/a.jpg"])
def test_everything_else_is_looked_at(path: str) -> None:
    assert skip_reason(path) is None


def test_enough_of_everything_passes() -> None:
    check_classes({"a": 3, "b": 3}, most=2)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "No picture"),
        ({"roses": 90}, '"roses"'),
        ({"a": 3, "b": 3, "c": 3}, "3 classes; at most 2"),
        ({"roses": 90, "tulips": 2}, '"tulips" (2)'),
    ],
)
def test_what_cannot_be_learned_from_is_rejected_by_name(counts: dict[str, int], said: str) -> None:
    with pytest.raises(UploadRejected) as caught:
        check_classes(counts, most=2)
    assert said in caught.value.message


def test_many_small_classes_are_not_all_listed() -> None:
    with pytest.raises(UploadRejected) as caught:
        check_classes({f"c{number:03}": 1 for number in range(100)}, most=1000)
    assert "and 95 more" in caught.value.message


def test_classes_that_differ_in_case_only_are_told() -> None:
    assert case_twins(["Roses", "roses", "tulips"]) == [
        '"Roses" and "roses" differ only in the case of letters and were kept as two classes.'
    ]
