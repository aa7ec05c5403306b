"""The nearest training pictures of a mistake are those with the most similar features."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.backbones import NEAR_BY, NEAR_BY_WEIGHTS
from core.presets import PRESETS
from tests.worker.training.run_folders import make_run_folder
from tests.worker.training.workplaces import Opened, open_run
from worker.training import neighbours as module
from worker.training.features import weights_hash
from worker.training.materials import plain_pooled, pooled
from worker.training.neighbours import MOST_ASKED, neighbours, spread_over, store_test
from worker.training.network import build_network


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return open_run(make_run_folder(tmp_path / "run")).run_phases()


def test_the_nearest_are_found_in_the_store_and_equal_a_plain_search(opened: Opened) -> None:
    work = opened.work
    before = work.store.computed
    wrong = work.positions("test")[[0, 5, 7]]
    found = neighbours(work, wrong.tolist(), stored=True)
    assert work.store.computed == before + 3  # those of the three; train's were there
    train = work.positions("train")
    model = plain_pooled(work).run
    features = [
        np.asarray(model(work.pictures.batch(one), np.zeros((len(one), 2), np.int32))) for one in (wrong, train)
    ]
    questions, known = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in features)
    ids = work.folder.pictures.ids
    assert found["pictures"] == len(train)
    for place, position in enumerate(wrong):
        nearest = found["nearest"][ids[position]]
        best = np.argsort(-(known @ questions[place]), kind="stable")[:3]
        assert [one[0] for one in nearest] == [ids[train[number]] for number in best]
        assert nearest[0][2] == pytest.approx((known @ questions[place]).max(), abs=2e-3)
        assert nearest[0][2] >= nearest[1][2] >= nearest[2][2]


def test_a_copy_of_a_training_picture_is_its_own_nearest(opened: Opened) -> None:
    train = opened.work.positions("train")
    found = neighbours(opened.work, [int(train[4])], stored=True)
    ids = opened.work.folder.pictures.ids
    ((nearest, *_),) = found["nearest"].values()
    assert nearest[0] == ids[train[4]]
    assert nearest[2] == pytest.approx(1.0, abs=1e-3)


def test_all_test_pictures_are_stored_where_near_duplicates_are_looked_for_by_the_backbone(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = opened.work
    before = work.store.computed
    store_test(work)
    assert work.store.computed == before, "nobody looks at the features of this backbone"
    monkeypatch.setattr(module, "NEAR_BY", work.config.backbone)
    store_test(work)
    assert work.store.computed == before, "nor at those by other weights of it"
    monkeypatch.setattr(module, "NEAR_BY_WEIGHTS", (plain_pooled(work).meaning["weights"],))
    store_test(work)
    assert work.store.computed == before + len(work.positions("test"))
    said = [event for event in opened.events if str(event.get("message", "")).startswith("Storing what")]
    assert {event["phase"] for event in said} == {"evaluate"}


def test_the_weights_whose_features_are_looked_at_are_those_of_imagenet() -> None:
    quick = PRESETS["quick"].config
    live = quick.model_copy(
        update={"phases": [phase.model_copy(update={"features": "live"}) for phase in quick.phases]}
    )
    found = [weights_hash(pooled(build_network(config, 3))) for config in (quick, live)]
    assert (quick.backbone, quick.weights) == (NEAR_BY, "imagenet")
    assert tuple(found) == NEAR_BY_WEIGHTS


def test_a_full_disk_costs_a_run_its_extras_and_nothing_else(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    work = opened.work
    monkeypatch.setattr(module, "NEAR_BY", work.config.backbone)
    monkeypatch.setattr(module, "NEAR_BY_WEIGHTS", (plain_pooled(work).meaning["weights"],))
    monkeypatch.setattr(work.store, "_folder", replace(work.folder, disk_reserve_bytes=2**60))
    store_test(work)
    assert neighbours(work, work.positions("test").tolist(), stored=True) == {"pictures": 0, "nearest": {}}
    said = [event["message"] for event in opened.events if event["event"] == "log"]
    assert [one.partition(".")[0] for one in said[-2:]] == [
        "Near duplicates in test are not looked for",
        "No similar training pictures are shown",
    ]
    assert all("The disk is full" in one for one in said[-2:])


def test_without_mistakes_there_is_nothing_to_look_for(opened: Opened) -> None:
    assert neighbours(opened.work, [], stored=True) == {"pictures": 0, "nearest": {}}


def test_the_work_is_bounded() -> None:
    drawn = spread_over(np.arange(5000), 1000)
    assert len(np.unique(drawn)) == 1000
    np.testing.assert_array_equal(drawn, spread_over(np.arange(5000), 1000))
    assert MOST_ASKED == 200
