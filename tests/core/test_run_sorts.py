"""Runs sorted by what stands in their JSON columns: every setting, page by page, on a real database."""

import pytest
from sqlalchemy import update

from core import catalog
from core.catalog import Wish
from core.database import Database
from core.run_sorts import run_sorts
from core.tables import Run
from tests.core.test_catalog import _seven_runs, _walk

pytestmark = pytest.mark.both_databases


@pytest.fixture
def owner(database: Database) -> str:
    """Somebody with seven runs of different settings."""
    owner_id = _seven_runs(database)
    with database.write() as session:
        for place, run in enumerate(session.query(Run).order_by(Run.id)):
            config = {
                "backbone": f"backbone_{place % 3}",
                "seed": 10 - place,
                "image_size": [place * 32, 1],
                "head": {"dropout": 0.1 * (place % 2), "binary": place > 3},
                "phases": [{"kind": "frozen", "epochs": place + 1}, {"kind": "fine_tune", "epochs": 50 - place}][
                    place % 2 :
                ],
            }
            summary = {} if place == 6 else {"test_ece": place / 10}
            session.execute(update(Run).where(Run.id == run.id).values(config=config, summary=summary))
    return owner_id


@pytest.mark.parametrize("sort", sorted(run_sorts())[::12])
def test_every_setting_and_score_sorts_and_pages(database: Database, owner: str, sort: str) -> None:
    for direction in ("", "-"):
        whole = [run.id for run in _walk(database, owner, direction + sort, 200)]
        assert len(set(whole)) == 7
        assert [run.id for run in _walk(database, owner, direction + sort, 2)] == whole


def test_numbers_are_sorted_as_numbers_and_missing_ones_come_last(database: Database, owner: str) -> None:
    def values(sort: str, *path: object) -> list[object]:
        found = []
        for run in _walk(database, owner, sort, 3):
            value: object = {"config": run.config, "summary": run.summary}
            for name in path:
                value = value.get(name) if isinstance(value, dict) else value[name]  # type: ignore[index]
            found.append(value)
        return found

    assert values("config.seed", "config", "seed") == [4, 5, 6, 7, 8, 9, 10]
    assert values("-config.image_size", "config", "image_size", 0) == [192, 160, 128, 96, 64, 32, 0]
    assert values("-summary.test_ece", "summary", "test_ece") == [0.5, 0.4, 0.3, 0.2, 0.1, 0.0, None]
    assert values("config.head.binary", "config", "head", "binary") == [False] * 4 + [True] * 3


def test_a_setting_of_a_phase_is_that_of_the_first_phase_of_its_kind(database: Database, owner: str) -> None:
    with database.read() as session:
        page = catalog.list_runs(session, owner, Wish(sort="config.frozen.epochs"))
    epochs = [run.config["phases"][0]["epochs"] for run in page.items if run.config["phases"][0]["kind"] == "frozen"]
    assert epochs == [1, 3, 5, 7]
    assert [run.config["phases"][0]["kind"] for run in page.items[4:]] == ["fine_tune"] * 3
