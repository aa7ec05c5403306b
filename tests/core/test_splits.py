"""Splits and doubles: stratified, seeded, groups whole, test never from validation."""

import hashlib
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UploadRejected
from core.splits import (
    NOBODY_SAID,
    TEST,
    TRAIN,
    VALIDATION,
    Double,
    Pictures,
    assign_splits,
    find_doubles,
)

N = NOBODY_SAID


def make(
    labels: Sequence[int],
    given: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    settled: Sequence[bool] | None = None,
    contents: Sequence[object] | None = None,
) -> Pictures:
    """Pictures with different bytes, unless `contents` says which are the same."""
    size = len(labels)
    names = range(size) if contents is None else contents
    return Pictures(
        np.array([hashlib.sha256(str(name).encode()).digest() for name in names], "S32"),
        np.array(labels, np.int64),
        np.array([N] * size if given is None else given, np.int64),
        np.array([-1] * size if groups is None else groups, np.int64),
        np.array([False] * size if settled is None else settled, np.bool_),
    )


def counts(pictures: Pictures, splits: np.ndarray, label: int) -> list[int]:
    """[train, validation, test] of one class."""
    return np.bincount(splits[pictures.labels == label], minlength=3).tolist()


NAMES = ["roses", "tulips", "lilies"]


def test_without_any_split_it_is_70_15_15_class_by_class() -> None:
    pictures = make([0] * 100 + [1] * 20)
    assigned = assign_splits(pictures, NAMES)
    assert counts(pictures, assigned.splits, 0) == [70, 15, 15]
    assert counts(pictures, assigned.splits, 1) == [14, 3, 3]
    assert "70/15/15" in assigned.notes[0]


@pytest.mark.parametrize("size", [3, 4, 5, 6, 7, 10])
def test_a_tiny_class_has_a_picture_in_each_split(size: int) -> None:
    pictures = make([0] * size + [1] * 50)
    assert min(counts(pictures, assign_splits(pictures, NAMES).splits, 0)) >= 1


def test_the_same_seed_gives_the_same_splits_whatever_the_order() -> None:
    labels, size = [0] * 40 + [1] * 40, 80
    order = np.random.default_rng(1).permutation(size)
    first = assign_splits(make(labels), NAMES, seed=3).splits
    second = assign_splits(make([labels[i] for i in order], contents=order.tolist()), NAMES, seed=3).splits
    np.testing.assert_array_equal(first[order], second)
    assert (assign_splits(make(labels), NAMES, seed=4).splits != first).any()


def test_given_splits_stay() -> None:
    given_splits = ([TRAIN] * 6 + [VALIDATION] * 2 + [TEST] * 2) * 2
    pictures = make([0] * 10 + [1] * 10, given_splits)
    assigned = assign_splits(pictures, NAMES)
    assert assigned.splits.tolist() == given_splits
    assert assigned.notes == []


def test_without_test_15_percent_of_train_becomes_test_and_none_of_validation() -> None:
    given_splits = ([TRAIN] * 100 + [VALIDATION] * 20) * 2
    pictures = make([0] * 120 + [1] * 120, given_splits)
    assigned = assign_splits(pictures, NAMES)
    assert counts(pictures, assigned.splits, 0) == [85, 20, 15]
    was_validation = np.array(given_splits) == VALIDATION
    assert (assigned.splits[was_validation] == VALIDATION).all()
    assert assigned.notes == ["No test pictures were given: 15 % of train (30 pictures), class by class, became test."]


def test_without_validation_15_percent_of_train_becomes_validation() -> None:
    pictures = make([0] * 120 + [1] * 120, ([TRAIN] * 100 + [TEST] * 20) * 2)
    assigned = assign_splits(pictures, NAMES)
    assert counts(pictures, assigned.splits, 0) == [85, 15, 20]
    assert "validation" in assigned.notes[0]


def test_with_train_alone_both_shares_are_of_the_whole() -> None:
    pictures = make([0] * 100 + [1] * 100, [TRAIN] * 200)
    assert counts(pictures, assign_splits(pictures, NAMES).splits, 0) == [70, 15, 15]


