"""The site and the download answer alike: through web server, broker, prediction worker and the real trainer's SavedModel."""

import io
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
    for row, data in zip(rows, asked, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        expected = served(images=tf.constant(pixels[None]))["probabilities"].numpy()[0]
        np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=1e-6, rtol=0)
        assert row["verdict"] == ("confident" if expected.max() >= 0.5 else "unsure")


def test_a_deleted_model_answers_no_more(house: House, model_id: str) -> None:
    assert house.client.delete(f"/api/v1/models/{model_id}").status_code == 204
    files = [("images", ("a.png", picture_bytes(0, 1), "image/png"))]
    assert house.client.post(f"/api/v1/models/{model_id}/predict", files=files).status_code == 404
