"""The site and the download answer alike: through web server, broker, prediction worker and the real trainer's SavedModel."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.end_to_end.house import House, wait_until
from tests.worker.tiny_dataset import picture_bytes, queue_run

pytestmark = [pytest.mark.xdist_group("house"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def model_id(house: House) -> str:
    """The model of a finished tiny run."""
    run_id = queue_run(house.database, house.settings)

    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = house.client.get(f"/api/v1/runs/{run_id}").raise_for_status().json()
        return run if run["status"] not in {"queued", "running"} else None

    run = wait_until(ended, 180, f"the run ends\n{house.log}")
    assert run["status"] == "succeeded", run
    found: str = run["model_id"]
    return found


def test_the_site_answers_as_the_downloaded_saved_model(house: House, model_id: str, tmp_path: Path) -> None:
    asked = [picture_bytes(label, 100 + label) for label in (0, 1, 0)]
    files = [("images", (f"{number}.png", data, "image/png")) for number, data in enumerate(asked)]
    files.append(("images", ("bad.png", b"no picture", "image/png")))
    answer = house.client.post(f"/api/v1/models/{model_id}/predict", files=files).raise_for_status().json()
    *rows, bad = answer["predictions"]
    assert bad["filename"] == "bad.png"
    assert "not a picture" in bad["error"]
    download = house.client.get(f"/api/v1/models/{model_id}/download/saved_model").raise_for_status().content
    with zipfile.ZipFile(io.BytesIO(download)) as archive:
        archive.extractall(tmp_path)
    served = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    verdicts = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))["verdicts"]
    for row, data in zip(rows, asked, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        expected = served(images=tf.constant(pixels[None]))
        probabilities = expected["probabilities"].numpy()[0]
        np.testing.assert_allclose(list(row["probabilities"].values()), probabilities, atol=1e-6, rtol=0)
        assert row["verdict"] == verdicts[int(expected["verdict"].numpy()[0])]


def test_a_picture_of_a_dataset_is_shown_large(house: House, model_id: str) -> None:
    run_id = house.client.get(f"/api/v1/models/{model_id}").json()["run_id"]
    version_id = house.client.get(f"/api/v1/runs/{run_id}").json()["dataset_version_id"]
    images = house.client.get(f"/api/v1/dataset-versions/{version_id}/images?limit=1").json()["items"]
    answer = house.client.get(images[0]["display_url"]).raise_for_status()
    shown = Image.open(io.BytesIO(answer.content))
    assert (answer.headers["content-type"], shown.format) == ("image/jpeg", "JPEG")
    original = Image.open(io.BytesIO(house.client.get(images[0]["original_url"]).content))
    assert shown.size == original.size, "a small picture is not blown up"


def test_many_pictures_at_once_are_answered_as_one_by_one(house: House, model_id: str) -> None:
    pictures = {f"{number}.png": picture_bytes(number % 2, 200 + number) for number in range(40)}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in pictures.items():
            archive.writestr(name, data)
        archive.writestr("broken.png", b"no picture")
    begun = house.client.post(
        f"/api/v1/models/{model_id}/batch-predictions?filename=many.zip",
        content=packed.getvalue(),
        headers={"Content-Type": "application/zip"},
    ).raise_for_status()

    def ended() -> dict[str, Any] | None:
        batch: dict[str, Any] = house.client.get(f"/api/v1/batch-predictions/{begun.json()['id']}").json()
        return batch if batch["status"] not in {"queued", "running"} else None

    batch = wait_until(ended, 120, f"the batch ends\n{house.log}")
    assert (batch["status"], batch["refused"]) == ("ready", 1), batch
    result = house.client.get(f"/api/v1/batch-predictions/{batch['id']}/result?format=jsonl").raise_for_status().text
    rows = {row["filename"]: row for row in map(json.loads, result.splitlines())}
    assert rows.keys() == {*pictures, "broken.png"}
    assert "not a picture" in rows["broken.png"]["error"]
    name = "7.png"
    files = [("images", (name, pictures[name], "image/png"))]
    alone = house.client.post(f"/api/v1/models/{model_id}/predict", files=files).raise_for_status().json()
    one = alone["predictions"][0]
    assert rows[name]["class_name"] == one["class_name"]
    np.testing.assert_allclose(
        list(rows[name]["probabilities"].values()), list(one["probabilities"].values()), atol=1e-5
    )


def test_a_further_format_is_built_and_offered_with_its_agreement(house: House, model_id: str) -> None:
    path = f"/api/v1/models/{model_id}"
    house.client.post(f"{path}/exports/onnx").raise_for_status()

    def ended() -> dict[str, Any] | None:
        formats = house.client.get(path).raise_for_status().json()["formats"]
        one: dict[str, Any] = next(row for row in formats if row["format"] == "onnx")
        return one if one["status"] in {"ready", "failed"} else None

    built = wait_until(ended, 180, f"the file is built\n{house.log}")
    assert built["status"] == "ready", built
    assert built["agreement"]["top1"] == 1.0
    assert built["agreement"]["max_abs_diff"] <= 1e-3
    download = house.client.get(f"{path}/download/onnx").raise_for_status().content
    assert len(download) == built["size_bytes"]
    with zipfile.ZipFile(io.BytesIO(download)) as archive:
        assert {"verify.py", "resize.py", "labels.json", "model_card.md"} <= set(archive.namelist())


def test_a_deleted_model_answers_no_more(house: House, model_id: str) -> None:
    assert house.client.delete(f"/api/v1/models/{model_id}").status_code == 204
    files = [("images", ("a.png", picture_bytes(0, 1), "image/png"))]
    assert house.client.post(f"/api/v1/models/{model_id}/predict", files=files).status_code == 404
