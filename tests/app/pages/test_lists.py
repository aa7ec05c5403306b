"""Lists and what is written on their rows: paging both ways, tags, notes, names, deleting and undoing, CSV."""

import csv
import io
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from starlette.testclient import TestClient

from core.database import open_database
from core.models import empty_bin
from core.storage import open_storage
from core.tables import Run, TrainedModel, utc_now
from tests.app.pages.furnished import Furnished, furnish
from tests.app.test_templates import checked, visitor

SAME = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Furnished:
    return furnish(tmp_path_factory.mktemp("lists"), database_url=database_url)


@pytest.fixture(scope="module")
def browser(furnished: Furnished) -> Iterator[TestClient]:
    with visitor(furnished.settings, furnished.cookie) as client:
        client.headers.update(SAME)
        yield client


@pytest.mark.parametrize(("kind", "row"), [("runs", "done"), ("models", "model"), ("datasets", "dataset")])
def test_name_notes_and_tags_are_written_by_a_plain_form_and_found_by_search(
    browser: TestClient, furnished: Furnished, kind: str, row: str
) -> None:
    address = f"/{kind}/{getattr(furnished, row)}"
    before = browser.get(f"/api/v1{address}").json()["name"]
    form = {"name": "Renamed <i>", "notes": "first line\r\nsecond", "tags": " übung, keep me,keep me ,"}
    assert browser.post(f"{address}/labels", data=form).headers["location"] == address
    text = checked(browser.get(address))
    assert "Renamed &lt;i&gt;" in text
    assert "first line\nsecond" in text
    assert browser.get(f"/api/v1{address}").json()["tags"] == ["übung", "keep me"]
    for wish in ("übung", "KEEP", "renamed"):
        assert f'href="{address}"' in checked(browser.get(f"/{kind}", params={"search": wish}))
    assert f'href="{address}"' not in checked(browser.get(f"/{kind}", params={"search": "%"}))
    assert browser.post(f"{address}/labels", data={"name": before, "tags": ""}).status_code == 303
    assert browser.get(f"/api/v1{address}").json()["tags"] == []


def test_a_score_says_how_many_runs_looked_at_its_test(browser: TestClient, furnished: Furnished) -> None:
    for address in ("/runs", "/models", f"/runs/compare?id={furnished.done}&id={furnished.failed}"):
        assert re.search(r"first look|\d+ looks", checked(browser.get(address))), address
    assert "been scored on its test pictures" in checked(browser.get(f"/models/{furnished.model}"))
    for address in (f"runs/{furnished.done}", f"models/{furnished.model}"):
        assert browser.get(f"/api/v1/{address}").json()["looks"] >= 1


@pytest.mark.parametrize("form", [{"name": " "}, {"name": "a\x01"}, {"tags": "x" * 81}, {"notes": "n" * 20_001}])
def test_labels_that_cannot_be_kept_are_refused_with_a_sentence(
    browser: TestClient, furnished: Furnished, form: dict[str, str]
) -> None:
    assert "Received" in checked(browser.post(f"/runs/{furnished.failed}/labels", data=form), 422)


@pytest.mark.parametrize(("kind", "row"), [("run", "cancelled"), ("model", "model")])
def test_what_was_deleted_is_gone_from_lists_and_comes_back(
    browser: TestClient, furnished: Furnished, kind: str, row: str
) -> None:
    address = f"/{kind}s/{getattr(furnished, row)}"
    assert "For a day this can be undone" in checked(browser.get(f"{address}/delete"))
    after = browser.post(f"{address}/delete").headers["location"]
    text = checked(browser.get(after))
    assert f'href="{address}"' not in text
    assert f'action="{address}/restore"' in text
    checked(browser.get(address), 404)
    assert browser.get(f"/api/v1{address}").status_code == 404
    assert browser.post(f"{address}/restore").headers["location"] == address
    checked(browser.get(address))


def test_after_a_day_the_bin_is_emptied(browser: TestClient, furnished: Furnished) -> None:
    browser.post(f"/runs/{furnished.failed}/delete")
    database, storage = open_database(furnished.settings), open_storage(furnished.settings)
    with database.write() as session:
        empty_bin(session, storage, utc_now() - timedelta(days=1))
        assert session.get(Run, furnished.failed) is not None
        empty_bin(session, storage, utc_now())
        session.expire_all()
        assert session.get(Run, furnished.failed) is None
        assert session.get(TrainedModel, furnished.model) is not None
    database.close()
    checked(browser.post(f"/runs/{furnished.failed}/restore"), 404)


def test_runs_are_a_table_for_spreadsheets_with_the_filters_of_the_list(
    browser: TestClient, furnished: Furnished
) -> None:
    link = re.search(r'href="(/api/v1/runs\?[^"]*format=csv)"', browser.get("/runs?status=succeeded&sort=name").text)
    assert link
    answer = browser.get(link[1].replace("&amp;", "&"))
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["status"] for row in rows] == ["succeeded"] * 3
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    done = next(row for row in rows if row["id"] == furnished.done)
    assert float(done["test_accuracy_low"]) < float(done["test_accuracy"]) < float(done["test_accuracy_high"])
    assert done["seed"] == "0"


@pytest.mark.parametrize("sort", ["test_macro_f1", "-test_loss", "validation_accuracy", "-test_accuracy", "-name"])
def test_runs_are_sorted_by_any_score(browser: TestClient, sort: str) -> None:
    checked(browser.get(f"/runs?sort={sort}"))
    items = browser.get(f"/api/v1/runs?sort={sort}&status=succeeded").json()["items"]
    assert len(items) == 3


def test_runs_are_sorted_by_any_setting_which_is_then_shown(browser: TestClient, furnished: Furnished) -> None:
    text = checked(browser.get("/runs"))
    for value in ("-config.frozen.optimizer.learning_rate", "config.seed", "summary.test_ece"):
        assert f'<option value="{value}">' in text
    sorted_text = checked(browser.get("/runs?sort=-config.batch_size"))
    assert '<option value="-config.batch_size" selected>' in sorted_text
    chosen = checked(browser.get("/runs?sort=config.select"))
    assert "lower validation loss" in chosen, "a choice is said in the words of the form"
    assert ">validation_loss<" not in chosen
    batch = browser.get(f"/api/v1/runs/{furnished.done}").json()["config"]["batch_size"]
    assert f'batch size <span class="num strong">{batch}</span>' in sorted_text


def test_a_long_list_is_read_forth_and_back(browser: TestClient, furnished: Furnished) -> None:
    browser.post("/runs", data={"version_id": furnished.version, "preset": "quick", "repeats": "40", "name": "many"})
    browser.post("/runs", data={"version_id": furnished.version, "preset": "quick", "repeats": "30", "name": "many"})

    def page(address: str) -> tuple[list[str], str | None, str | None]:
        text = checked(browser.get(address))
        links = [re.search(rf'href="([^"]*)" rel="{way}"', text) for way in ("prev", "next")]
        names = re.findall(r'<th scope="row"><a href="/runs/([^"]+)"', text)
        back, forth = (link[1].replace("&amp;", "&") if link else None for link in links)
        return names, back, forth

    seen, address = [], "/runs?search=many&sort=name"
    ways: list[str | None] = []
    while address:
        names, back, following = page(address)
        seen.append(names)
        ways.append(back)
        last, address = address, following or ""
    assert [len(names) for names in seen] == [25, 25, 20]
    assert len({name for names in seen for name in names}) == 70
    assert ways[0] is None
    names, back, _ = page(last)
    for expected in reversed(seen[:-1]):
        assert back
        names, back, _ = page(back)
        assert names == expected
    assert back is None
