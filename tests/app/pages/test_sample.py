"""The way in without own pictures: a button on the first page, the dataset's page, the run."""

from sqlalchemy import select
from starlette.testclient import TestClient

from app.dependencies import House
from core.tables import Run, Upload, UploadStatus
from tests.app.people import Caller, belongings

ORIGIN = {"Origin": "http://localhost"}


def test_home_offers_a_sample_before_and_after_the_first_dataset(browser: TestClient) -> None:
    assert "Try with a sample" in browser.get("/").text
    browser.post("/datasets/samples", headers=ORIGIN)
    assert "Try with a sample" in browser.get("/").text


def test_the_button_leads_to_a_dataset_that_says_what_goes_on(browser: TestClient, house: House) -> None:
    answer = browser.post("/datasets/samples", headers=ORIGIN)
    assert answer.status_code == 303
    page = browser.get(answer.headers["location"]).text
    assert "drawn by Thaw here and now" in page
    with house.database.write() as session:
        session.scalars(select(Upload)).one().status = UploadStatus.INGESTING
    assert "Drawing 150 pictures" in browser.get(answer.headers["location"]).text


def test_when_the_pictures_are_ready_the_page_goes_on_to_the_run(
    browser: TestClient, house: House, bob: Caller
) -> None:
    run_id = belongings(house, bob.user).run_id
    dataset = browser.post("/datasets/samples", headers=ORIGIN).headers["location"].rpartition("/")[2]
    with house.database.read() as session:
        upload = session.scalars(select(Upload).where(Upload.dataset_id == dataset)).one()
    address = f"/datasets/{dataset}/uploads/{upload.id}"
    assert "data-then" not in browser.get(address).text
    with house.database.write() as session:
        session.get_one(Upload, upload.id).status = UploadStatus.READY
        run = session.get_one(Run, run_id)
        run.dataset_id, run.owner_id = dataset, upload.owner_id
    page = browser.get(address).text
    assert f'data-then="/runs/{run_id}"' in page
    assert "data-poll" not in page


def test_another_site_cannot_order_one(browser: TestClient) -> None:
    assert browser.post("/datasets/samples", headers={"Origin": "http://elsewhere"}).status_code == 403
