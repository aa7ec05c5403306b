import pytest
from scipy.stats import binomtest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.comparison import SIGNIFICANT, Paired, exact_mcnemar, only_right, paired
from core.database import Database
from core.tables import NearPair, Prediction, Run, RunStatus, Split, VersionImage
from tests.app.people import finished_run
from tests.core.rows import person, version

pytestmark = pytest.mark.both_databases


@pytest.mark.parametrize("counts", [(0, 1), (5, 5), (9, 14), (7, 24), (0, 8), (31, 6), (400, 460)])
def test_the_exact_test_is_the_binomial_one(counts: tuple[int, int]) -> None:
    gained, lost = counts
    assert exact_mcnemar(gained, lost) == pytest.approx(binomtest(gained, gained + lost, 0.5).pvalue)
    assert exact_mcnemar(lost, gained) == exact_mcnemar(gained, lost)


def test_without_a_difference_there_is_nothing_to_show() -> None:
    assert exact_mcnemar(0, 0) == 1


def test_thousands_of_pictures_do_not_overflow() -> None:
    assert 0 <= exact_mcnemar(2_000, 9_000) < 1e-300
    assert exact_mcnemar(5_000, 5_010) > 0.9


def test_a_tie_is_called_a_tie() -> None:
    assert Paired(9, 14, 513, 0.40).verdict == "tie"
    assert Paired(9, 14, 513, SIGNIFICANT).verdict == "tie"
    assert Paired(24, 7, 513, 0.003).verdict == "ahead"
    assert Paired(7, 24, 513, 0.003).verdict == "behind"


def answered(session: Session, right: str, fingerprint: str = "t" * 64) -> Run:
    """A finished run that has the pictures right whose letter is x."""
    run = finished_run(version(session, person(session)), test_fingerprint=fingerprint)
    session.add(run)
    session.flush()
    for number, letter in enumerate(right):
        said = 1 if letter == "x" else 0
        for split, answer in ((Split.TEST, said), (Split.VALIDATION, 1 - said)):
            values = {"true_label": 1, "predicted_label": answer, "confidence": 0.9, "probabilities": [0.1, 0.9]}
            true_probability = (0.9 if answer else 0.1) - number / 1000
            session.add(
                Prediction(
                    run_id=run.id, phase="frozen", split=split, image_id=f"picture {number}",
                    true_probability=true_probability, **values,
                )
            )  # fmt: skip
    session.flush()
    return run


def test_only_the_test_pictures_of_both_are_counted(database: Database) -> None:
    with database.write() as session:
        one, two = answered(session, "xxxx--"), answered(session, "x---x-")
        assert paired(session, one, two) == Paired(gained=1, lost=3, count=6, p_value=0.625)
        assert [found.image_id for found in only_right(session, one, two, 2)] == ["picture 3", "picture 2"]
        assert [found.image_id for found in only_right(session, two, one, 9)] == ["picture 4"]


def test_pictures_of_a_group_and_near_duplicates_share_one_vote(database: Database) -> None:
    with database.write() as session:
        one, two = answered(session, "---------xx"), answered(session, "xxxxxxxxx-x")
        two.dataset_version_id = one.dataset_version_id
        session.flush()
        assert paired(session, one, two) == Paired(9, 1, 11, exact_mcnemar(9, 1))
        taken = select(VersionImage.image_id).where(VersionImage.version_id == one.dataset_version_id)
        ids = list(session.scalars(taken.order_by(VersionImage.ordinal)))
        for number, image_id in enumerate(ids[:8]):
            renamed = update(Prediction).where(Prediction.image_id == f"picture {number}")
            session.execute(renamed.values(image_id=image_id))
        in_test = update(VersionImage).where(VersionImage.version_id == one.dataset_version_id)
        session.execute(in_test.values(split=Split.TEST))
        assert paired(session, one, two) == Paired(9, 1, 11, exact_mcnemar(9, 1))
        session.execute(in_test.where(VersionImage.image_id.in_(ids[:4])).values(group="film 1"))
        assert paired(session, one, two) == Paired(9, 1, 11, exact_mcnemar(6, 1))
        first, second = sorted(ids[3:5])
        session.add(NearPair(image_id=first, other_id=second, score=0.9))  # joins one more to the film
        session.flush()
        assert paired(session, one, two) == Paired(9, 1, 11, exact_mcnemar(5, 1))


def test_different_test_pictures_are_not_compared(database: Database) -> None:
    with database.write() as session:
        one, two = answered(session, "xx-"), answered(session, "x--", "u" * 64)
        assert paired(session, one, two) is None


def test_runs_without_all_the_answers_are_not_compared(database: Database) -> None:
    with database.write() as session:
        one, two, none = answered(session, "xx-"), answered(session, "x-"), answered(session, "")
        assert paired(session, one, two) is None
        assert paired(session, none, none) is None
        two.status = RunStatus.CANCELLED
        assert paired(session, one, two) is None
