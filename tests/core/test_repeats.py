import numpy as np
import pytest
from scipy.stats import t

from core.database import Database
from core.errors import NotFound
from core.repeats import find_group, spread
from core.runs import MOST_REPEATS
from tests.app.people import finished_run
from tests.core.rows import person, version


@pytest.mark.parametrize("count", [2, 3, 10, MOST_REPEATS])
def test_the_interval_is_students(count: int) -> None:
    values = np.random.default_rng(count).normal(0.8, 0.02, count).tolist()
    found = spread(values)
    low, high = t.interval(0.95, count - 1, np.mean(values), np.std(values, ddof=1) / np.sqrt(count))
    assert found.interval == pytest.approx((low, high), abs=1e-5)
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert (found.lowest, found.highest) == (min(values), max(values))


def test_one_run_has_a_mean_and_no_spread() -> None:
    found = spread([0.7])
    assert (found.mean, found.deviation, found.interval) == (0.7, None, None)


def test_an_interval_stays_within_what_an_accuracy_can_be() -> None:
    assert spread([0.99, 1.0]).interval == (pytest.approx(0.9315, abs=1e-3), 1.0)


@pytest.mark.both_databases
def test_a_group_is_that_of_its_owner_and_counts_what_is_scored(database: Database) -> None:
    with database.write() as session:
        ada, eve = person(session, "ada"), person(session, "eve")
        of_ada, of_eve, name = version(session, ada), version(session, eve, name="Other"), ada.id
        for one, score in ((of_ada, 0.5), (of_ada, 0.7), (of_ada, None), (of_eve, 0.1)):
            session.add(finished_run(one, group_id="g", test_accuracy=score))
    with database.read() as session:
        group = find_group(session, name, "g")
        assert (len(group.runs), group.accuracy.count) == (3, 2)
        assert group.accuracy.mean == pytest.approx(0.6)
        with pytest.raises(NotFound, match="no group"):
            find_group(session, "nobody", "g")
