"""A CSV manifest overrides the folders; every line that cannot be used is named by its number."""

import pytest

from core.errors import UploadRejected
from core.tables import Split
from worker.ingest.entries import Code, Refusal
from worker.ingest.folders import Place
from worker.ingest.manifest import Manifest, may_be_manifest, read_manifest

PICTURES = ["images/1.jpg", "images/2.jpg", "images/sub/3.jpg", "other/3.jpg"]


def read(
    text: str | bytes, path: str = "labels.csv", pictures: list[str] = PICTURES, most_lines: int = 100
) -> Manifest:
    body = text if isinstance(text, bytes) else text.encode()
    manifest = read_manifest(path, body, pictures, most_lines=most_lines)
    assert manifest is not None
    return manifest


def test_class_split_and_group_come_from_the_columns() -> None:
    manifest = read("filename,class_name,split,group\nimages/1.jpg,rose,Train,ada\nimages/2.jpg,tulip,,\n")
    assert manifest.places == {
        "images/1.jpg": Place("rose", Split.TRAIN, "ada"),
        "images/2.jpg": Place("tulip"),
    }
    assert manifest.refused == []


def test_columns_may_be_in_any_order_and_more() -> None:
    manifest = read("age,Class_Name,FILENAME\n7,rose,images/1.jpg\n")
    assert manifest.places == {"images/1.jpg": Place("rose")}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_of_spreadsheets_are_understood(separator: str) -> None:
    lines = ["filename,class_name", "images/1.jpg,rose"]
    manifest = read("\ufeff" + "\r\n".join(lines).replace(",", separator))
    assert manifest.places == {"images/1.jpg": Place("rose")}


def test_quotes_keep_separators_in_names() -> None:
    assert read('filename,class_name\nimages/1.jpg,"rose, red"\n').places["images/1.jpg"].class_name == "rose, red"


def test_names_are_relative_to_the_manifest() -> None:
    pictures = ["data/images/1.jpg"]
    assert list(read("filename,class_name\nimages/1.jpg,rose\n", "data/labels.csv", pictures).places) == pictures


def test_a_bare_name_is_found_where_it_is_unique() -> None:
    manifest = read("filename,class_name\n1.jpg,rose\n3.jpg,tulip\n")
    assert list(manifest.places) == ["images/1.jpg"]
    assert [refused.line for refused in manifest.refused] == [3]


def test_names_are_composed_before_they_are_compared() -> None:
    assert list(read("filename,class_name\nBlu\u0308te.jpg,x\n", pictures=["Bl\u00fcte.jpg"]).places) == [
        "Bl\u00fcte.jpg"
    ]


def test_a_picture_that_is_not_listed_is_skipped_and_told() -> None:
    place = read("filename,class_name\nimages/1.jpg,rose\n").place("images/2.jpg")
    assert isinstance(place, Refusal)
    assert (place.code, place.skipped) == (Code.NOT_IN_MANIFEST, True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("images/9.jpg,rose,", "no picture"),
        ("images/1.jpg,,", "class_name is empty"),
        (",rose,", "filename is empty"),
        ("images/1.jpg", "class_name is empty"),
        ("images/1.jpg,rose,holdout", 'no split "holdout"'),
        ("images/1.jpg," + "r" * 201 + ",", "200 characters"),
        ("../../etc/passwd,rose,", "no picture"),
    ],
)
def test_a_bad_line_is_reported_with_its_number(line: str, said: str) -> None:
    manifest = read(f"filename,class_name,split\nimages/2.jpg,tulip,\n{line}\n")
    assert [refused.line for refused in manifest.refused] == [3]
    assert said in manifest.refused[0].sentence
    assert list(manifest.places) == ["images/2.jpg"]


def test_the_first_of_two_lines_for_one_picture_counts() -> None:
    manifest = read("filename,class_name\nimages/1.jpg,rose\nimages/1.jpg,tulip\n")
    assert manifest.places == {"images/1.jpg": Place("rose")}
    assert "listed before" in manifest.refused[0].sentence


def test_another_csv_is_no_manifest() -> None:
    assert read_manifest("x.csv", b"name,age\nada,36\n", PICTURES, most_lines=9) is None
    assert read_manifest("x.csv", b"", PICTURES, most_lines=9) is None
    assert read_manifest("x.csv", b"notes on filename and class_name\n", PICTURES, most_lines=9) is None


def test_a_manifest_that_is_no_text_is_rejected() -> None:
    with pytest.raises(UploadRejected, match="UTF-8"):
        read(b"filename,class_name\n\xff\xfe,rose\n")


def test_a_manifest_of_too_many_lines_is_rejected() -> None:
    with pytest.raises(UploadRejected, match="more than 2 lines"):
        read("filename,class_name\n" + "images/1.jpg,rose\n" * 5, most_lines=2)


def test_a_manifest_with_a_monstrous_cell_is_rejected() -> None:
    with pytest.raises(UploadRejected, match="no valid CSV"):
        read("filename,class_name\n" + "x" * 200_000 + ",rose\n")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("labels.csv", True),
        ("data/labels.csv", True),
        ("data/images/LABELS.CSV", True),
        ("data/images/roses/labels.csv", False),
        ("other/labels.csv", False),
        ("labels.txt", False),
    ],
)
def test_a_manifest_lies_at_the_top_or_in_a_folder_around_everything(path: str, expected: bool) -> None:
    assert may_be_manifest(path, ("data", "images")) == expected


def test_a_split_is_kept_only_where_there_is_one() -> None:
    body = b"filename,class_name,split,keep_split\na.jpg,x,train,YES\nb.jpg,x,,yes\nc.jpg,x,test,no\n"
    manifest = read_manifest("m.csv", body, ["a.jpg", "b.jpg", "c.jpg"], most_lines=10)
    assert manifest is not None
    assert {path: place.keeps_split for path, place in manifest.places.items()} == {
        "a.jpg": True,
        "b.jpg": False,
        "c.jpg": False,
    }
