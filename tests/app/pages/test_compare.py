from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from app.pages.compare import Column, sentence_of
from app.settings_differences import differences
from core.comparison import Paired
from core.presets import PRESETS
from core.tables import Run
from core.training_config import merged
from tests.app.pages.furnished import Furnished, furnish
from tests.app.test_templates import checked, visitor


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Furnished:
    return furnish(tmp_path_factory.mktemp("compared"), database_url=database_url)


@pytest.fixture(scope="module")
def browser(furnished: Furnished) -> Iterator[TestClient]:
    with visitor(furnished.settings, furnished.cookie) as client:
        yield client


def run(preset: str, **changes: object) -> Run:
    return Run(config=merged(PRESETS[preset].config.model_dump(mode="json"), changes), dataset_title="Fruit, version 1")


def test_runs_on_the_same_test_pictures_are_ranked_with_the_pictures_that_decide(
    browser: TestClient, furnished: Furnished
) -> None:
    text = checked(browser.get(f"/runs/compare?id={furnished.done}&id={furnished.quick}"))
    assert "B is behind A" in text
    assert "Only A is right" in text
    assert "McNemar" in text
    assert "Not ranked" not in text
    answer = browser.get(f"/api/v1/runs/compare?id={furnished.done}&id={furnished.quick}").json()
    (against,) = answer["against_first"]
    assert (answer["same_test"], against["verdict"], against["id"]) == (True, "behind", furnished.quick)
    assert against["lost"] > against["gained"]
    assert against["p_value"] < 0.05


def test_runs_on_other_test_pictures_are_not_ranked(browser: TestClient, furnished: Furnished) -> None:
    text = checked(browser.get(f"/runs/compare?id={furnished.done}&id={furnished.elsewhere}"))
    assert "Not ranked" in text
    assert "Against A" not in text
    assert "Only A is right" not in text
    answer = browser.get(f"/api/v1/runs/compare?id={furnished.done}&id={furnished.elsewhere}").json()
    assert (answer["same_test"], answer["against_first"]) == (False, [])


@pytest.mark.parametrize("count", [0, 1, 4])
def test_two_or_three_runs_are_compared(browser: TestClient, furnished: Furnished, count: int) -> None:
    ids = [furnished.done, furnished.quick, furnished.running, furnished.failed][:count]
    answer = browser.get("/runs/compare?" + "&".join(f"id={one}" for one in ids))
    assert f"Choose two or three runs to compare. Received: {count}." in checked(answer, 422)


def test_a_run_of_nobody_is_not_found(browser: TestClient, furnished: Furnished) -> None:
    assert "nothing" in checked(browser.get(f"/runs/compare?id={furnished.done}&id=nothing"), 404)


def test_only_what_differs_is_listed_in_the_words_of_the_form() -> None:
    found, same = differences([run("standard"), run("standard", seed=7, augmentation={"horizontal_flip": False})])
    assert [(one.name, one.values) for one in found] == [
        ("Mirror, left and right", ["yes", "no"]),
        ("Seed", ["0", "7"]),
    ]
    assert same > 20


def test_a_phase_that_only_one_run_has_is_one_line() -> None:
    found, _ = differences([run("standard"), run("quick")])
    assert [(one.name, one.kind, one.values) for one in found] == [
        ("Which phase becomes the model", "", ["lower validation loss", "higher validation accuracy"]),
        ("Fine-tune phase", "fine_tune", ["6 epochs", "none"]),
    ]


def test_a_setting_of_a_phase_names_its_phase() -> None:
    phases = PRESETS["standard"].config.model_dump(mode="json")["phases"]
    phases[1]["epochs"] = 3
    found, _ = differences([run("standard"), run("standard", phases=phases)])
    assert [(one.name, one.values[1]) for one in found] == [("Fine-tune phase: epochs", "3")]


def test_a_tie_and_a_missing_answer_are_said_as_such() -> None:
    first = Column("A", None, [], None, None)  # type: ignore[arg-type]
    tie = Column("B", None, [], None, Paired(9, 14, 513, 0.4))  # type: ignore[arg-type]
    even = Column("B", None, [], None, Paired(4, 4, 513, 1.0))  # type: ignore[arg-type]
    running = Column("C", None, [], None, None)  # type: ignore[arg-type]
    said = sentence_of([first, tie, running], same_test=True)
    assert said.startswith("A and B are a tie: the difference of 1.0 points is within chance")
    assert "C cannot be compared with A" in said
    assert "neither has more pictures right" in sentence_of([first, even], same_test=True)
    assert sentence_of([first, tie], same_test=False).startswith("Not ranked")