def test_one_class_without_test_gives_of_its_own_train_and_is_named() -> None:
    pictures = make([0] * 20 + [1] * 20, [TRAIN] * 10 + [VALIDATION] * 5 + [TEST] * 5 + [TRAIN] * 15 + [VALIDATION] * 5)
    assigned = assign_splits(pictures, NAMES)
    assert counts(pictures, assigned.splits, 0) == [10, 5, 5]
    assert counts(pictures, assigned.splits, 1) == [13, 5, 2]
    assert assigned.notes == [
        '1 classes had no test pictures ("tulips"): 15 % of their train (2 pictures) became test.'
    ]


def test_pictures_without_a_split_beside_others_go_to_train() -> None:
    pictures = make([0] * 10 + [1] * 10, ([TEST] * 2 + [VALIDATION] * 2 + [N] * 6) * 2)
    assigned = assign_splits(pictures, NAMES)
    assert counts(pictures, assigned.splits, 0) == [6, 2, 2]
    assert "went to train" in assigned.notes[0]


def test_a_class_without_train_is_rejected_by_name() -> None:
    pictures = make([0] * 10 + [1] * 4, [TRAIN] * 10 + [TEST] * 4)
    with pytest.raises(UploadRejected, match='"tulips" has no train'):
        assign_splits(pictures, NAMES)


def sides(pictures: Pictures, splits: np.ndarray) -> dict[int, set[int]]:
    """The splits in which each group is."""
    return {int(g): set(splits[pictures.groups == g].tolist()) for g in np.unique(pictures.groups) if g >= 0}


def test_groups_stay_whole_and_the_shares_are_near() -> None:
    random = np.random.default_rng(0)
    pictures = make(random.integers(0, 3, 3000).tolist(), groups=random.integers(0, 300, 3000).tolist())
    splits = assign_splits(pictures, NAMES).splits
    assert all(len(where) == 1 for where in sides(pictures, splits).values())
    shares = np.bincount(splits, minlength=3) / 3000
    np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.02)
    for label in range(3):
        np.testing.assert_allclose(np.array(counts(pictures, splits, label)) / 1000, [0.7, 0.15, 0.15], atol=0.06)


def test_three_groups_are_enough_for_a_class() -> None:
    pictures = make([0] * 9 + [1] * 30, groups=[0, 0, 0, 1, 1, 1, 2, 2, 2] + [-1] * 30)
    splits = assign_splits(pictures, NAMES).splits
    assert counts(pictures, splits, 0) == [3, 3, 3]


def test_two_groups_are_too_few_and_the_class_is_named() -> None:
    pictures = make([0] * 9 + [1] * 30, groups=[0] * 5 + [1] * 4 + [-1] * 30)
    with pytest.raises(UploadRejected, match=r'"roses".*2 groups'):
        assign_splits(pictures, NAMES)


def test_a_group_given_to_two_splits_goes_where_most_of_it_is() -> None:
    given_splits = [TRAIN, TRAIN, TEST] + ([TRAIN] * 4 + [VALIDATION] * 3 + [TEST] * 3) * 2
    pictures = make([0] * 3 + [0] * 10 + [1] * 10, given_splits, groups=[7, 7, 7] + [-1] * 20)
    assigned = assign_splits(pictures, NAMES)
    assert assigned.splits[:3].tolist() == [TRAIN] * 3
    assert "1 pictures changed split" in assigned.notes[0]


