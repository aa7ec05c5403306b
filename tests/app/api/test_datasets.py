"""Datasets, versions and pictures over REST."""

import pytest

from app.dependencies import House
from core.storage import thumbnail_key
from core.tables import Image
from tests.app.people import Belongings, Caller, belongings, original_of

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
    assert (small.content, small.headers["content-type"]) == (b"thumbnail", "image/webp")
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
