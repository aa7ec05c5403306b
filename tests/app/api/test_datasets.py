"""Datasets, versions and pictures over REST."""

import pytest

from app.dependencies import House
from core.quality import Flag, bit
from core.storage import thumbnail_key
from core.tables import DatasetVersion, Image, ImageLook, NearPair
from tests.app.people import Belongings, Caller, belongings, original_of
from tests.core.rows import record_issues

pytestmark = pytest.mark.both_databases


@pytest.fixture
def owned(house: House, ada: Caller) -> Belongings:
    """Ada's things."""
    return belongings(house, ada.user)


def test_a_dataset_is_made_read_changed_and_deleted(ada: Caller) -> None:
    made = ada.client.post("/api/v1/datasets", json={"name": " Pets ", "description": "at home"})
    assert made.status_code == 201
    path = made.headers["location"]
    assert ada.client.get(path).json() == made.json()
    assert (made.json()["name"], made.json()["latest_version"]) == ("Pets", None)
    changed = ada.client.patch(path, json={"name": "動物"})
    assert (changed.json()["name"], changed.json()["description"]) == ("動物", "at home")
    assert ada.client.delete(path).status_code == 204
    assert ada.client.get(path).status_code == 404


def test_a_dataset_that_a_run_uses_is_deleted_by_force_only(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/datasets/{owned.dataset_id}"
    refused = ada.client.delete(path)
    assert refused.status_code == 409
    assert "?force=true" in refused.json()["detail"]
    assert ada.client.delete(path, params={"force": "true"}).status_code == 204
    run = ada.client.get(f"/api/v1/runs/{owned.run_id}").json()
    assert (run["dataset_id"], run["dataset_title"]) == (None, "Pets, version 1")
    said = ada.client.get(f"/api/v1/runs/{owned.run_id}/predictions").json()["items"]
    assert {(one["true_class"], one["filename"]) for one in said} == {("cat", None), ("dog", None)}


def test_lists_are_read_in_pages(ada: Caller) -> None:
    for index in range(5):
        ada.client.post("/api/v1/datasets", json={"name": f"set {index}"})
    seen, cursor = [], None
    while True:
        asked = {"limit": 2, "sort": "-name", **({"cursor": cursor} if cursor else {})}
        page = ada.client.get("/api/v1/datasets", params=asked).json()
        seen += [one["name"] for one in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == [f"set {index}" for index in reversed(range(5))]
    found = ada.client.get("/api/v1/datasets", params={"search": "T 3"}).json()["items"]
    assert [one["name"] for one in found] == ["set 3"]


def test_a_version_says_its_classes_in_the_order_of_their_labels(ada: Caller, owned: Belongings) -> None:
    version = ada.client.get(f"/api/v1/dataset-versions/{owned.version_id}").json()
    assert version["classes"] == [
        {"name": "cat", "label": 0, "counts": {"train": 3, "validation": 0, "test": 1}},
        {"name": "dog", "label": 1, "counts": {"train": 3, "validation": 0, "test": 1}},
    ]
    listed = ada.client.get(f"/api/v1/datasets/{owned.dataset_id}/versions").json()["items"]
    assert listed == [version]
    assert ada.client.get(f"/api/v1/datasets/{owned.dataset_id}").json()["latest_version"] == version


def test_pictures_are_filtered_and_paged(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/dataset-versions/{owned.version_id}/images"
    everything = ada.client.get(path).json()["items"]
    assert len(everything) == 8
    assert set(everything[0]) >= {
        "id",
        "sha256",
        "filename",
        "class_name",
        "split",
        "group",
        "width",
        "height",
        "format",
    }
    tested = ada.client.get(path, params={"class_name": "dog", "split": "test"}).json()["items"]
    assert [(one["class_name"], one["split"], one["filename"]) for one in tested] == [("dog", "test", "dog/7.png")]
    first = ada.client.get(path, params={"limit": 5}).json()
    rest = ada.client.get(path, params={"limit": 5, "cursor": first["next_cursor"]}).json()
    assert [*first["items"], *rest["items"]] == everything
    assert ada.client.get(path, params={"class_name": "cow"}).status_code == 422
    assert ada.client.get(path, params={"split": "exam"}).status_code == 422


def test_the_thumbnail_is_inline_and_the_original_a_download(ada: Caller, house: House, owned: Belongings) -> None:
    picture = ada.client.get(f"/api/v1/dataset-versions/{owned.version_id}/images").json()["items"][0]
    small = ada.client.get(picture["thumbnail_url"])
    assert (small.content, small.headers["content-type"]) == (b"thumbnail", "image/jpeg")
    assert "immutable" in small.headers["cache-control"]
    assert "private" in small.headers["cache-control"]
    original = ada.client.get(picture["original_url"])
    assert (original.content, original.headers["content-type"]) == (
        original_of(ada.user, 0),
        "application/octet-stream",
    )
    assert original.headers["content-disposition"].startswith("attachment;")
    assert original.headers["x-content-type-options"] == "nosniff"
    with house.database.read() as session:
        image = session.get_one(Image, picture["id"])
    house.storage.put(thumbnail_key(image.sha256), b"RIFF of an older version")
    assert ada.client.get(picture["thumbnail_url"]).headers["content-type"] == "image/webp"
    house.storage.delete(thumbnail_key(image.sha256))
    assert ada.client.get(picture["thumbnail_url"]).status_code == 404


def test_a_receipt_says_what_became_of_every_file(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/uploads/{owned.upload_id}/receipt"
    lines = ada.client.get(path).json()["items"]
    assert [(one["path"], one["outcome"]) for one in lines] == [("cat/0.png", "kept"), ("=cmd.png", "refused")]
    refused = ada.client.get(path, params={"outcome": "refused"}).json()["items"]
    assert [one["path"] for one in refused] == ["=cmd.png"]


def test_a_receipt_as_csv_is_quoted_and_runs_no_formula(ada: Caller, owned: Belongings) -> None:
    answer = ada.client.get(f"/api/v1/uploads/{owned.upload_id}/receipt", params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text.split("\r\n") == [
        "path,outcome,reason,image_id",
        "cat/0.png,kept,,",
        '\'=cmd.png,refused,"It is ""broken"", sadly.",',
        "",
    ]


def test_uploads_of_a_dataset_are_listed(ada: Caller, owned: Belongings) -> None:
    listed = ada.client.get(f"/api/v1/datasets/{owned.dataset_id}/uploads").json()["items"]
    assert [one["id"] for one in listed] == [owned.upload_id]
    assert listed[0]["dataset_version_id"] == owned.version_id


def test_a_version_is_made_from_another_and_compared_with_it(ada: Caller, bob: Caller, owned: Belongings) -> None:
    path = f"/api/v1/datasets/{owned.dataset_id}/versions"
    pictures = ada.client.get(f"/api/v1/dataset-versions/{owned.version_id}/images").json()["items"]
    cat, dog = pictures[0], pictures[4]
    changes = {
        "move": [{"image_ids": [cat["id"]], "split": "validation"}],
        "remove": [dog["id"]],
        "rename": {"dog": "wolf"},
    }
    made = ada.client.post(path, json={"base_version_id": owned.version_id, "changes": changes})
    assert made.status_code == 201, made.text
    version = made.json()
    assert made.headers["location"] == f"/api/v1/dataset-versions/{version['id']}"
    assert (version["number"], version["base_version_id"], version["image_count"]) == (2, owned.version_id, 7)
    assert [one["name"] for one in version["classes"]] == ["cat", "wolf"]
    between = {"to": version["id"], "limit": 3}
    diff = ada.client.get(f"/api/v1/dataset-versions/{owned.version_id}/diff", params=between).json()
    assert diff["counts"] == {"added": 0, "removed": 1, "relabelled": 3, "moved": 1, "regrouped": 0}
    assert diff["classes"] == {"added": ["wolf"], "removed": ["dog"]}
    moved = next(one for one in diff["items"] if one["id"] == cat["id"])
    assert (moved["before"]["split"], moved["after"]["split"]) == ("train", "validation")
    rest = {**between, "cursor": diff["next_cursor"]}
    items = ada.client.get(f"/api/v1/dataset-versions/{owned.version_id}/diff", params=rest).json()["items"]
    assert [(one["id"], one["after"]) for one in items][-1] == (dog["id"], None)
    assert bob.client.post(path, json={"base_version_id": owned.version_id, "changes": {}}).status_code == 404
    assert bob.client.get(f"/api/v1/dataset-versions/{owned.version_id}/diff", params=between).status_code == 404


def test_changes_that_cannot_be_made_say_which_field(ada: Caller, owned: Belongings) -> None:
    path = f"/api/v1/datasets/{owned.dataset_id}/versions"
    unknown = ada.client.post(path, json={"base_version_id": owned.version_id, "changes": {"rename": {"cow": "ox"}}})
    assert unknown.status_code == 422
    assert unknown.json()["errors"][0]["field"] == "changes.rename"
    misspelt = ada.client.post(path, json={"base_version_id": owned.version_id, "changes": {"shuffle": True}})
    assert misspelt.json()["errors"][0]["field"] == "changes.shuffle"
    elsewhere = ada.client.post(path, json={"base_version_id": "nothing", "changes": {}})
    assert elsewhere.json()["errors"][0]["field"] == "base_version_id"
    same = ada.client.post(path, json={"base_version_id": owned.version_id, "changes": {}})
    assert same.status_code == 409


def test_issues_are_listed_with_their_pictures_and_filter_the_list(
    ada: Caller, bob: Caller, house: House, owned: Belongings
) -> None:
    path = f"/api/v1/dataset-versions/{owned.version_id}"
    pictures = ada.client.get(f"{path}/images").json()["items"]
    cat, dog = pictures[0], pictures[-1]
    with house.database.write() as session:
        session.add(NearPair(image_id=cat["id"], other_id=dog["id"], score=0.97))
        look = {"hashes": b"", "grey": b"", "flags": bit(Flag.DARK)}
        session.add(ImageLook(image_id=pictures[1]["id"], **look))
        session.flush()
        record_issues(session, session.get_one(DatasetVersion, owned.version_id))
    counts = ada.client.get(path).json()["issues"]
    assert {kind: count for kind, count in counts.items() if count} == {
        "leaks": 1,
        "conflicts": 1,
        "near_duplicates": 1,
        "dark": 1,
        "small_classes": 2,
    }
    (leak,) = ada.client.get(f"{path}/issues", params={"kind": "leaks"}).json()["items"]
    assert [(one["id"], one["split"]) for one in leak["images"]] == [(cat["id"], "train"), (dog["id"], "test")]
    assert leak["score"] == 0.97
    seen, cursor = [], None
    while True:
        asked = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = ada.client.get(f"{path}/issues", params=asked).json()
        seen += [(one["kind"], one["number"]) for one in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert len(seen) == len(set(seen)) == 6
    dark = ada.client.get(f"{path}/images", params={"issue": "dark"}).json()["items"]
    assert [one["id"] for one in dark] == [pictures[1]["id"]]
    assert ada.client.get(f"{path}/images", params={"issue": "odd"}).status_code == 422
    assert bob.client.get(f"{path}/issues").status_code == 404
    validated = {"image_ids": [pictures[1]["id"]], "split": "validation"}
    moved = {"changes": {"move": [{"image_ids": [cat["id"]], "split": "test"}, validated]}}
    later = ada.client.post(f"/api/v1/datasets/{owned.dataset_id}/versions", json=moved).json()
    assert later["issues"]["leaks"] == 0
    assert later["issues"]["near_duplicates"] == 1
