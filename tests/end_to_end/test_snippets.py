"""The snippets on a model's page do what they say, as shown: taken from the page, run, compared with the site's answer."""

import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.house import House, wait_until
from tests.worker.tiny_dataset import picture_bytes, queue_run

pytestmark = [pytest.mark.xdist_group("house"), pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Place:
    """A reader's folder with `lunch.jpg` and the unpacked download, the snippets by tab, and the site's answer."""

    folder: Path
    snippets: dict[str, str]
    answer: dict[str, Any]
    environment: dict[str, str]
    model_id: str

    def run(self, *command: str) -> str:
        """What the command prints."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def probabilities(self) -> list[float]:
        """What the site said."""
        return list(self.answer["probabilities"].values())


@pytest.fixture(scope="module")
def place(house: House, tmp_path_factory: pytest.TempPathFactory) -> Place:
    run_id = queue_run(house.database, house.settings)

    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = house.client.get(f"/api/v1/runs/{run_id}").raise_for_status().json()
        return run if run["status"] not in {"queued", "running"} else None

    model_id = wait_until(ended, 180, f"the run ends\n{house.log}")["model_id"]
    folder = tmp_path_factory.mktemp("reader")
    Image.open(io.BytesIO(picture_bytes(1, 101))).convert("RGB").save(folder / "lunch.jpg", quality=95)
    answer = house.client.post(
        f"/api/v1/models/{model_id}/predict", files={"images": (folder / "lunch.jpg").read_bytes()}
    ).raise_for_status()
    download = house.client.get(f"/api/v1/models/{model_id}/download/saved_model").raise_for_status().content
    with zipfile.ZipFile(io.BytesIO(download)) as archive:
        archive.extractall(folder)
    with httpx.Client(base_url=house.address, follow_redirects=True) as browser:
        browser.get(house.start_link()).raise_for_status()
        page = browser.get(f"/models/{model_id}").raise_for_status().text
    found = re.findall(r'<div id="use-(\w+)".*?<code>(.*?)</code></pre>', page, re.DOTALL)
    environment = {**os.environ, "THAW_TOKEN": house.token, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    snippets = {name: html.unescape(code) for name, code in found}
    return Place(folder, snippets, answer.json()["predictions"][0], environment, model_id)


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"\d+\.?\d*(?:e-?\d+)?", text)]


def test_every_tab_has_a_snippet(place: Place) -> None:
    assert list(place.snippets) == ["curl", "py", "tf", "keras", "onnx", "tflite", "serving"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(place: Place) -> None:
    answer = json.loads(place.run("bash", "-c", place.snippets["curl"]))
    assert answer["predictions"][0]["class_name"] == place.answer["class_name"]


def test_python_with_the_server(place: Place) -> None:
    assert place.run(sys.executable, "-c", place.snippets["py"]).strip() == place.answer["class_name"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf", "keras"])
def test_python_with_the_saved_model(place: Place, name: str) -> None:
    printed = place.run(sys.executable, "-c", place.snippets[name])
    np.testing.assert_allclose(numbers(printed), place.probabilities, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "tflite"])
def test_python_with_a_further_format(place: Place, house: House, name: str, tmp_path: Path) -> None:
    path = f"/api/v1/models/{place.model_id}"
    house.client.post(f"{path}/exports/{name}").raise_for_status()

    def built() -> dict[str, Any] | None:
        formats = house.client.get(path).raise_for_status().json()["formats"]
        found: dict[str, Any] = next(one for one in formats if one["format"] == name)
        return found if found["status"] in {"ready", "failed"} else None

    found = wait_until(built, 240, f"{name} is built\n{house.log}")
    assert found["status"] == "ready", found
    assert found["agreement"]["top1"] == 1.0
    download = house.client.get(f"{path}/download/{name}").raise_for_status().content
    with zipfile.ZipFile(io.BytesIO(download)) as archive:
        archive.extractall(tmp_path)
    shutil.copy(place.folder / "lunch.jpg", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", place.snippets[name]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(numbers(done.stdout), place.probabilities, atol=0.02)


@pytest.mark.slow
def test_what_is_sent_to_tf_serving_is_what_the_signature_takes(place: Place) -> None:
    import tensorflow as tf  # noqa: PLC0415 - only here

    # neither program is needed to see what they would be given
    stand_ins = 'tensorflow_model_server() { :; }; curl() { [ "$1 $2" = "-d @-" ] && cat; }\n'
    asked = json.loads(place.run("bash", "-c", stand_ins + place.snippets["serving"]))
    served = tf.saved_model.load(str(place.folder / "models" / "thaw" / "1"))
    (picture,) = (base64.b64decode(one["b64"], validate=True) for one in asked["instances"])
    assert picture == (place.folder / "lunch.jpg").read_bytes()
    signature = served.signatures[asked["signature_name"]]
    # Serving takes bare instances for the one input that a signature has, and an object for its outputs
    (name,) = signature.structured_input_signature[1]
    assert set(signature.structured_outputs) == {
        "known_score",
        "probabilities",
        "verdict",
    }  # by name: they have no order
    answer = signature(**{name: tf.constant([picture])})["probabilities"].numpy()[0]
    # decoded by TensorFlow, not by Pillow: a rounding apart
    np.testing.assert_allclose(answer, place.probabilities, atol=0.02)
