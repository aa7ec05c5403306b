"""What plain forms do, without a script: each is a POST that ends in a 303 or in the form again."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, func, select
from starlette.testclient import TestClient

from app.main import create_app
from app.pages.sending import name_of
from app.run_form import form_values
from core import accounts
from core.database import open_database
from core.ids import new_id
from core.presets import PRESETS
from core.tables import (
    ApiToken,
    BrowserSession,
    Dataset,
    Run,
    RunStatus,
    TrainedModel,
    Upload,
    UploadFile,
    User,
    Weights,
    WeightsStatus,
    utc_now,
)
from tests.app.pages.furnished import Furnished, furnish
from tests.core.rows import tiny_model

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


class FormFields(HTMLParser):
    """The fields of the new-run form in a page, as a browser without a script would send them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self._inside = False
        self._select = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self._inside = "data-new-run" in given
        if not self._inside:
            return
        name = given.get("name") or ""
        if tag == "select":
            self._select = name
        elif tag == "option" and self._select and (self._select not in self.values or "selected" in given):
            self.values[self._select] = given.get("value") or ""
        elif tag == "input" and name and (given.get("type") not in {"radio", "checkbox"} or "checked" in given):
            self.values[name] = given.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""


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


def shown(browser: TestClient, run_id: str) -> tuple[dict[str, str], str]:
    """What the form of a run like this one holds, as a browser would send it, and the page."""
    page = browser.get(f"/runs/new?like={run_id}").text
    found = FormFields(page)
    return found.values, page


def queued(browser: TestClient, f: Furnished, **wish: Any) -> dict[str, Any]:
    """A run queued by the REST API."""
    answer = browser.post("/api/v1/runs", json={"dataset_version_id": f.version, **wish})
    assert answer.status_code == 202, answer.text
    run: dict[str, Any] = answer.json()
    return run


def config_of(browser: TestClient, answer: httpx.Response) -> dict[str, Any]:
    """The settings of the run that a form has started."""
    assert answer.status_code == 303, answer.text
    config: dict[str, Any] = browser.get(f"/api/v1{answer.headers['location']}").json()["config"]
    return config


def test_a_run_like_one_of_a_preset_with_changes_has_the_changes(browser: TestClient, furnished: Furnished) -> None:
    changes = {"batch_size": 17, "seed": 7, "label_smoothing": 0.123456789, "weights": {"model_id": furnished.model}}
    run = queued(browser, furnished, preset="quick", config=changes)
    values, _ = shown(browser, run["id"])
    assert (values["preset"], values["batch_size"], values["seed"]) == ("own", "17", "7")
    assert "Quick, with other settings than it has now" in browser.get(f"/runs/{run['id']}").text
    assert config_of(browser, browser.post("/runs", data=values)) == run["config"]


def test_a_run_like_one_of_a_preset_as_it_is_has_the_preset(browser: TestClient, furnished: Furnished) -> None:
    run = queued(browser, furnished, preset="quick")
    assert shown(browser, run["id"])[0]["preset"] == "quick"
    again = queued(browser, furnished, preset="quick", config={"seed": 3})
    for one in (run, again):
        assert "<dd>Quick</dd>" in browser.get(f"/runs/{one['id']}").text


def test_phases_that_the_form_cannot_show_are_said_and_kept(browser: TestClient, furnished: Furnished) -> None:
    tune = {"kind": "fine_tune", "epochs": 3}
    run = queued(browser, furnished, config={"phases": [{"kind": "frozen"}, tune, {**tune, "epochs": 4}]})
    values, page = shown(browser, run["id"])
    assert "These 3 phases are trained as they are" in page
    assert not any(name.startswith(("frozen.", "fine_tune.")) for name in values)
    again = config_of(browser, browser.post("/runs", data=values | {"batch_size": "8"}))
    assert again == {**run["config"], "batch_size": 8}
    refused = browser.post("/runs", data=values | {"batch_size": "0"})
    assert "These 3 phases are trained as they are" in refused.text


def test_weights_older_than_the_fifty_newest_are_still_what_a_run_starts_from(
    browser: TestClient, furnished: Furnished
) -> None:
    run = queued(browser, furnished, config={"weights": {"model_id": furnished.model}})
    database = open_database(furnished.settings)
    with database.write() as session:
        session.add_all(tiny_model(furnished.user) for _ in range(60))
    values, page = shown(browser, run["id"])
    assert values["weights"] == f"model_id:{furnished.model}"
    assert page.count('<option value="model_id:') == 51
    with database.write() as session:
        session.execute(delete(TrainedModel).where(TrainedModel.name == "tiny"))
        model = session.get_one(TrainedModel, furnished.model)
        model.deleted_at = utc_now()
    try:
        values, page = shown(browser, run["id"])
        assert "what is no longer there" in page
        refused = browser.post("/runs", data=values)
        assert refused.status_code == 422
        assert f"There is no model &#34;{furnished.model}&#34;" in refused.text
    finally:
        with database.write() as session:
            session.get_one(TrainedModel, furnished.model).deleted_at = None
        database.close()


def test_a_file_of_weights_older_than_the_fifty_newest_too(browser: TestClient, furnished: Furnished) -> None:
    facts = {"owner_id": furnished.user, "backbone": "tiny_cnn", "size_bytes": 1, "status": WeightsStatus.READY}
    database = open_database(furnished.settings)
    with database.write() as session:
        session.add_all(Weights(id=new_id(), filename=f"{number}.h5", **facts) for number in range(51))
    with database.read() as session:
        oldest = session.scalars(select(Weights.id).where(Weights.filename == "0.h5")).one()
    database.close()
    config = {"backbone": "tiny_cnn", "weights": {"weights_id": oldest}}
    run = queued(browser, furnished, config=config)
    values, page = shown(browser, run["id"])
    assert values["weights"] == f"weights_id:{oldest}"
    assert "file 0.h5 (Tiny network)" in page


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
