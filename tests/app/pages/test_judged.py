import pytest

from app.pages import judged
from app.pages.cards import score_of
from app.wording import wilson
from core.errors import InputInvalid


def score(kind: str, right: int, count: int) -> judged.PhaseScore:
    return judged.PhaseScore(kind, right / count, wilson(right, count), right, 0.1, chosen=True)


@pytest.mark.parametrize(
    ("right", "comparison", "head"),
    [
        ((478, 495), {"gained": 24, "lost": 7, "p_value": 0.003}, "Fine-tuning helped"),
        ((478, 450), {"gained": 6, "lost": 34, "p_value": 0.0003}, "Fine-tuning hurt"),
        ((478, 481), {"gained": 11, "lost": 8, "p_value": 0.65}, "No difference shown"),
    ],
)
def test_the_verdict_is_what_the_test_pictures_show(
    right: tuple[int, int], comparison: dict[str, float], head: str
) -> None:
    scores = [score("frozen", right[0], 513), score("fine_tune", right[1], 513)]
    assert judged.verdict_of(scores, comparison, 513).head == head


def test_few_pictures_are_said_to_be_few() -> None:
    scores = [score("frozen", 8, 12), score("fine_tune", 9, 12)]
    verdict = judged.verdict_of(scores, {"gained": 2, "lost": 1, "p_value": 1.0}, 12)
    assert verdict.head == "Too few test pictures to tell"


def test_one_phase_has_nothing_to_be_compared_with() -> None:
    verdict = judged.verdict_of([score("frozen", 9, 10)], None, 10)
    assert (verdict.head, verdict.p_value) == ("A head on the frozen backbone", None)


def test_a_matrix_is_hotter_where_more_of_a_class_goes_wrong() -> None:
    rows = judged.matrix_rows(["a", "b"], [[99, 1], [60, 40]])
    assert [cell.heat for cell in rows[0].cells] == [4, 1]
    assert rows[1].cells[0].heat == 4
    assert rows[0].cells[0].right
    assert rows[1].total == 100


def test_of_many_classes_the_most_confused_are_shown() -> None:
    counts = [[5 if row == column else 0 for column in range(6)] for row in range(6)]
    counts[4][2] = 3
    rows = judged.matrix_rows(list("abcdef"), counts, most=2)
    assert [row.class_name for row in rows] == ["c", "e"]
    assert [cell.label for cell in rows[0].cells] == [2, 4]
    assert rows[1].total == 8


def test_pairs_are_ranked_by_how_often_they_are_confused() -> None:
    found = judged.confusions(["a", "b", "c"], [[1, 2, 0], [0, 5, 3], [0, 0, 1]])
    assert [(one.true_name, one.predicted_name, one.count) for one in found] == [("b", "c", 3), ("a", "b", 2)]
    assert found[1].share == pytest.approx(2 / 3)


def test_a_class_that_was_never_said_has_no_precision_and_one_without_pictures_no_recall() -> None:
    rows = {row.class_name: row for row in judged.class_scores(["a", "b", "c"], [[3, 0, 1], [2, 0, 0], [0, 0, 0]])}
    assert rows["a"].precision == pytest.approx(3 / 5)
    assert rows["a"].recall == pytest.approx(3 / 4)
    assert rows["b"].precision is None
    assert rows["b"].missed == 2
    assert rows["c"].recall is None
    assert rows["c"].false == 1


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("recall", "abc"),
        ("-recall", "bac"),
        ("-class_name", "cba"),
        ("support", "cba"),
        ("precision", "cab"),
        ("-precision", "abc"),
        ("-false", "cab"),
        ("-missed", "abc"),
    ],
)
def test_classes_are_sorted_by_any_column_with_unknown_values_last(sort: str, order: str) -> None:
    # recall: a 3/4, b 1, c has no pictures; precision: a 1, b 1, c 0
    rows = judged.class_scores(["a", "b", "c"], [[3, 0, 1], [0, 2, 0], [0, 0, 0]])
    assert "".join(row.class_name for row in judged.sorted_classes(rows, sort)) == order


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(InputInvalid, match=r"one of class_name, .* Received: 'colour'"):
        judged.sorted_classes([], "colour")


@pytest.mark.parametrize(("right", "count"), [(495, 513), (7, 12), (6, 12), (50, 100), (12, 12), (0, 9), (499, 1000)])
def test_the_number_of_test_pictures_is_read_off_the_interval(right: int, count: int) -> None:
    summary = {"test_accuracy": right / count, "test_accuracy_interval": list(wilson(right, count))}
    found = score_of(summary, None)
    assert found is not None
    assert found.count == pytest.approx(count, abs=1)
    assert score_of({}, None) is None
