"""What plain forms do, without a script: each is a POST that ends in a 303 or in the form again."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.main import create_app
from app.pages.sending import name_of
from app.run_form import form_values
from core import accounts
from core.database import open_database
from core.presets import PRESETS
from core.tables import ApiToken, BrowserSession, Dataset, Run, RunStatus, Upload, UploadFile, User
from tests.app.pages.furnished import Furnished, furnish

ORIGIN = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Furnished:
    return furnish(tmp_path_factory.mktemp("forms"), database_url=database_url, disk_reserve_bytes=0)


@pytest.fixture
def browser(furnished: Furnished) -> Iterator[TestClient]:
    cookies = {"thaw_session": furnished.cookie}
    app = create_app(furnished.settings)
    yield TestClient(app, base_url="http://localhost", cookies=cookies, headers=ORIGIN, follow_redirects=False)
    app.state.house.queue.close()
    app.state.house.database.close()


def count(f: Furnished, table: type, *where: object) -> int:
    database = open_database(f.settings)
    with database.read() as session:
        found = session.scalar(select(func.count()).select_from(table).where(*where)) or 0  # type: ignore[arg-type]
    database.close()
    return found


def test_a_preset_is_trained_as_it_is_whatever_the_panel_says(browser: TestClient, furnished: Furnished) -> None:
    form = form_values(PRESETS["standard"].config.model_dump(mode="json")) | {"head.dropout": "nonsense"}
    sent = {**form, "version_id": furnished.version, "preset": "quick", "repeats": "1", "name": " mine "}
    answer = browser.post("/runs", data=sent)
    assert answer.status_code == 303
    database = open_database(furnished.settings)
    with database.read() as session:
        run = session.get_one(Run, answer.headers["location"].removeprefix("/runs/"))
        assert run.config == PRESETS["quick"].config.model_dump(mode="json")
        assert (run.name, run.preset, run.status) == ("mine", "quick", RunStatus.QUEUED)
    database.close()


def test_repeats_make_a_group_of_runs(browser: TestClient, furnished: Furnished) -> None:
    answer = browser.post("/runs", data={"version_id": furnished.version, "preset": "quick", "repeats": "3"})
    group = answer.headers["location"].removeprefix("/runs?group_id=")
    assert count(furnished, Run, Run.group_id == group) == 3
    assert browser.get(answer.headers["location"]).text.count("#3</a>") == 1


def test_the_page_of_a_group_of_repeats_says_mean_spread_and_interval(
    browser: TestClient, furnished: Furnished
) -> None:
    answer = browser.post("/runs", data={"version_id": furnished.version, "preset": "quick", "repeats": "3"})
    group = answer.headers["location"].removeprefix("/runs?group_id=")
    assert "None of 3 runs has a test score yet" in browser.get(answer.headers["location"]).text
    database = open_database(furnished.settings)
    told = []
    for score in (0.8, 0.86, 0.92):
        with database.write() as session:
            waiting = session.scalars(
                select(Run).where(Run.group_id == group, Run.test_accuracy.is_(None)).order_by(Run.id)
            )
            waiting.first().test_accuracy = score  # type: ignore[union-attr]
        text = browser.get(answer.headers["location"]).text
        told.append(re.sub(r"<[^>]+>", "", text.partition('id="repeats-h"')[2].partition("</section>")[0]))
    database.close()
    assert "of 1 of 3 runs: 80.0 %" in told[0]
    assert "a second finished run gives the spread" in told[0]
    # Student's t with two degrees of freedom: 86 +- 4.3027 * 6 / sqrt(3)
    for words in ("of 3 of 3 runs: 86.0 %", "71.1", "standard deviation 6.0 points", "lowest 80.0, highest 92.0 %"):
        assert words in told[2], told[2]


@pytest.mark.parametrize("repeats", ["0", "51", "many", ""])
def test_a_wrong_number_of_repeats_is_said_at_its_field(
    browser: TestClient, furnished: Furnished, repeats: str
) -> None:
    before = count(furnished, Run)
    answer = browser.post("/runs", data={"version_id": furnished.version, "preset": "quick", "repeats": repeats})
    assert answer.status_code == 422
    assert 'id="repeats-h"' in answer.text
    assert count(furnished, Run) == before


def test_an_unknown_preset_is_refused(browser: TestClient, furnished: Furnished) -> None:
    assert browser.post("/runs", data={"version_id": furnished.version, "preset": "fastest"}).status_code == 422


def test_a_queued_run_is_cancelled_retried_and_deleted(browser: TestClient, furnished: Furnished) -> None:
    made = browser.post("/runs", data={"version_id": furnished.version, "preset": "quick"}).headers["location"]
    assert browser.post(f"{made}/delete").status_code == 409
    assert browser.post(f"{made}/cancel").headers["location"] == made
    assert "was cancelled" in browser.get(made).text
    again = browser.post(f"{made}/retry").headers["location"]
    assert again != made
    assert browser.post(f"{made}/delete").headers["location"] == f"/runs?deleted={made.removeprefix('/runs/')}"
    assert browser.get(made).status_code == 404


def posted(browser: TestClient, *names: str) -> Any:
    """A form as a browser sends it: a file input without a choice has an empty file name."""
    part = '--edge\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\n\r\nx\r\n'
    body = "".join(part.format(name) for name in names) + "--edge--\r\n"
    return browser.post("/datasets", content=body, headers={"Content-Type": "multipart/form-data; boundary=edge"})


def test_files_become_a_dataset_named_after_their_folder(browser: TestClient, furnished: Furnished) -> None:
    answer = posted(browser, *(f"flowers/roses/{number}.jpg" for number in range(3)), "")
    assert answer.status_code == 303
    dataset_id = answer.headers["location"].removeprefix("/datasets/")
    assert count(furnished, Dataset, Dataset.id == dataset_id, Dataset.name == "flowers") == 1
    uploads = select(Upload.id).where(Upload.dataset_id == dataset_id)
    assert count(furnished, UploadFile, UploadFile.upload_id.in_(uploads)) == 3


def test_a_form_without_files_leaves_nothing_behind(browser: TestClient, furnished: Furnished) -> None:
    before = count(furnished, Dataset), count(furnished, Upload)
    answer = posted(browser, "")
    assert answer.status_code == 409
    assert "has no files yet" in answer.text
    assert (count(furnished, Dataset), count(furnished, Upload)) == before


def test_more_files_go_to_the_dataset_they_were_sent_to(browser: TestClient, furnished: Furnished) -> None:
    files = [("files", ("a/b.jpg", b"x", "image/jpeg"))]
    address = f"/datasets/{furnished.empty_dataset}"
    assert browser.post(f"{address}/uploads", files=files).headers["location"] == address
    assert browser.post("/datasets/none/uploads", files=files).status_code == 404


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (["flowers/roses/a.jpg", "flowers/b.jpg"], "flowers"),
        (["my.pictures.zip"], "my"),
        (["a.jpg", "b.jpg"], "Pictures"),
        ([], "Pictures"),
        ([".zip"], "Pictures"),
    ],
)
def test_a_dataset_is_called_after_what_was_sent(paths: list[str], name: str) -> None:
    assert name_of(paths) == name


def test_a_token_is_shown_once_and_revoked(browser: TestClient, furnished: Furnished) -> None:
    answer = browser.post("/account/tokens", data={"name": "robot", "scope": "read"})
    assert answer.status_code == 201
    secret = re.findall(r"thaw_[\w-]{20,}", answer.text)[0]
    assert secret not in browser.get("/account").text
    bearer = {"Authorization": f"Bearer {secret}"}
    assert browser.get("/api/v1/datasets", headers=bearer).status_code == 200
    database = open_database(furnished.settings)
    with database.read() as session:
        token = session.scalars(select(ApiToken).where(ApiToken.name == "robot")).one()
    database.close()
    assert browser.post(f"/account/tokens/{token.id}/delete").status_code == 303
    assert browser.get("/api/v1/datasets", headers=bearer).status_code == 401
    assert browser.post("/account/tokens", data={"name": " "}).status_code == 422


def test_a_start_link_works_once_and_a_browser_signs_out(furnished: Furnished) -> None:
    database = open_database(furnished.settings)
    with database.write() as session:
        key = accounts.create_start_link(session, accounts.local_user(session))
    app = create_app(furnished.settings)
    fresh = TestClient(app, base_url="http://localhost", headers=ORIGIN, follow_redirects=False)
    assert fresh.get("/").headers["location"].startswith("/login")
    assert fresh.get(f"/start?key={key}").headers["location"] == "/"
    assert fresh.get("/").status_code == 200
    assert fresh.get(f"/start?key={key}").headers["location"] == "/"  # the same browser, signed in already
    other = TestClient(app, base_url="http://localhost", headers=ORIGIN, follow_redirects=False)
    assert "used already" in other.get(f"/start?key={key}", follow_redirects=False).text or other.get("/").is_redirect
    before = count(furnished, BrowserSession)
    assert fresh.post("/logout").headers["location"] == "/login"
    assert count(furnished, BrowserSession) == before - 1
    app.state.house.queue.close()
    app.state.house.database.close()
    database.close()


def test_name_and_password_open_the_door_and_five_wrong_tries_close_it(tmp_path: Path) -> None:
    f = furnish(tmp_path)
    database = open_database(f.settings)
    with database.write() as session:
        accounts.create_user(session, "maria", "correct horse", is_admin=True)
    app = create_app(f.settings)
    client = TestClient(app, base_url="http://localhost", headers=ORIGIN, follow_redirects=False)
    right = {"username": "maria", "password": "correct horse", "next": "/runs?status=failed"}
    answer = client.post("/login", data=right)
    assert answer.headers["location"] == "/runs?status=failed"
    assert "HttpOnly" in answer.headers["set-cookie"]
    changed = client.post("/account/password", data={"old": "wrong", "password": "another long one"})
    assert "present password is wrong" in changed.text
    assert client.post("/account/password", data={"old": "correct horse", "password": "short"}).status_code == 422
    changed = client.post("/account/password", data={"old": "correct horse", "password": "another long one"})
    assert changed.headers["location"] == "/account"
    assert client.get("/account").status_code == 200
    client.cookies.clear()
    for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example"):
        sent = {"username": "maria", "password": "another long one", "next": elsewhere}
        assert client.post("/login", data=sent).headers["location"] == "/"
        client.cookies.clear()
    wrong = {"username": "maria", "password": "no"}
    assert [client.post("/login", data=wrong).status_code for _ in range(6)] == [401] * 5 + [429]
    with database.read() as session:
        assert session.scalar(select(User.name).where(User.name == "maria")) == "maria"
    app.state.house.queue.close()
    app.state.house.database.close()
    database.close()


def test_deleting_says_first_what_goes(browser: TestClient, furnished: Furnished) -> None:
    page = browser.get(f"/models/{furnished.model}/delete").text
    assert "For a day this can be undone" in page
    assert browser.post(f"/models/{furnished.model}/delete").headers["location"].startswith("/models?deleted=")
    assert browser.get(f"/models/{furnished.model}").status_code == 404
    page = browser.get(f"/runs/{furnished.done}").text
    assert "Try the model" not in page
    address = f"/datasets/{furnished.rejected_dataset}"
    assert browser.post(f"{address}/delete").headers["location"] == "/datasets"
    assert browser.get(address).status_code == 404
    page = browser.get(f"/datasets/{furnished.dataset}/delete").text
    assert re.search(r"\d+ pictures</span> that no other dataset of yours has \([\d.]+ .?B\) will be freed", page)
    assert browser.post(f"/datasets/{furnished.dataset}/delete").status_code == 409  # a run on it has not ended


def test_a_recipe_that_needs_a_model_says_so_and_its_settings_can_be_changed(
    browser: TestClient, furnished: Furnished
) -> None:
    sent = {"version_id": furnished.version, "preset": "hands-on-ml-reuse", "repeats": "1"}
    answer = browser.post("/runs", data=sent)
    assert answer.status_code == 422
    assert "starts from a model of your own" in answer.text
    page = browser.get("/runs/new", params={"version_id": furnished.version, "recipe": "hands-on-ml-reuse"}).text
    assert 'name="base" value="hands-on-ml-reuse"' in page
    assert "Xception&#39;s ImageNet weights: not on this machine" in page


def test_weights_are_sent_and_deleted_by_plain_forms(browser: TestClient) -> None:
    wrong = browser.post("/weights", data={"backbone": "nothing"}, files={"file": ("a.h5", b"x")})
    assert wrong.status_code == 422
    assert "Weights are for one backbone" in wrong.text
    sent = browser.post("/weights", data={"backbone": "tiny_cnn"}, files={"file": ("mine.h5", b"x")})
    assert (sent.status_code, sent.headers["location"]) == (303, "/weights")
    page = browser.get("/weights").text
    assert "mine.h5" in page
    found = re.search(r'action="(/weights/[^"]+/delete)"', page)
    assert found is not None
    assert browser.post(found.group(1)).status_code == 303
    assert "mine.h5" not in browser.get("/weights").text
