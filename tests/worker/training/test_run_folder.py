import json
from pathlib import Path

import pytest

from core.errors import ConfigInvalid, PicturesUnreadable
from tests.worker.training.run_folders import make_run_folder, read_images, write_images
from worker.training.run_folder import read_run_folder


def test_a_folder_made_by_hand_needs_only_config_class_names_and_images(tmp_path: Path) -> None:
    path = make_run_folder(tmp_path / "run")
    data = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({key: data[key] for key in ("config", "class_names", "images")}))
    folder = read_run_folder(path)
    assert folder.batch_size == 8
    assert folder.earlier_checkpoints == ()
    assert folder.decoded_cache.is_relative_to(path)
    assert len(folder.pictures.of_split("train")) == 24


@pytest.mark.parametrize("field", ["config", "class_names", "images"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = make_run_folder(tmp_path / "run")
    data = json.loads((path / "run.json").read_text())
    del data[field]
    (path / "run.json").write_text(json.dumps(data))
    with pytest.raises(ConfigInvalid, match=field):
        read_run_folder(path)


def test_no_run_json_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"no run\.json"):
        read_run_folder(tmp_path)


def test_a_split_without_pictures_is_refused(tmp_path: Path) -> None:
    path = make_run_folder(tmp_path / "run")
    write_images(path, [row for row in read_images(path) if row["split"] != "test"])
    with pytest.raises(PicturesUnreadable, match="test split"):
        read_run_folder(path)


def test_a_label_without_class_name_is_refused(tmp_path: Path) -> None:
    path = make_run_folder(tmp_path / "run")
    write_images(path, [{**row, "label": 3} for row in read_images(path)])
    with pytest.raises(PicturesUnreadable, match="Label 3"):
        read_run_folder(path)


def test_a_sigmoid_head_is_refused_for_three_classes(tmp_path: Path) -> None:
    path = make_run_folder(tmp_path / "run", {"head": {"binary": True}})
    with pytest.raises(ConfigInvalid, match="binary"):
        read_run_folder(path)


def test_the_fingerprint_changes_with_a_label_and_not_with_a_path(tmp_path: Path) -> None:
    path = make_run_folder(tmp_path / "run")
    before = read_run_folder(path).fingerprint
    rows = read_images(path)
    write_images(path, [{**row, "path": "/elsewhere"} for row in rows])
    assert read_run_folder(path).fingerprint == before
    rows[0]["label"] = 1
    write_images(path, rows)
    assert read_run_folder(path).fingerprint != before


@pytest.mark.parametrize(
    ("side", "settings", "most"),
    [
        (96, {}, 64),
        (224, {}, 64),
        (299, {}, 35),
        (512, {}, 12),
        (1024, {}, 3),
        (224, {"batch_size": 4}, 4),  # after an out-of-memory failure: half of eight
        (1024, {"batch_size": 1}, 1),
        (1024, {"batch_size": 8}, 3),
    ],
)
def test_larger_pictures_go_through_the_network_in_smaller_numbers(
    tmp_path: Path, side: int, settings: dict[str, int], most: int
) -> None:
    folder = read_run_folder(make_run_folder(tmp_path / "run", {"image_size": [side, side]}, **settings))
    assert folder.at_once(64) == most
    assert read_run_folder(make_run_folder(tmp_path / "other", {"image_size": [1024, 1024]})).at_once(16) == 1