def test_test_taken_from_train_keeps_groups_whole() -> None:
    pictures = make([0] * 60 + [1] * 60, ([TRAIN] * 50 + [VALIDATION] * 10) * 2, groups=[i // 5 for i in range(120)])
    splits = assign_splits(pictures, NAMES).splits
    assert all(len(where) == 1 for where in sides(pictures, splits).values())
    assert min(counts(pictures, splits, 0)) >= 5


def test_old_pictures_keep_their_split_for_life() -> None:
    old = [TRAIN] * 7 + [VALIDATION] + [TEST] * 2
    pictures = make([0] * 10 + [1] * 10 + [0] * 20 + [1] * 20, old * 2 + [N] * 40, settled=[True] * 20 + [False] * 40)
    assigned = assign_splits(pictures, NAMES)
    assert assigned.splits[:20].tolist() == old * 2
    new = pictures.only(np.arange(60) >= 20)
    assert counts(new, assigned.splits[20:], 0) == [14, 3, 3]
    assert assigned.notes[0].startswith("No splits were given to the rest: 40 pictures were split 70/15/15 ")
    assert assigned.notes[0].endswith(" The others keep theirs."), "they were there before, or a manifest keeps them"


def test_a_single_new_picture_of_an_old_class_goes_to_train() -> None:
    old = ([TRAIN] * 4 + [VALIDATION, TEST]) * 2
    pictures = make([0] * 6 + [1] * 6 + [0], [*old, N], settled=[True] * 12 + [False])
    assert assign_splits(pictures, NAMES).splits[-1] == TRAIN


def test_a_new_picture_follows_the_old_ones_of_its_group() -> None:
    old = ([TRAIN] * 4 + [VALIDATION, TEST]) * 2
    pictures = make([0] * 6 + [1] * 6 + [0], [*old, N], [-1] * 5 + [5] + [-1] * 6 + [5], [True] * 12 + [False])
    assert assign_splits(pictures, NAMES).splits[-1] == TEST


# doubles


def test_different_bytes_are_no_doubles() -> None:
    assert find_doubles(make([0] * 10)) == []


def test_the_same_bytes_under_one_class_are_kept_once() -> None:
    assert find_doubles(make([0, 0, 0, 1], contents="aabc")) == [Double(1, 0, "duplicate")]


def test_the_same_bytes_in_train_and_test_are_kept_in_test() -> None:
    assert find_doubles(make([0, 0], [TRAIN, TEST], contents="aa")) == [Double(0, 1, "leak")]
    assert find_doubles(make([0, 0], [VALIDATION, TRAIN], contents="aa")) == [Double(1, 0, "leak")]


def test_a_given_split_wins_over_none_without_a_leak() -> None:
    assert find_doubles(make([0, 0], [N, TRAIN], contents="aa")) == [Double(0, 1, "duplicate")]


def test_the_same_bytes_under_two_classes_are_kept_under_neither() -> None:
    assert find_doubles(make([0, 1, 0], contents="aaa")) == [
        Double(0, 1, "label_conflict"),
        Double(1, 0, "label_conflict"),
        Double(2, 1, "label_conflict"),
    ]


def test_an_old_picture_stays_and_the_new_copy_goes() -> None:
    settled = [True, False, False]
    assert find_doubles(make([0, 0, 1], [TRAIN, TEST, N], settled=settled, contents="aaa")) == [
        Double(1, 0, "leak"),
        Double(2, 0, "label_conflict"),
    ]


def test_a_digest_that_ends_in_zeros_is_no_double_of_another() -> None:
    pictures = make([0, 0, 0])
    pictures.digests[:] = [b"a" * 31 + b"\x00", b"a" * 30 + b"\x00\x00", b"a" * 31 + b"\x00"]
    assert find_doubles(pictures) == [Double(2, 0, "duplicate")]


def test_a_million_pictures_take_seconds() -> None:
    random = np.random.default_rng(0)
    size = 1_000_000
    pictures = Pictures(
        random.integers(0, 256, (size, 32), np.uint8).view("S32")[:, 0],
        random.integers(0, 1000, size),
        np.full(size, N),
        np.where(random.random(size) < 0.1, random.integers(0, 20_000, size), -1),
        np.zeros(size, np.bool_),
    )
    began = time.process_time()
    assert len(find_doubles(pictures)) == 0
    splits = assign_splits(pictures, [str(number) for number in range(1000)]).splits
    assert time.process_time() - began < 30
    np.testing.assert_allclose(np.bincount(splits) / size, [0.7, 0.15, 0.15], atol=0.01)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from([N, TRAIN, VALIDATION, TEST]), st.sampled_from([-1, -1, -1, 0, 1, 2, 3])
        ),
        min_size=1,
        max_size=60,
    )
)
def test_whatever_is_given_groups_are_whole_and_validation_is_never_robbed(rows: list[tuple[int, int, int]]) -> None:
    labels, given_splits, groups = (list(column) for column in zip(*rows, strict=True))
    pictures = make(labels, given_splits, groups)
    try:
        splits = assign_splits(pictures, NAMES).splits
    except UploadRejected:
        return
    assert ((splits >= 0) & (splits <= 2)).all()
    assert all(len(where) == 1 for where in sides(pictures, splits).values())
    alone = pictures.groups < 0
    for split in (VALIDATION, TEST):
        assert (splits[alone & (pictures.given == split)] == split).all()
    for label in set(labels):
        assert min(counts(pictures, splits, label)) >= 1
