"""Lists: every row once, in order, whatever the page size; wrong wishes are refused with a sentence."""

import pytest

from core import catalog, runs
from core.catalog import Wish
from core.database import Database
from core.errors import InputInvalid, NotFound
from core.tables import Run
from core.training_config import parse_config
from tests.core.rows import RememberingQueue, person, version

pytestmark = pytest.mark.both_databases

TINY = {"backbone": "tiny_cnn", "weights": "none", "image_size": [32, 32]}


def _seven_runs(database: Database) -> str:
    with database.write() as session:
        owner = person(session)
        frozen = version(session, owner)
        for number, accuracy in enumerate([0.5, None, 0.9, 0.9, 0.7, None, 0.1]):
            wish = runs.NewRun(parse_config(TINY), name=f"run {number % 3}")
            run = runs.create_runs(session, RememberingQueue(), frozen, wish)[0]  # type: ignore[arg-type]
            run.test_accuracy = accuracy
        return owner.id


def _walk(database: Database, owner_id: str, sort: str, limit: int) -> list[Run]:
    found: list[Run] = []
    cursor = None
    with database.read() as session:
        while True:
            page = catalog.list_runs(session, owner_id, Wish(limit=limit, cursor=cursor, sort=sort))
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "name", "-name", "test_accuracy", "-test_accuracy"])
@pytest.mark.parametrize("limit", [1, 3, 7])
def test_paging_shows_every_row_once_in_the_same_order_as_one_page(database: Database, sort: str, limit: int) -> None:
    owner_id = _seven_runs(database)
    whole = [run.id for run in _walk(database, owner_id, sort, 200)]
    assert len(set(whole)) == 7
    assert [run.id for run in _walk(database, owner_id, sort, limit)] == whole


def test_runs_without_a_score_come_last_in_both_directions(database: Database) -> None:
    owner_id = _seven_runs(database)
    rising = [run.test_accuracy for run in _walk(database, owner_id, "test_accuracy", 2)]
    falling = [run.test_accuracy for run in _walk(database, owner_id, "-test_accuracy", 2)]
    assert rising == [0.1, 0.5, 0.7, 0.9, 0.9, None, None]
    assert falling == [0.9, 0.9, 0.7, 0.5, 0.1, None, None]


def test_search_takes_percent_signs_as_they_are(database: Database) -> None:
    owner_id = _seven_runs(database)
    with database.read() as session:
        assert len(catalog.list_runs(session, owner_id, Wish(search="RUN 1")).items) == 2
        assert catalog.list_runs(session, owner_id, Wish(search="run%1")).items == []


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        (Wish(limit=0), "limit"),
        (Wish(limit=201), "limit"),
        (Wish(sort="colour"), "sort"),
        (Wish(cursor="rubbish"), "cursor"),
        (Wish(cursor="W10"), "cursor"),
        (Wish(cursor="WzFd"), "cursor"),  # [1], not the id of a row
        (Wish(cursor="WyJ4IiwgIngiXQ", sort="test_accuracy"), "cursor"),  # ["x", "x"]
    ],
)
def test_a_wrong_wish_is_refused_with_its_field(database: Database, wish: Wish, field: str) -> None:
    with database.read() as session, pytest.raises(InputInvalid) as refused:
        catalog.list_runs(session, "nobody", wish)
    assert refused.value.problems[0].field == field


def test_signs_that_postgresql_cannot_store_are_found_nowhere_and_break_nothing(database: Database) -> None:
    owner_id = _seven_runs(database)
    with database.read() as session:
        assert catalog.list_runs(session, owner_id, Wish(search="run\0")).items == []
        with pytest.raises(NotFound):
            runs.find_run(session, owner_id, "\0")


def test_a_list_shows_only_ones_own(database: Database) -> None:
    _seven_runs(database)
    with database.write() as session:
        other = person(session, "other")
        assert catalog.list_runs(session, other.id, Wish()).items == []
        assert catalog.unfinished(session, other.id) == ([], [])
